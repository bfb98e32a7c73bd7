//! A small domain for tests: a counter that refuses to go below zero.

#![allow(dead_code, reason = "each test file uses its own part")]

use retell::{Aggregate, Apply, Event, Handle};

#[derive(Event, Debug, Clone, PartialEq)]
pub(crate) enum CounterEvent {
    #[event("counter.added")]
    Added { amount: i64 },
    #[event("counter.renamed", codec = "compact")]
    Renamed(String),
}

#[derive(Aggregate, Debug, Clone, Default, PartialEq)]
#[aggregate("counter", event = CounterEvent, snapshots = 5)]
pub(crate) struct Counter {
    pub(crate) total: i64,
    pub(crate) events: u64,
    pub(crate) name: String,
}

impl Apply<CounterEvent> for Counter {
    fn apply(&mut self, event: CounterEvent) {
        self.events += 1;
        match event {
            CounterEvent::Added { amount } => self.total += amount,
            CounterEvent::Renamed(name) => self.name = name,
        }
    }
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{0} would fall below zero")]
pub(crate) struct BelowZero(pub(crate) i64);

/// Adds each amount as an event of its own. Without amounts the command has nothing to do.
#[derive(Debug, Clone)]
pub(crate) struct Add(pub(crate) Vec<i64>);

impl Handle<Add> for Counter {
    type Error = BelowZero;

    fn handle(&self, command: &Add) -> Result<Vec<CounterEvent>, BelowZero> {
        let total = self.total + command.0.iter().sum::<i64>();
        if total < 0 {
            return Err(BelowZero(self.total));
        }
        Ok(command.0.iter().map(|amount| CounterEvent::Added { amount: *amount }).collect())
    }
}

pub(crate) struct Rename(pub(crate) &'static str);

impl Handle<Rename> for Counter {
    type Error = BelowZero;

    fn handle(&self, command: &Rename) -> Result<Vec<CounterEvent>, BelowZero> {
        Ok(vec![CounterEvent::Renamed(command.0.to_owned())])
    }
}
