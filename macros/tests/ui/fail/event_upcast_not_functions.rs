use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.created", version = 2, upcast("from_v1"))]
    Text,
    #[event("order.closed", version = 2, upcast = from_v1)]
    Assigned,
}

fn main() {}
