use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.created")]
    #[event("order.made")]
    Created,
}

fn main() {}
