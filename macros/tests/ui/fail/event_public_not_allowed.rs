use retell::{Event, EventUnion};

#[derive(Event)]
#[event("order.created")]
struct Created {
    #[event(public)]
    id: u64,
}

#[derive(EventUnion)]
#[event(public)]
enum ShopEvent {
    Created(Created),
}

fn main() {}
