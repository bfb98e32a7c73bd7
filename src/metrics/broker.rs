//! The meter of a broker's connections.

use std::sync::atomic::{AtomicBool, Ordering};

use ::metrics::Counter;

use crate::metrics::names::RECONNECTS;

/// The handles of one connection.
pub(crate) struct ConnectionMeter {
    reconnects: Counter,
    failures: Counter,
    has_connected: AtomicBool,
}

impl ConnectionMeter {
    pub(crate) fn new(connection: &str) -> Self {
        Self {
            reconnects: RECONNECTS.counter(&[connection, "ok"]),
            failures: RECONNECTS.counter(&[connection, "failed"]),
            has_connected: AtomicBool::new(false),
        }
    }

    /// Records an attempt to connect. The first connection is no reconnect.
    pub(crate) fn attempted<T, E>(&self, attempt: &Result<T, E>) {
        match attempt {
            Ok(_) if self.has_connected.swap(true, Ordering::Relaxed) => self.reconnects.increment(1),
            Ok(_) => {}
            Err(_) => self.failures.increment(1),
        }
    }
}
