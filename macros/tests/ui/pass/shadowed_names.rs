//! A crate whose own types shadow names of the prelude.
#![allow(dead_code)]

use retell::{Aggregate as DeriveAggregate, EventUnion};

struct Result;
struct Option;
struct Vec;
struct Box;
struct Ok;
struct Err;
struct Some;
struct None;
struct From;
struct Into;
struct Default;
struct Clone;
struct Send;
struct Sync;
struct Event;
struct Aggregate;
struct Apply;
struct Codec;
struct Serialize;
struct Deserialize;
mod core {}
mod std {}
mod serde {}

#[derive(::retell::Value)]
struct String;

#[derive(retell::Event)]
#[event(retired("order.lost"))]
enum OrderEvent {
    #[event("order.created", version = 3, upcast(split(events), stored))]
    Created { id: u64, note: String },
    #[event("order.noted", renamed_from = "order.jotted")]
    Noted(String, u8),
    #[event("order.closed")]
    Closed,
}

/// Has the name of a variable that generated code might use.
fn stored(payload: u64) -> OrderEvent {
    OrderEvent::Created { id: payload, note: String }
}

/// Has the name of a variable, too.
fn events(_: u8) -> [OrderEvent; 2] {
    [OrderEvent::Closed, OrderEvent::Closed]
}

#[derive(EventUnion)]
enum ShopEvent {
    Order(OrderEvent),
}

#[derive(::std::default::Default, ::std::clone::Clone, DeriveAggregate)]
#[aggregate("order", event = OrderEvent, claims = claims)]
struct Order {
    open: bool,
}

impl retell::Apply<OrderEvent> for Order {
    fn apply(&mut self, event: OrderEvent) {
        self.open = !::std::matches!(event, OrderEvent::Closed);
    }
}

/// Has the name of the method that calls it.
fn claims(_: &OrderEvent) -> ::std::result::Result<::std::vec::Vec<retell::Claim>, retell::InvalidName> {
    ::std::result::Result::Ok(::std::vec::Vec::new())
}

fn main() {}
