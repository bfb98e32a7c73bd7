use retell::event::AnyEvent;
use retell::{Event, EventUnion};

#[derive(EventUnion)]
enum ShopEvent {
    Order(OrderCreated),
    Any(AnyEvent),
}

#[derive(Event)]
#[event("order.created")]
struct OrderCreated;

#[derive(Event)]
#[event("user.registered")]
struct UserRegistered;

fn main() {}
