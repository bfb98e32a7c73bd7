//! Log order: relays, broker, and workers of one projection, with parking.

mod relay;

use relay::{Relay, prefix, up_to};

use crate::search::{Fault, Frame, Model, Regular, Step, bit, has};

/// What the broker does with messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broker {
    /// There is no relay: any frame of the log comes at any time, again and again, or never. Whatever relays and brokers do, it looks
    /// like this to a worker.
    Whatever,
    /// Keeps what it has confirmed until it is acknowledged, in no order.
    Keeps,
    /// Loses messages and doubles them. A queue that is wiped is one that loses them all.
    Forgets,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sweep {
    On,
    Off,
}

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Nothing,
    /// A worker applies each frame that comes.
    NoGate,
    /// The checkpoint moves in a transaction of its own.
    ApplyThenMove,
    MoveThenApply,
    AcknowledgeFirst,
    /// A worker acknowledges a frame although another was faster and its own commit came to nothing.
    AcknowledgeAfterLostRace,
    /// The checkpoint moves from wherever it is.
    NoCompare,
    /// A relay writes its checkpoint without showing that it still leads.
    NoFence,
    /// A relay moves its checkpoint over all it has sent.
    KeepBeforeConfirm,
    /// A relay moves its checkpoint to the last confirmed event, whatever is open before it.
    KeepBeyondPrefix,
    RetryBeyondCheckpoint,
    RetryWithoutCompare,
    /// A retry does not look whether the row is still there.
    RetryWithoutRow,
    /// The parking rows are read before the transaction begins, or in it before the checkpoint's row is locked.
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
    /// With a frame in hand: at the gate. Without: waits.
    Open,
    /// Has the events up to here in hand and not committed them.
    Batch(u8),
    /// Where apply and checkpoint are two transactions: has applied.
    Half(u8),
    /// Has looked at the parking row and not committed the retry.
    Retry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Worker {
    at: At,
    /// The checkpoint as it knows it.
    view: u8,
    /// The message it has not acknowledged.
    frame: Option<Frame>,
    /// The parked aggregates, where they are looked at too early.
    parked: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    head: u8,
    relays: [Relay; 2],
    /// The relay whose lease it is.
    leader: Option<usize>,
    relayed: u8,
    /// The positions whose confirm has come to some relay.
    confirmed: u8,
    /// Frames.
    queue: u8,
    checkpoint: u8,
    /// Positions.
    applied: u8,
    /// Aggregates.
    parked: u8,
    repaired: bool,
    workers: [Worker; 2],
}

type Steps = Vec<Step<State>>;

/// Events 1 and 3 are of one aggregate, 2 and 4 of the other.
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
        if self.broker == Broker::Forgets {
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
        // Where that rule itself is broken, what comes of it is to be found.
        if state.relayed > prefix(state.confirmed) && self.broken != Broken::KeepBeforeConfirm {
            return Some("the relay's checkpoint is beyond what was confirmed");
        }
        let reached = |position: u8| has(state.applied, position) || state.parked & aggregate(position) != 0;
        (!(1..=state.checkpoint).all(reached)).then_some("an event was skipped")
    }

    fn done(&self, state: &State) -> bool {
        let relayed = self.broker == Broker::Whatever || state.relayed == self.events;
        let applied = self.workers == 0 || state.applied == up_to(self.events) && state.parked == 0;
        state.head == self.events && relayed && applied
    }
}

impl Delivery {
    /// Which of the relays and workers is where makes no difference.
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
            (At::Down, _) => unreachable!("has started above"),
        }
    }

    fn receive(&self, state: &State, index: usize, steps: &mut Steps) {
        let worker = state.workers[index];
        for frame in Frame::all(state.head) {
            let next = with_worker(state, index, Worker { frame: Some(frame), ..worker });
            let queue = state.queue & !frame.bit();
            match self.broker {
                Broker::Whatever => steps.push(Step::new(Fault, "a message comes", next)),
                Broker::Keeps | Broker::Forgets if state.queue != queue => {
                    steps.push(Step::new(Regular, "a message comes", State { queue, ..next }));
                    if self.broker == Broker::Forgets {
                        steps.push(Step::new(Fault, "a message comes, and will come again", next));
                    }
                }
                Broker::Keeps | Broker::Forgets => {}
            }
        }
    }

    fn give_back(&self, state: &mut State, frame: Option<Frame>) {
        if self.broker != Broker::Whatever {
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
            steps.push(Step::new(Regular, "the gate lets a frame in", with(batch)));
        } else {
            self.read(state, index, "a worker reads the hole before its frame", steps);
        }
    }

    /// Pages of the store, of any size.
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

    /// One transaction. Apply, checkpoint and parking row become true together.
    fn commit(&self, state: &State, index: usize, through: u8, steps: &mut Steps) {
        let worker = state.workers[index];
        if state.checkpoint != worker.view && self.broken != Broken::NoCompare {
            steps.push(Step::new(Regular, "a worker finds that another was faster", self.lost_race(state, index)));
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

    /// Up to the event that fails, or, where that is the first, parks its aggregate. Returns the last position it is through with.
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

    /// Applies what lies between the poisoned event and the checkpoint and removes the row, in one transaction.
    fn retry(&self, state: &State, index: usize, steps: &mut Steps) {
        let Some(poison) = self.poison else { return };
        let row_gone = state.parked == 0 && self.broken != Broken::RetryWithoutRow;
        let moved = state.checkpoint != state.workers[index].view && self.broken != Broken::RetryWithoutCompare;
        if row_gone || moved {
            steps.push(Step::new(Regular, "a retry comes too late", self.lost_race(state, index)));
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

/// The database has it. The worker hears of it, or does not and tries again.
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
