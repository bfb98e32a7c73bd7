//! The order without the library: one struct per event type and serde_json.

#[cfg(feature = "all")]
pub(crate) mod sqlite;

use serde::{Deserialize, Serialize};

use super::order::{Item, OrderEvent};

#[derive(Serialize, Deserialize)]
pub(crate) struct Placed {
    order_id: String,
    user_id: u64,
    items: Vec<Item>,
    total_cents: u64,
    method: String,
    at: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Paid {
    order_id: String,
    user_id: u64,
    payment_id: String,
    cents: u64,
    method: String,
    at: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Shipped {
    order_id: String,
    parcel: String,
    carrier: String,
    items: Vec<String>,
    weight_grams: u32,
    at: String,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) items: u64,
    pub(crate) owed: u64,
    pub(crate) paid: u64,
    pub(crate) grams: u64,
    pub(crate) method: String,
    pub(crate) parcel: String,
}

impl State {
    pub(crate) fn fold(&mut self, event_type: &str, payload: &[u8]) -> serde_json::Result<()> {
        match event_type {
            "order.placed" => {
                let placed: Placed = serde_json::from_slice(payload)?;
                self.items += placed.items.iter().map(|item| u64::from(item.quantity)).sum::<u64>();
                self.owed += placed.total_cents;
                self.method = placed.method;
            }
            "order.paid" => {
                let paid: Paid = serde_json::from_slice(payload)?;
                self.paid += paid.cents;
                self.method = paid.method;
            }
            "order.shipped" => {
                let shipped: Shipped = serde_json::from_slice(payload)?;
                self.grams += u64::from(shipped.weight_grams);
                self.parcel = shipped.parcel;
            }
            other => panic!("unknown event type {other}"),
        }
        Ok(())
    }
}

/// Returns the stored name and the payload of a new event.
pub(crate) fn encode(event: OrderEvent) -> (&'static str, Vec<u8>) {
    let (name, payload) = match event {
        OrderEvent::Placed { order_id, user_id, items, total_cents, method, at } => {
            ("order.placed", serde_json::to_vec(&Placed { order_id, user_id, items, total_cents, method, at }))
        }
        OrderEvent::Paid { order_id, user_id, payment_id, cents, method, at } => {
            ("order.paid", serde_json::to_vec(&Paid { order_id, user_id, payment_id, cents, method, at }))
        }
        OrderEvent::Shipped { order_id, parcel, carrier, items, weight_grams, at } => {
            let shipped = Shipped { order_id, parcel, carrier, items, weight_grams, at };
            ("order.shipped", serde_json::to_vec(&shipped))
        }
    };
    (name, payload.unwrap())
}
