//! A small domain, whose exported documents are in `tests/fixtures/export`.

use retell::registry::{Lock, Registry};
use retell::{DateTime, Event, EventUnion, Utc, Uuid, Value};

#[derive(Event)]
pub(crate) enum OrderEvent {
    #[event("order.placed", version = 2, upcast(placed_v1))]
    Placed {
        customer: Uuid,
        lines: Vec<Line>,
        at: Option<DateTime<Utc>>,
        #[serde(default)]
        note: Option<String>,
    },
    #[event("order.paid", public)]
    Paid(Payment),
    #[event("order.grouped")]
    Grouped(Group),
    #[event("order.closed")]
    Closed,
}

#[derive(Value)]
pub(crate) struct Line {
    pub(crate) sku: String,
    #[serde(alias = "quantity")]
    pub(crate) count: u32,
}

#[derive(Value)]
#[serde(tag = "method", rename_all = "snake_case")]
pub(crate) enum Payment {
    Cash,
    Card { digits: [u8; 4] },
}

/// Orders that are shipped together, in groups of groups.
#[derive(Value)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) inside: Vec<Group>,
}

/// Version 1 had only the customer.
fn placed_v1(customer: Uuid) -> OrderEvent {
    OrderEvent::Placed { customer, lines: Vec::new(), at: None, note: None }
}

#[derive(Event)]
#[event(codec = "compact")]
pub(crate) enum ScaleEvent {
    #[event("scale.weighed")]
    Weighed { grams: f64, of: (String, u8) },
}

#[derive(EventUnion)]
pub(crate) enum ShopEvent {
    Order(OrderEvent),
    Scale(ScaleEvent),
}

/// Version 1 of an order, as an earlier release has left it in the lock.
const EARLIER: &str = "[order.placed 1 json]\n= uuid\n";

pub(crate) fn registry() -> Registry {
    Registry::new().with::<ShopEvent>().unwrap()
}

/// Returns the lock of all versions.
pub(crate) fn lock() -> Lock {
    registry().check(&EARLIER.parse().unwrap()).lock
}
