//! Events of two kinds, one of them public, and the changes of a next release.

use retell::{Event, Value};

#[derive(Event)]
pub(crate) enum First {
    #[event("order.placed", public)]
    Placed { cents: u64 },
    #[event("order.seen")]
    Seen { cents: u64 },
}

#[derive(Value)]
pub(crate) struct Old {
    cents: u64,
}

/// Raises the version of each event, and adds one.
#[derive(Event)]
pub(crate) enum Raised {
    #[event("order.placed", public, version = 2, upcast(Self::placed))]
    Placed { cents: u64, currency: String },
    #[event("order.seen", version = 2, upcast(Self::seen))]
    Seen { cents: u64, currency: String },
    #[event("order.closed", public)]
    Closed,
}

impl Raised {
    fn placed(Old { cents }: Old) -> Self {
        Self::Placed { cents, currency: String::new() }
    }

    fn seen(Old { cents }: Old) -> Self {
        Self::Seen { cents, currency: String::new() }
    }
}

#[derive(Event)]
pub(crate) enum Renamed {
    #[event("order.made", renamed_from = "order.placed", public)]
    Placed { cents: u64 },
    #[event("order.looked_at", renamed_from = "order.seen")]
    Seen { cents: u64 },
}

#[derive(Event)]
#[event(codec = "compact")]
pub(crate) enum Compact {
    #[event("order.placed", public)]
    Placed { cents: u64 },
    #[event("order.seen")]
    Seen { cents: u64 },
}

#[derive(Event)]
pub(crate) enum Private {
    #[event("order.placed")]
    Placed { cents: u64 },
    #[event("order.seen")]
    Seen { cents: u64 },
}

#[derive(Event)]
#[event(retired("order.placed"))]
pub(crate) enum Retired {
    #[event("order.seen")]
    Seen { cents: u64 },
}

#[derive(Event)]
#[event(public)]
pub(crate) enum All {
    #[event("order.placed")]
    Placed { cents: u64 },
    #[event("order.seen")]
    Seen { cents: u64 },
}
