//! A repository with a cached state and a snapshot of one aggregate, and a writer in another process.

use super::{EVENTS, Events, History, MIXED, Mark};
use crate::search::{Fault, Model, Regular, Step};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Nothing,
    /// A cached state is read on from its version.
    CachedByVersion,
    /// A snapshot counts if the stream reaches its version.
    SnapshotByVersion,
    /// An append compares the version of its stream.
    AppendByVersion,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Loading {
    pub(crate) broken: Broken,
}

/// The last event of a state, and the fold: the events themselves.
type Folded = (Mark, Events);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct State {
    history: History,
    cached: Option<Folded>,
    snapshot: Option<Folded>,
    /// The state that a command was decided on, before its append.
    decided: Option<Folded>,
}

impl Model for Loading {
    type State = State;

    fn start(&self) -> State {
        State::default()
    }

    fn steps(&self, state: &State, steps: &mut Vec<Step<State>>) {
        let log = state.history.log;
        state.history.steps(1, steps, |history| State { history, ..*state });
        if state.cached.is_some() {
            steps.push(Step::new(Fault, "a process starts with an empty cache", State { cached: None, ..*state }));
        }
        steps.push(Step { what: "a state is loaded", kind: Regular, to: self.load(state) });
        if let Some(cached) = state.cached {
            steps.push(Step::new(Regular, "a command is decided", State { decided: Some(cached), ..*state }));
            // The store compares before it saves.
            if log.has(cached.0) && cached.0 != Mark::default() {
                steps.push(Step::new(Fault, "a snapshot is saved", State { snapshot: Some(cached), ..*state }));
            }
        }
        if let Some(decided) = state.decided {
            steps.push(Step { what: "a command appends", kind: Regular, to: self.append(state, decided) });
        }
    }

    fn violation(&self, _: &State) -> Option<&'static str> {
        None
    }

    fn done(&self, state: &State) -> bool {
        let log = state.history.log;
        state.history.is_full() && state.cached == Some((log.mark(EVENTS), log.events(0, EVENTS)))
    }
}

impl Loading {
    fn load(self, state: &State) -> Result<State, &'static str> {
        let log = state.history.log;
        let is_there = |mark: Mark, by_version: bool| log.has(mark) || by_version && mark.position <= log.head();
        let cached = state.cached.filter(|(mark, _)| is_there(*mark, self.broken == Broken::CachedByVersion));
        let snapshot = || state.snapshot.filter(|(mark, _)| is_there(*mark, self.broken == Broken::SnapshotByVersion));
        let (mark, mut events) = cached.or_else(snapshot).unwrap_or_default();
        events.add(log.events(mark.position, log.head()))?;
        if events != log.events(0, log.head()) {
            return Err(MIXED);
        }
        Ok(State { cached: Some((log.mark(log.head()), events)), ..*state })
    }

    fn append(self, state: &State, (last, events): Folded) -> Result<State, &'static str> {
        let log = state.history.log;
        let by_version = self.broken == Broken::AppendByVersion && last.position == log.head();
        if log.mark(log.head()) != last && !by_version {
            // It is decided again, on the state as it is.
            return Ok(State { cached: None, decided: None, ..*state });
        }
        if events != log.events(0, log.head()) {
            return Err("a command was decided on a lost state");
        }
        if state.history.is_full() {
            return Ok(State { decided: None, ..*state });
        }
        let history = state.history.push(0);
        let mark = history.log.mark(history.log.head());
        Ok(State { history, cached: Some((mark, events.with(mark))), decided: None, ..*state })
    }
}
