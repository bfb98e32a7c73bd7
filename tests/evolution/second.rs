use retell::{Event, Value};

#[derive(Event)]
pub enum OrderEvent {
    #[event("order.placed", version = 2, upcast(dollars_to_cents))]
    Placed {
        customer: String,
        cents: u64,
        #[serde(default)]
        note: Option<String>,
    },
}

/// Version 1 of `order.placed`.
#[derive(Value)]
struct PlacedV1 {
    customer: String,
    dollars: u64,
    #[serde(default)]
    note: Option<String>,
}

fn dollars_to_cents(old: PlacedV1) -> OrderEvent {
    OrderEvent::Placed { customer: old.customer, cents: old.dollars * 100, note: old.note }
}
