use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("Order", version = 0, color = "red")]
    Created,
    Closed,
    #[event("order.noted", version = 3)]
    Noted(#[event] String),
}

fn main() {}
