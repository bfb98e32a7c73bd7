//! Using a type with an error in its declaration causes no further errors.
use retell::{Aggregate, Apply, Event, EventUnion};

#[derive(Event)]
enum OrderEvent {
    Created,
}

#[derive(EventUnion)]
enum ShopEvent {
    Order(OrderEvent),
    #[event("x")]
    Paid(PaidEvent),
}

#[derive(Event)]
#[event("order.paid")]
struct PaidEvent;

#[derive(Default, Clone, Aggregate)]
#[aggregate("order", event = ShopEvent, snapshots = 0)]
struct Order;

impl Apply<ShopEvent> for Order {
    fn apply(&mut self, _: ShopEvent) {}
}

fn main() {
    let order = Order::default();
    let _ = (order.to_snapshot(), OrderEvent::Created.schema(), ShopEvent::Order(OrderEvent::Created).schema());
}
