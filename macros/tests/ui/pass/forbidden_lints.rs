//! Generated code compiles under forbidden lints, which it cannot allow.
#![forbid(unsafe_code, missing_docs, deprecated, dead_code, non_snake_case, unused_variables)]
#![forbid(unreachable_patterns, unreachable_code, clippy::all, clippy::pedantic)]

use retell::{Aggregate, Apply, Event, EventUnion};

#[derive(Event)]
enum NoEvent {}

#[derive(Event)]
enum OrderEvent {
    #[event("order.created")]
    Created { id: u64 },
    #[event("order.closed")]
    Closed,
}

#[derive(EventUnion)]
enum ShopEvent {
    Order(OrderEvent),
    None(NoEvent),
}

#[derive(Default, Clone, Aggregate)]
#[aggregate("order", event = OrderEvent)]
struct Order {
    id: u64,
}

impl Apply<OrderEvent> for Order {
    fn apply(&mut self, event: OrderEvent) {
        match event {
            OrderEvent::Created { id } => self.id = id,
            OrderEvent::Closed => self.id = 0,
        }
    }
}

fn main() {
    let mut order = Order::default();
    Aggregate::apply(&mut order, OrderEvent::Created { id: 7 });
    Aggregate::apply(&mut order, OrderEvent::Closed);
    assert_eq!(ShopEvent::from(OrderEvent::Closed).schema().name, "order.closed");
}
