use retell::{Event, EventUnion};

#[derive(EventUnion)]
struct ShopEvent(OrderCreated);

#[derive(EventUnion)]
union OtherEvent {
    id: u64,
}

#[derive(Event)]
#[event("order.created")]
struct OrderCreated;

fn main() {}
