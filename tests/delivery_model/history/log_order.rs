//! Two workers of a projection in log order, frames of both histories, and read models that are restored.

use super::{Events, History, Log, MIXED, Mark, SILENT};
use crate::search::{Fault, Model, Regular, Step};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Nothing,
    /// Only the start compares the event at the checkpoint: a page is read on from a position.
    ComparedAtStartOnly,
    /// The gate compares positions.
    FramesByPosition,
    /// The checkpoint's compare-and-set compares positions.
    CheckpointByPosition,
    /// A worker keeps the larger one of its own and the stored position.
    KeepsTheLarger,
    /// A worker compares its place with the stored one only after a lost race.
    StoredNotCompared,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery {
    pub(crate) broken: Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
enum At {
    #[default]
    Down,
    Open,
    /// Has events and not committed them. They end at this place.
    Batch(Mark, Events),
    /// Ended because the log does not have the event at the checkpoint.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Worker {
    at: At,
    view: Mark,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Models {
    checkpoint: Mark,
    applied: Events,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct State {
    history: History,
    models: Models,
    /// A backup of both, which can be restored once.
    backup: Option<(Log, Models)>,
    is_restored: bool,
    workers: [Worker; 2],
}

type Steps = Vec<Step<State>>;

impl Model for Delivery {
    type State = State;

    fn start(&self) -> State {
        State::default()
    }

    fn steps(&self, state: &State, steps: &mut Steps) {
        state.history.steps(1, steps, |history| State { history, ..*state });
        restore(state, steps);
        for index in 0..2 {
            self.worker(state, index, steps);
        }
        for state in steps.iter_mut().filter_map(|step| step.to.as_mut().ok()) {
            state.workers.sort_unstable();
        }
    }

    fn violation(&self, state: &State) -> Option<&'static str> {
        let (log, models) = (state.history.log, state.models);
        if state.history.is_mixed(models.applied) {
            return Some(MIXED);
        }
        let differs = log.has(models.checkpoint) && models.applied != log.events(0, models.checkpoint.position);
        differs.then_some(SILENT)
    }

    fn done(&self, state: &State) -> bool {
        state.history.is_full() && state.models.checkpoint == state.history.log.mark(super::EVENTS)
    }
}

fn restore(state: &State, steps: &mut Steps) {
    let State { history, models, .. } = *state;
    if state.is_restored {
        return;
    }
    let Some((log, restored)) = state.backup else {
        if !history.is_replaced {
            steps.push(Step::new(Fault, "a backup is taken", State { backup: Some((history.log, models)), ..*state }));
        }
        return;
    };
    let alone = State { models: restored, is_restored: true, ..*state };
    steps.push(Step::new(Fault, "the read models are restored", alone));
    if !history.is_replaced {
        let history = History { log, lost: history.log, is_replaced: true };
        steps.push(Step::new(Fault, "log and read models are restored", State { history, ..alone }));
    }
}

impl Delivery {
    fn worker(self, state: &State, index: usize, steps: &mut Steps) {
        let worker = state.workers[index];
        let (log, stored) = (state.history.log, state.models.checkpoint);
        let with = |at, view| with_worker(state, index, Worker { at, view });
        match worker.at {
            At::Down => {
                let at = if log.has(stored) { At::Open } else { At::Refused };
                steps.push(Step::new(Regular, "a worker starts", with(at, stored)));
                return;
            }
            At::Refused => {
                steps.push(Step::new(Regular, "a refused worker starts again", with(At::Down, Mark::default())));
                if !log.has(stored) {
                    let reset = State { models: Models::default(), ..with(At::Down, Mark::default()) };
                    steps.push(Step::new(Regular, "an operator resets the projection", reset));
                }
                return;
            }
            At::Batch(last, events) => self.commit(state, index, (last, events), steps),
            At::Open => {
                self.read(state, index, steps);
                for log in [log, state.history.lost] {
                    self.receive(state, index, log, steps);
                }
                let is_left = self.broken == Broken::StoredNotCompared
                    || self.broken == Broken::KeepsTheLarger && stored.position < worker.view.position;
                if stored != worker.view && !is_left {
                    steps.push(Step::new(Regular, "a worker compares the stored place", with(At::Open, stored)));
                }
            }
        }
        steps.push(Step::new(Fault, "a worker crashes", with(At::Down, Mark::default())));
    }

    fn read(self, state: &State, index: usize, steps: &mut Steps) {
        let (log, stored, view) = (state.history.log, state.models.checkpoint, state.workers[index].view);
        let with = |at, view| with_worker(state, index, Worker { at, view });
        if !log.has(view) && self.broken != Broken::ComparedAtStartOnly {
            // The log and the read model may have been restored together.
            let at = if stored == view { At::Refused } else { At::Open };
            steps.push(Step::new(Regular, "a worker returns to the stored place", with(at, stored)));
            return;
        }
        for last in view.position + 1..=log.head() {
            let batch = At::Batch(log.mark(last), log.events(view.position, last));
            steps.push(Step::new(Regular, "a worker reads a page", with(batch, view)));
        }
    }

    /// Any frame of the log, or of the one that it replaced, arrives at any time. A frame that the gate does not admit leads to a read.
    fn receive(self, state: &State, index: usize, log: Log, steps: &mut Steps) {
        let view = state.workers[index].view;
        for first in 1..=log.head().min(view.position + 1) {
            for last in first.max(view.position + 1)..=log.head().min(first + 1) {
                let before = log.mark(view.position.max(first - 1));
                let continues = view == Mark::default() || before == view || self.broken == Broken::FramesByPosition;
                if continues {
                    let batch = At::Batch(log.mark(last), log.events(view.position, last));
                    let next = with_worker(state, index, Worker { at: batch, view });
                    steps.push(Step::new(Fault, "the gate admits a frame", next));
                }
            }
        }
    }

    fn commit(self, state: &State, index: usize, (last, events): (Mark, Events), steps: &mut Steps) {
        let (stored, view) = (state.models.checkpoint, state.workers[index].view);
        let by_position = self.broken == Broken::CheckpointByPosition && stored.position == view.position;
        if stored != view && !by_position {
            let behind = with_worker(state, index, Worker { at: At::Open, view: stored });
            steps.push(Step::new(Regular, "a worker loses the race", behind));
            return;
        }
        let mut next = with_worker(state, index, Worker { at: At::Open, view: last });
        next.models.checkpoint = last;
        let to = next.models.applied.add(events).map(|()| next);
        steps.push(Step { what: "a worker commits a batch", kind: Regular, to });
    }
}

fn with_worker(state: &State, index: usize, worker: Worker) -> State {
    let mut next = *state;
    next.workers[index] = worker;
    next
}
