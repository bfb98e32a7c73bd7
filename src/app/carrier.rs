//! The transport of events from the log to the parts of an app.

use std::sync::Arc;

use crate::broker::{Announcer, Broker, DeadLetters};
use crate::relay::Relay;
use crate::store::log::event_store::EventStore;
use crate::store::log::relay::RelayStore;

/// The names of the relays' tasks.
const RELAY: &str = "relay";
const ANNOUNCING: &str = "announcing relay";

/// Selects how events get from the log to the parts of an app.
pub(super) enum Carrier {
    /// The parts read the store directly.
    Store,
    /// A broker within this process.
    Local(Arc<dyn Broker>),
    /// A broker that outlives this process. `name` is the name of the relays that publish to it.
    Shared { broker: Arc<dyn Broker>, announcer: Arc<dyn Announcer>, dead_letters: Arc<dyn DeadLetters>, name: String },
}

impl Carrier {
    pub(super) fn broker(&self) -> Option<Arc<dyn Broker>> {
        match self {
            Self::Store => None,
            Self::Local(broker) | Self::Shared { broker, .. } => Some(broker.clone()),
        }
    }

    pub(super) fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        match self {
            Self::Shared { dead_letters, .. } => Some(dead_letters.clone()),
            Self::Store | Self::Local(_) => None,
        }
    }

    /// Returns the names of the relays' tasks.
    pub(super) fn task_names(&self) -> &'static [&'static str] {
        match self {
            Self::Store => &[],
            Self::Local(_) => &[RELAY],
            Self::Shared { .. } => &[RELAY, ANNOUNCING],
        }
    }

    /// Returns the relays that the broker needs, each with the name of its task.
    pub(super) fn relays(
        &self,
        log: &Arc<dyn EventStore>,
        positions: &Arc<dyn RelayStore>,
    ) -> Vec<(&'static str, Relay)> {
        match self {
            Self::Store => Vec::new(),
            Self::Local(broker) => vec![(RELAY, Relay::new(log.clone(), broker.clone()))],
            Self::Shared { broker, announcer, name, .. } => {
                let frames = Relay::new(log.clone(), broker.clone()).with_checkpoint(positions.clone(), name.clone());
                let single = Relay::announcing(log.clone(), announcer.clone());
                let single = single.with_checkpoint(positions.clone(), format!("{name} announcements"));
                vec![(RELAY, frames), (ANNOUNCING, single)]
            }
        }
    }
}
