use retell::{Event, EventUnion};

#[derive(EventUnion)]
enum ShopEvent {
    #[event("order")]
    Order(OrderCreated),
    User(#[event("user")] UserRegistered),
}

#[derive(Event)]
#[event("order.created")]
struct OrderCreated;

#[derive(Event)]
#[event("user.registered")]
struct UserRegistered;

fn main() {}
