use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.created", codec = "json", codec = "compact")]
    Created,
}

fn main() {}
