//! Log order: relays, a broker, and workers of one projection, with parking.

mod relay;

use relay::{Relay, prefix, up_to};

use crate::search::{Fault, Frame, Model, Regular, Step, bit, has};

/// How the broker treats messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broker {
    /// Without a relay: any frame of the log arrives at any time, repeatedly, or never. This covers everything that relays and brokers can
    /// do to a worker.
    Arbitrary,
    /// Keeps confirmed messages until they are acknowledged, in no order.
    Durable,
    /// Loses and doubles messages. A wiped queue is a queue that loses all of them.
    Lossy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sweep {
    On,
    Off,
}

/// The rule that a negative test breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Nothing,
    /// A worker applies every frame that arrives.
    NoGate,
    /// The checkpoint moves in a separate transaction.
    ApplyThenMove,
    MoveThenApply,
    AcknowledgeFirst,
    /// A worker acknowledges a frame although it lost the race and its commit had no effect.
    AcknowledgeAfterLostRace,
    /// The checkpoint moves without comparing its old value.
    NoCompare,
    /// A relay writes its checkpoint without checking that it still leads.
    NoFence,
    /// A relay moves its checkpoint over everything it has sent.
    CheckpointBeforeConfirm,
    /// A relay moves its checkpoint to the last confirmed event, although earlier ones are unconfirmed.
    CheckpointBeyondPrefix,
    RetryBeyondCheckpoint,
    RetryWithoutCompare,
    /// A retry does not check that the row still exists.
    RetryWithoutRow,
    /// The parking rows are read before the transaction begins, or before it locks the checkpoint's row.
    ParkedSeenEarly,
    ParkedNotPassedOver,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery {
    pub(crate) events: u8,
    pub(crate) relays: usize,
    pub(crate) workers: usize,
    pub(crate) broker: Broker,
    pub(crate) sweep: Sweep,
    /// The event that the projection cannot apply until it is repaired.
    pub(crate) poison: Option<u8>,
    pub(crate) broken: Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
enum At {
    #[default]
    Down,
    /// At the gate if it has a frame, otherwise waiting.
    Open,
    /// Has read the events up to this position and not committed them.
    Batch(u8),
    /// Has applied the events, if apply and checkpoint are two transactions.
    Half(u8),
    /// Has read the parking row and not committed the retry.
    Retry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Worker {
    at: At,
    /// The checkpoint this worker knows of.
    view: u8,
    /// The message this worker has not acknowledged.
    frame: Option<Frame>,
    /// The parked aggregates this worker knows of, if it reads them too early.
    parked: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    head: u8,
    relays: [Relay; 2],
    /// The relay that holds the lease.
    leader: Option<usize>,
    relayed: u8,
    /// Confirmed positions, as a bit set.
    confirmed: u8,
    /// Queued frames, as a bit set.
    queue: u8,
    checkpoint: u8,
    /// Applied positions, as a bit set.
    applied: u8,
    /// Parked aggregates, as a bit set.
    parked: u8,
    repaired: bool,
    workers: [Worker; 2],
}

type Steps = Vec<Step<State>>;

/// Returns the aggregate of an event: 1 and 3 belong to one, 2 and 4 to the other.
fn aggregate(position: u8) -> u8 {
    bit(2 - position % 2)
}

impl Model for Delivery {
    type State = State;

    fn start(&self) -> State {
        State {
            head: 0,
            relays: Default::default(),
            leader: None,
            relayed: 0,
            confirmed: 0,
            queue: 0,
            checkpoint: 0,
            applied: 0,
            parked: 0,
            repaired: self.poison.is_none(),
            workers: Default::default(),
        }
    }

    fn steps(&self, state: &State, steps: &mut Steps) {
        if state.head < self.events {
            steps.push(Step::new(Regular, "an event is appended", State { head: state.head + 1, ..*state }));
        }
        if !state.repaired {
            steps.push(Step::new(Regular, "the projection is repaired", State { repaired: true, ..*state }));
        }
        if self.broker == Broker::Lossy {
            for frame in Frame::all(state.head).filter(|frame| state.queue & frame.bit() != 0) {
                let queue = state.queue & !frame.bit();
                steps.push(Step::new(Fault, "the broker loses a message", State { queue, ..*state }));
            }
        }
        for index in 0..self.relays {
            self.relay(state, index, steps);
        }
        for index in 0..self.workers {
            self.worker(state, index, steps);
        }
        for state in steps.iter_mut().filter_map(|step| step.to.as_mut().ok()) {
            self.sort(state);
        }
    }

    fn violation(&self, state: &State) -> Option<&'static str> {
        // If that rule itself is broken, the search must find the consequence instead.
        if state.relayed > prefix(state.confirmed) && self.broken != Broken::CheckpointBeforeConfirm {
            return Some("the relay's checkpoint is beyond what was confirmed");
        }
        let reached = |position: u8| has(state.applied, position) || state.parked & aggregate(position) != 0;
        (!(1..=state.checkpoint).all(reached)).then_some("an event was skipped")
    }

    fn done(&self, state: &State) -> bool {
        let relayed = self.broker == Broker::Arbitrary || state.relayed == self.events;
        let applied = self.workers == 0 || state.applied == up_to(self.events) && state.parked == 0;
        state.head == self.events && relayed && applied
    }
}

impl Delivery {
    /// Sorts interchangeable relays and workers, which merges equivalent states.
    fn sort(&self, state: &mut State) {
        state.workers[..self.workers].sort_unstable();
        if self.relays == 2 && state.relays[0] > state.relays[1] {
            state.relays.swap(0, 1);
            state.leader = state.leader.map(|leader| 1 - leader);
        }
    }

    fn worker(&self, state: &State, index: usize, steps: &mut Steps) {
        let worker = state.workers[index];
        let with = |worker| with_worker(state, index, worker);
        if worker.at == At::Down {
            let started = Worker { at: At::Open, view: state.checkpoint, ..worker };
            steps.push(Step::new(Regular, "a worker starts", with(started)));
            return;
        }
        let mut crashed = with(Worker::default());
        if self.broken != Broken::AcknowledgeFirst {
            self.give_back(&mut crashed, worker.frame);
        }
        steps.push(Step::new(Fault, "a worker crashes", crashed));
        match (worker.at, worker.frame) {
            (At::Open, Some(frame)) => self.gate(state, index, frame, steps),
            (At::Open, None) => {
                self.receive(state, index, steps);
                if self.sweep == Sweep::On {
                    self.read(state, index, "a worker sweeps", steps);
                }
                if state.parked != 0 && state.repaired {
                    steps.push(Step::new(Regular, "a retry begins", with(Worker { at: At::Retry, ..worker })));
                }
            }
            (At::Batch(through), _) => self.commit(state, index, through, steps),
            (At::Half(through), _) => {
                let next = with(Worker { at: At::Open, view: through, ..worker });
                steps.push(Step::new(Regular, "a worker moves the checkpoint", State { checkpoint: through, ..next }));
            }
            (At::Retry, _) => self.retry(state, index, steps),
            (At::Down, _) => unreachable!("stopped workers are handled above"),
        }
    }

    fn receive(&self, state: &State, index: usize, steps: &mut Steps) {
        let worker = state.workers[index];
        for frame in Frame::all(state.head) {
            let next = with_worker(state, index, Worker { frame: Some(frame), ..worker });
            let queue = state.queue & !frame.bit();
            match self.broker {
                Broker::Arbitrary => steps.push(Step::new(Fault, "a message arrives", next)),
                Broker::Durable | Broker::Lossy if state.queue != queue => {
                    steps.push(Step::new(Regular, "a message arrives", State { queue, ..next }));
                    if self.broker == Broker::Lossy {
                        steps.push(Step::new(Fault, "a message arrives and will be redelivered", next));
                    }
                }
                Broker::Durable | Broker::Lossy => {}
            }
        }
    }

    fn give_back(&self, state: &mut State, frame: Option<Frame>) {
        if self.broker != Broker::Arbitrary {
            state.queue |= frame.map_or(0, Frame::bit);
        }
    }

    fn gate(&self, state: &State, index: usize, frame: Frame, steps: &mut Steps) {
        let worker = state.workers[index];
        let with = |worker| with_worker(state, index, worker);
        let batch = Worker { at: At::Batch(frame.last), parked: self.parked_early(state), ..worker };
        if frame.last <= worker.view {
            steps.push(Step::new(Regular, "a worker acknowledges", with(Worker { frame: None, ..worker })));
        } else if frame.first <= worker.view + 1 || self.broken == Broken::NoGate {
            steps.push(Step::new(Regular, "the gate admits a frame", with(batch)));
        } else {
            self.read(state, index, "a worker reads the gap before its frame", steps);
        }
    }

    /// Adds a step for each page size that a worker may read from the store.
    fn read(&self, state: &State, index: usize, what: &'static str, steps: &mut Steps) {
        let worker = state.workers[index];
        for last in worker.view + 1..=state.head {
            let batch = Worker { at: At::Batch(last), parked: self.parked_early(state), ..worker };
            steps.push(Step::new(Regular, what, with_worker(state, index, batch)));
        }
    }

    fn parked_early(&self, state: &State) -> u8 {
        if self.broken == Broken::ParkedSeenEarly { state.parked } else { 0 }
    }

    /// Commits one transaction: events, checkpoint and parking row change together.
    fn commit(&self, state: &State, index: usize, through: u8, steps: &mut Steps) {
        let worker = state.workers[index];
        if state.checkpoint != worker.view && self.broken != Broken::NoCompare {
            steps.push(Step::new(Regular, "a worker loses the race", self.lost_race(state, index)));
            return;
        }
        let first = match worker.frame {
            Some(frame) if self.broken == Broken::NoGate => frame.first,
            _ => worker.view + 1,
        };
        let mut next = *state;
        if self.broken == Broken::MoveThenApply {
            next.checkpoint = through;
            steps.push(Step::new(Regular, "a worker moves the checkpoint", next));
            return;
        }
        let applied = self.apply_batch(&mut next, worker, first, through);
        if self.broken == Broken::ApplyThenMove {
            next.workers[index].at = At::Half(through);
            steps.push(Step { what: "a worker applies", kind: Regular, to: applied.map(|_| next) });
            return;
        }
        let to = applied.map(|through| {
            next.checkpoint = through;
            next
        });
        push_commit("a worker commits a batch", state, index, to, steps);
    }

    /// Applies events up to the first that fails; if that is `first`, parks its aggregate. Returns the last position that is handled.
    fn apply_batch(&self, state: &mut State, worker: Worker, first: u8, last: u8) -> Result<u8, &'static str> {
        for position in first..=last {
            let parked = if self.broken == Broken::ParkedSeenEarly { worker.parked } else { state.parked };
            if parked & aggregate(position) != 0 && self.broken != Broken::ParkedNotPassedOver {
                continue;
            }
            if self.poison == Some(position) && !state.repaired {
                if position > first {
                    return Ok(position - 1);
                }
                state.parked |= aggregate(position);
                return Ok(position);
            }
            apply(state, position)?;
        }
        Ok(last)
    }

    fn lost_race(&self, state: &State, index: usize) -> State {
        let worker = Worker { at: At::Open, view: state.checkpoint, parked: 0, ..state.workers[index] };
        let kept = self.broken != Broken::AcknowledgeAfterLostRace;
        with_worker(state, index, Worker { frame: worker.frame.filter(|_| kept), ..worker })
    }

    /// Applies the events from the poisoned one to the checkpoint and deletes the parking row, in one transaction.
    fn retry(&self, state: &State, index: usize, steps: &mut Steps) {
        let Some(poison) = self.poison else { return };
        let row_gone = state.parked == 0 && self.broken != Broken::RetryWithoutRow;
        let moved = state.checkpoint != state.workers[index].view && self.broken != Broken::RetryWithoutCompare;
        if row_gone || moved {
            steps.push(Step::new(Regular, "a retry loses the race", self.lost_race(state, index)));
            return;
        }
        let beyond = self.broken == Broken::RetryBeyondCheckpoint;
        let last = if beyond { state.head } else { state.workers[index].view };
        let mut next = State { parked: 0, ..*state };
        let mut own = (poison..=last).filter(|&position| aggregate(position) == aggregate(poison));
        let to = own.try_for_each(|position| apply(&mut next, position)).map(|()| next);
        push_commit("a retry commits", state, index, to, steps);
    }
}

fn with_worker(state: &State, index: usize, worker: Worker) -> State {
    let mut next = *state;
    next.workers[index] = worker;
    next
}

fn apply(state: &mut State, position: u8) -> Result<(), &'static str> {
    if has(state.applied, position) {
        return Err("an event was applied twice");
    }
    let mut earlier = (1..position).filter(|&earlier| aggregate(earlier) == aggregate(position));
    if !earlier.all(|earlier| has(state.applied, earlier)) {
        return Err("an event overtook an earlier one of its aggregate");
    }
    state.applied |= bit(position);
    Ok(())
}

/// Adds the commit with and without its answer: if the answer is lost, the worker tries again.
fn push_commit(what: &'static str, before: &State, index: usize, to: Result<State, &'static str>, steps: &mut Steps) {
    let known = to.map(|state| {
        let worker = Worker { at: At::Open, view: state.checkpoint, parked: 0, ..before.workers[index] };
        with_worker(&state, index, worker)
    });
    steps.push(Step { what, kind: Regular, to: known });
    if let Ok(state) = to {
        steps.push(Step::new(Fault, "a commit's answer is lost", state));
    }
}
