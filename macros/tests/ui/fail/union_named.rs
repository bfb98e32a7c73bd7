use retell::{Event, EventUnion};

#[derive(EventUnion)]
#[event("shop", codec = "json")]
enum ShopEvent {
    Order(OrderCreated),
    User(UserRegistered),
}

#[derive(Event)]
#[event("order.created")]
struct OrderCreated;

#[derive(Event)]
#[event("user.registered")]
struct UserRegistered;

fn main() {}
