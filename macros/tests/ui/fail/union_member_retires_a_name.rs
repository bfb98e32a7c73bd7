use retell::{Event, EventUnion};

#[derive(EventUnion)]
enum ShopEvent {
    Order(OrderEvent),
    Flagged(Flagged),
}

#[derive(Event)]
#[event(retired("order.flagged"))]
enum OrderEvent {
    #[event("order.placed")]
    Placed,
}

#[derive(Event)]
#[event("flag.raised", renamed_from = "order.flagged")]
struct Flagged;

fn main() {}
