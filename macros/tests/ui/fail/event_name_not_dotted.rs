use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("Order.created")]
    Upper,
    #[event("order-created")]
    Dash,
    #[event("order..created")]
    TwoDots,
    #[event(".created")]
    FirstDot,
    #[event("order.")]
    LastDot,
    #[event("ördér")]
    Accent,
    #[event("order created")]
    Space,
}

fn main() {}
