use retell::{Event, EventUnion};

#[derive(EventUnion)]
enum ShopEvent {
    Unit,
    Order(OrderCreated, UserRegistered),
    User { user: UserRegistered },
    Nothing(),
}

#[derive(Event)]
#[event("order.created")]
struct OrderCreated;

#[derive(Event)]
#[event("user.registered")]
struct UserRegistered;

fn main() {}
