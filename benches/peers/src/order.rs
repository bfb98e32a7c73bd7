//! The order that all sides store: about 190 bytes of JSON per event, as in the library's own benchmarks.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub sku: String,
    pub quantity: u32,
    pub cents: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub order_id: String,
    pub user_id: u64,
    pub items: Vec<Item>,
    pub total_cents: u64,
    pub method: String,
    pub at: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paid {
    pub order_id: String,
    pub user_id: u64,
    pub payment_id: String,
    pub cents: u64,
    pub method: String,
    pub at: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipped {
    pub order_id: String,
    pub parcel: String,
    pub carrier: String,
    pub items: Vec<String>,
    pub weight_grams: u32,
    pub at: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderEvent {
    Placed(Placed),
    Paid(Paid),
    Shipped(Shipped),
}

impl OrderEvent {
    /// Returns the `number`-th event of a stream. Placed, paid and shipped events alternate.
    pub fn numbered(number: u64) -> Self {
        let order_id = format!("01932f5c-7d1a-7c3e-9f00-{number:012x}");
        let at = format!("2026-11-23T08:16:31.{:06}Z", number % 1_000_000);
        match number % 3 {
            0 => Self::Placed(Placed {
                order_id,
                user_id: number * 7,
                items: vec![Item { sku: format!("SKU-{number:06}"), quantity: 2, cents: 1_999 }],
                total_cents: 3_998,
                method: "credit_card".into(),
                at,
            }),
            1 => Self::Paid(Paid {
                order_id,
                user_id: number * 7,
                payment_id: format!("01932f5c-8e2b-7a4d-8c00-{number:012x}"),
                cents: 3_998,
                method: "credit_card".into(),
                at,
            }),
            _ => Self::Shipped(Shipped {
                order_id,
                parcel: format!("JJD0000{number:012}"),
                carrier: "parcel_service".into(),
                items: vec![format!("SKU-{number:06}")],
                weight_grams: 1_250,
                at,
            }),
        }
    }

    /// Returns the name under which a side stores the event, if it needs one.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Placed(_) => "order.placed",
            Self::Paid(_) => "order.paid",
            Self::Shipped(_) => "order.shipped",
        }
    }
}

/// The state that the events fold into: their number, sums, and the latest texts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub events: u64,
    pub items: u64,
    pub owed: u64,
    pub paid: u64,
    pub grams: u64,
    pub method: String,
    pub parcel: String,
}

impl Order {
    /// Returns the order after the events with these numbers.
    pub fn of(numbers: impl IntoIterator<Item = u64>) -> Self {
        let mut order = Self::default();
        numbers.into_iter().for_each(|number| order.apply(OrderEvent::numbered(number)));
        order
    }

    pub fn apply(&mut self, event: OrderEvent) {
        match event {
            OrderEvent::Placed(placed) => self.placed(placed),
            OrderEvent::Paid(paid) => self.paid(paid),
            OrderEvent::Shipped(shipped) => self.shipped(shipped),
        }
    }

    pub fn placed(&mut self, placed: Placed) {
        self.events += 1;
        self.items += placed.items.iter().map(|item| u64::from(item.quantity)).sum::<u64>();
        self.owed += placed.total_cents;
        self.method = placed.method;
    }

    pub fn paid(&mut self, paid: Paid) {
        self.events += 1;
        self.paid += paid.cents;
        self.method = paid.method;
    }

    pub fn shipped(&mut self, shipped: Shipped) {
        self.events += 1;
        self.grams += u64::from(shipped.weight_grams);
        self.parcel = shipped.parcel;
    }
}

/// The set of orders that an id belongs to.
#[derive(Debug, Clone, Copy)]
pub enum Set {
    Existing,
    OfLength,
    Kept,
    Log,
}

/// Returns an id that is the same on each call and spread like a random one.
pub fn id(set: Set, number: u64) -> Uuid {
    Uuid::from_u64_pair(mixed(number), mixed(number ^ (set as u64) << 56))
}

/// The last step of splitmix64.
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
