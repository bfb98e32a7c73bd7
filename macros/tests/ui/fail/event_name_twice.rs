use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.created", "order.made")]
    Created,
}

fn main() {}
