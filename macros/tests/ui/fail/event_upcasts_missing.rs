use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.created", version = 2)]
    Two,
    #[event("order.closed", version = 3, upcast(from_v1))]
    Three,
    #[event("order.noted", version = 5, upcast())]
    Five,
}

fn main() {}
