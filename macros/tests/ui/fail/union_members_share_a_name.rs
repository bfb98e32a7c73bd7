use retell::{Event, EventUnion};

#[derive(EventUnion)]
enum ShopEvent {
    Order(OrderCreated),
    Made(OrderMade),
}

#[derive(Event)]
#[event("order.created")]
struct OrderMade;

#[derive(Event)]
#[event("order.created")]
struct OrderCreated;

#[derive(Event)]
#[event("user.registered")]
struct UserRegistered;

fn main() {}
