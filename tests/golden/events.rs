//! Releases of events whose payloads are kept.

use retell::{Event, EventUnion, Value};

/// Writes an amount as a text, such as `9.50`.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(cents: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}.{:02}", cents / 100, cents % 100))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.replace('.', "").parse().map_err(serde::de::Error::custom)
    }
}

/// Writes the same amount as a text in tenths of a cent, and reads it back.
mod as_mills {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(cents: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}.{:03}", cents / 100, cents % 100 * 10))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mills: u64 = text.replace('.', "").parse().map_err(serde::de::Error::custom)?;
        Ok(mills / 10)
    }
}

/// Writes the amount as a number.
pub(crate) mod as_number {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(cents: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(*cents)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        u64::deserialize(deserializer)
    }
}

/// Declares a release of an event with an opaque amount.
macro_rules! release {
    ($name:ident, $with:literal $(, $(#[$attribute:meta])* $field:ident: $type:ty)?) => {
        #[derive(Event)]
        #[event("order.paid")]
        pub(crate) struct $name {
            pub(crate) customer: String,
            #[event(opaque)]
            #[serde(with = $with)]
            pub(crate) amount: u64,
            $($(#[$attribute])* pub(crate) $field: $type,)?
        }

        impl $name {
            pub(crate) fn sample($($field: $type)?) -> Self {
                Self { customer: "ada".into(), amount: 950, $($field)? }
            }
        }
    };
}

release!(Paid, "as_text");
release!(PaidInMills, "as_mills");
release!(PaidAsNumber, "as_number");
release!(PaidWithNote, "as_text", #[serde(default)] note: Option<String>);
release!(PaidWithCount, "as_text", #[serde(default = "one")] count: u32);
release!(PaidWithOtherCount, "as_text", #[serde(default)] count: u32);
release!(PaidWithNeed, "as_text", need: u8);

fn one() -> u32 {
    1
}

pub(crate) mod upcasters {
    use super::*;

    #[derive(Event)]
    #[event("order.placed")]
    pub(crate) struct Placed {
        pub(crate) dollars: u64,
    }

    #[derive(Event)]
    #[event("order.placed", version = 2, upcast(in_cents))]
    pub(crate) struct PlacedInCents {
        pub(crate) cents: u64,
    }

    #[derive(Value)]
    struct V1 {
        dollars: u64,
    }

    fn in_cents(v1: V1) -> PlacedInCents {
        PlacedInCents { cents: v1.dollars * 100 }
    }

    #[derive(Event)]
    #[event("order.placed", version = 2, upcast(carelessly))]
    pub(crate) struct Careless {
        pub(crate) cents: u64,
    }

    fn carelessly(v1: V1) -> Careless {
        Careless { cents: v1.dollars }
    }

    #[derive(Event)]
    #[event("order.placed", version = 2, upcast(panicking))]
    pub(crate) struct Panicking {
        pub(crate) cents: u64,
    }

    fn panicking(v1: V1) -> Panicking {
        assert!(v1.dollars > 5, "too cheap");
        Panicking { cents: v1.dollars * 100 }
    }
}

pub(crate) mod compact {
    use super::*;

    #[derive(Event)]
    #[event(codec = "compact")]
    pub(crate) enum Sensor {
        #[event("sensor.measured")]
        Measured { celsius: f64, tags: Vec<String> },
        #[event("sensor.moved")]
        Moved {
            #[event(opaque)]
            to: std::net::IpAddr,
        },
        #[event("sensor.lost")]
        Lost,
    }

    /// The fields are in another order.
    #[derive(Event)]
    #[event(codec = "compact")]
    pub(crate) enum Reordered {
        #[event("sensor.measured")]
        Measured { tags: Vec<String>, celsius: f64 },
        #[event("sensor.moved")]
        Moved {
            #[event(opaque)]
            to: std::net::IpAddr,
        },
        #[event("sensor.lost")]
        Lost,
    }
}

#[derive(Event)]
pub(crate) enum UserEvent {
    #[event("user.registered")]
    Registered { email: String },
    #[event("user.left")]
    Left,
}

#[derive(EventUnion)]
pub(crate) enum Both {
    User(UserEvent),
    Paid(Paid),
}
