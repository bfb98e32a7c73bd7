use retell::{Event, EventUnion};

#[derive(Event)]
#[event(retired("order.placed", "order.created", "order.flagged", "order.flagged", ""))]
enum OrderEvent {
    #[event("order.placed", renamed_from = "order.created")]
    Placed,
}

#[derive(Event)]
#[event(retired = "user.gone")]
enum UserEvent {
    #[event("user.left", retired("user.gone"))]
    Left,
}

#[derive(Event)]
#[event("cart.emptied", retired("cart.filled"))]
struct Emptied;

#[derive(EventUnion)]
#[event(retired("cart.filled"))]
enum ShopEvent {
    Order(OrderEvent),
}

fn main() {}
