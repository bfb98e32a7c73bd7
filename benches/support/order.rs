//! The order as an application of the library declares it: about 190 bytes of JSON per event.

use retell::event::StoredEvent;
use retell::{Aggregate, Apply, Codec, Event, Handle, Value};

#[derive(Debug, Clone, Value)]
pub(crate) struct Item {
    pub(crate) sku: String,
    pub(crate) quantity: u32,
    pub(crate) cents: u64,
}

/// Declares the events once per codec, since the codec is part of the declaration.
macro_rules! order_events {
    ($name:ident, $codec:literal) => {
        #[derive(Debug, Clone, Event)]
        #[event(codec = $codec)]
        pub(crate) enum $name {
            #[event("order.placed")]
            Placed { order_id: String, user_id: u64, items: Vec<Item>, total_cents: u64, method: String, at: String },
            #[event("order.paid")]
            Paid { order_id: String, user_id: u64, payment_id: String, cents: u64, method: String, at: String },
            #[event("order.shipped")]
            Shipped {
                order_id: String,
                parcel: String,
                carrier: String,
                items: Vec<String>,
                weight_grams: u32,
                at: String,
            },
        }

        impl $name {
            /// Returns the `number`-th event of a stream. Placed, paid and shipped events alternate.
            pub(crate) fn numbered(number: u64) -> Self {
                let order_id = format!("01932f5c-7d1a-7c3e-9f00-{number:012x}");
                let at = format!("2026-11-23T08:16:31.{:06}Z", number % 1_000_000);
                match number % 3 {
                    0 => Self::Placed {
                        order_id,
                        user_id: number * 7,
                        items: vec![Item { sku: format!("SKU-{number:06}"), quantity: 2, cents: 1_999 }],
                        total_cents: 3_998,
                        method: "credit_card".into(),
                        at,
                    },
                    1 => Self::Paid {
                        order_id,
                        user_id: number * 7,
                        payment_id: format!("01932f5c-8e2b-7a4d-8c00-{number:012x}"),
                        cents: 3_998,
                        method: "credit_card".into(),
                        at,
                    },
                    _ => Self::Shipped {
                        order_id,
                        parcel: format!("JJD0000{number:012}"),
                        carrier: "parcel_service".into(),
                        items: vec![format!("SKU-{number:06}")],
                        weight_grams: 1_250,
                        at,
                    },
                }
            }
        }
    };
}

order_events!(OrderEvent, "json");
order_events!(CompactEvent, "compact");

/// The state that the events fold into: sums, and the latest texts.
macro_rules! order {
    ($(#[$aggregate:meta])* $name:ident, $event:ident) => {
        #[derive(Debug, Clone, Default, Aggregate)]
        $(#[$aggregate])*
        pub(crate) struct $name {
            pub(crate) items: u64,
            pub(crate) owed: u64,
            pub(crate) paid: u64,
            pub(crate) grams: u64,
            pub(crate) method: String,
            pub(crate) parcel: String,
        }

        impl Apply<$event> for $name {
            fn apply(&mut self, event: $event) {
                match event {
                    $event::Placed { items, total_cents, method, .. } => {
                        self.items += items.iter().map(|item| u64::from(item.quantity)).sum::<u64>();
                        self.owed += total_cents;
                        self.method = method;
                    }
                    $event::Paid { cents, method, .. } => {
                        self.paid += cents;
                        self.method = method;
                    }
                    $event::Shipped { parcel, weight_grams, .. } => {
                        self.grams += u64::from(weight_grams);
                        self.parcel = parcel;
                    }
                }
            }
        }
    };
}

order!(
    #[aggregate("order", event = OrderEvent, snapshots = never)]
    Order,
    OrderEvent
);
order!(
    #[aggregate("order", event = OrderEvent, snapshots = 100)]
    KeptOrder,
    OrderEvent
);
order!(
    #[aggregate("order", event = CompactEvent, snapshots = never)]
    CompactOrder,
    CompactEvent
);

/// Appends the event with this number.
pub(crate) struct Add(pub(crate) u64);

macro_rules! adds {
    ($name:ident) => {
        impl Handle<Add> for $name {
            type Error = std::convert::Infallible;

            fn handle(&self, Add(number): &Add) -> Result<Vec<OrderEvent>, Self::Error> {
                Ok(vec![OrderEvent::numbered(*number)])
            }
        }
    };
}

adds!(Order);
adds!(KeptOrder);

/// An event as a store returns it.
pub(crate) struct Stored {
    pub(crate) event_type: String,
    pub(crate) codec: Codec,
    pub(crate) payload: Vec<u8>,
}

impl Stored {
    pub(crate) fn encode(event: &impl Event) -> Self {
        let schema = event.schema();
        let mut payload = Vec::new();
        event.encode(&mut payload).unwrap();
        Self { event_type: schema.name.into(), codec: schema.codec, payload }
    }

    pub(crate) fn borrow(&self) -> StoredEvent<'_> {
        StoredEvent::new(&self.event_type, 1, self.codec, &self.payload)
    }
}
