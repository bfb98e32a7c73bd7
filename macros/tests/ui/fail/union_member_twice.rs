use retell::{Event, EventUnion};

#[derive(EventUnion)]
enum ShopEvent {
    Order(OrderCreated),
    User(UserRegistered),
    Again(OrderCreated),
}

#[derive(Event)]
#[event("order.created")]
struct OrderCreated;

#[derive(Event)]
#[event("user.registered")]
struct UserRegistered;

fn main() {}
