//! A crate that denies nearly everything.
#![deny(warnings, missing_docs, unused, unreachable_pub, missing_debug_implementations)]
#![deny(unused_qualifications, single_use_lifetimes, non_snake_case, non_camel_case_types, deprecated)]
#![deny(elided_lifetimes_in_paths, unused_results, trivial_casts, let_underscore_drop)]
#![forbid(unsafe_code)]

use retell::{Aggregate, Apply, Event, EventUnion};

/// What happens to an order.
#[derive(Debug, Event)]
pub enum OrderEvent {
    /// It was made.
    #[event("order.created", version = 2, upcast(from_v1))]
    Created {
        /// Its number.
        order_id: u64,
    },
    /// Someone said something.
    #[event("order.noted")]
    Noted(String, u8),
    /// It was weighed.
    #[event("order.weighed")]
    Weighed(u64),
    /// It is over.
    #[event("order.closed")]
    Closed,
}

fn from_v1(order_id: u64) -> OrderEvent {
    OrderEvent::Created { order_id }
}

/// Someone came.
#[derive(Debug, Event)]
#[event("user.registered")]
pub struct UserRegistered {
    /// Where to write to.
    pub email: String,
}

/// Names as another system has them.
#[expect(non_snake_case, non_camel_case_types)]
#[derive(Debug, Event)]
pub enum foreignEvent {
    /// Something.
    #[event("foreign.created")]
    created_now {
        /// Its number.
        orderId: u64,
    },
}

/// All of them.
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
    /// Dark.
    #[default]
    Off,
    /// Bright.
    On(String),
}

impl Apply<OrderEvent> for Lamp {
    fn apply(&mut self, _: OrderEvent) {
        *self = Self::On(String::new());
    }
}

fn main() {}
