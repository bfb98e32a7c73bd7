use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.created")]
    Created,
    #[event("order.closed")]
    Closed,
    #[event("order.created")]
    Made,
}

fn main() {}
