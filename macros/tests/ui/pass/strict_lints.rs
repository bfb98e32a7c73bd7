//! A crate that denies most lints.
#![deny(warnings, missing_docs, unused, unreachable_pub, missing_debug_implementations)]
#![deny(unused_qualifications, single_use_lifetimes, non_snake_case, non_camel_case_types, deprecated)]
#![deny(elided_lifetimes_in_paths, unused_results, trivial_casts, let_underscore_drop)]
#![forbid(unsafe_code)]

use retell::{Aggregate, Apply, Event, EventUnion};

/// Events of an order.
#[derive(Debug, Event)]
#[event(retired("order.lost", "order.found"))]
pub enum OrderEvent {
    /// The order was created.
    #[event("order.created", version = 3, upcast(split(from_none), from_v1), renamed_from("order.made", "order.opened"))]
    Created {
        /// The order's number.
        order_id: u64,
    },
    /// A note was added.
    #[event("order.noted")]
    Noted(String, u8),
    /// The order was weighed.
    #[event("order.weighed")]
    Weighed(u64),
    /// The order was closed.
    #[event("order.closed")]
    Closed,
}

fn from_none(_: Vec<u64>) -> Option<OrderEvent> {
    None
}

fn from_v1(order_id: u64) -> OrderEvent {
    OrderEvent::Created { order_id }
}

/// A user registered.
#[derive(Debug, Event)]
#[event("user.registered")]
pub struct UserRegistered {
    /// The user's e-mail address.
    pub email: String,
}

/// Names chosen by another system.
#[expect(non_snake_case, non_camel_case_types)]
#[derive(Debug, Event)]
pub enum foreignEvent {
    /// Something was created.
    #[event("foreign.created")]
    created_now {
        /// Its number.
        orderId: u64,
    },
}

/// All events.
#[derive(Debug, EventUnion)]
pub enum ShopEvent {
    /// Orders.
    Order(OrderEvent),
    /// Users.
    User(UserRegistered),
}

/// An order.
#[derive(Debug, Default, Clone, Aggregate)]
#[aggregate("order", event = OrderEvent)]
pub struct Order {
    /// Whether it is open.
    pub open: bool,
    notes: Vec<String>,
}

impl Apply<OrderEvent> for Order {
    fn apply(&mut self, event: OrderEvent) {
        self.open = !matches!(event, OrderEvent::Closed);
        if let OrderEvent::Noted(note, _) = event {
            self.notes.push(note);
        }
    }
}

/// A lamp.
#[derive(Debug, Default, Clone, Aggregate)]
#[aggregate("lamp", event = OrderEvent, snapshots = never)]
pub enum Lamp {
    /// Switched off.
    #[default]
    Off,
    /// Switched on.
    On(String),
}

impl Apply<OrderEvent> for Lamp {
    fn apply(&mut self, _: OrderEvent) {
        *self = Self::On(String::new());
    }
}

fn main() {}
