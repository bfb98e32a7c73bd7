use retell::{Aggregate, Apply, Event};

#[derive(Event)]
#[serde(rename_all_fields = "camelCase" deny_unknown_fields)]
enum OrderEvent {
    #[event("order.created")]
    #[serde(5)]
    Created { id: u64 },
}

#[derive(Default, Clone, Aggregate)]
#[aggregate("order", event = OrderEvent)]
#[serde]
struct Order;

impl Apply<OrderEvent> for Order {
    fn apply(&mut self, _: OrderEvent) {}
}

fn main() {}
