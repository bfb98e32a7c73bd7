use retell::{Event, EventUnion};

#[derive(EventUnion)]
enum ShopEvent<T> {
    Order(OrderCreated),
    User(T),
}

#[derive(Event)]
#[event("order.created")]
struct OrderCreated;

#[derive(Event)]
#[event("user.registered")]
struct UserRegistered;

fn main() {}
