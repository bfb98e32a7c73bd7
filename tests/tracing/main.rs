//! Traces and notices, as a collector of OpenTelemetry and a subscriber of `tracing` see them. Needs `AMQP_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod collector;
mod handed_on;
mod links;
mod notices;
mod one_trace;
#[path = "../support/mod.rs"]
mod support;
