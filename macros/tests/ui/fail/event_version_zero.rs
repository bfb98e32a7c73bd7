use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.created", version = 0)]
    Created,
}

fn main() {}
