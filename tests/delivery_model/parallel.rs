//! Order per aggregate: competing workers, one row per aggregate, and a swept position.
//!
//! Any frame arrives at any time, repeatedly, or never: this covers everything that relays and brokers can do to a worker.

use crate::search::{Fault, Frame, Model, Regular, Step, bit, has};

/// The rule that a negative test breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Nothing,
    /// A worker applies a version beyond the next one without reading the missing versions.
    NoFill,
    /// Rows are read before they are locked, or do not exist yet and so cannot be locked.
    RowsReadUnlocked,
    /// Each worker locks rows in the order of its events.
    LockedInLogOrder,
    /// A sweep skips events that another worker is applying.
    SweptOverOthers,
    /// A worker that has applied a frame moves the swept position over it.
    SweptByFrames,
    /// The swept position moves before the sweep commits.
    SweptFirst,
    /// The swept position moves without comparing its old value.
    NoCompare,
    /// A view that two aggregates share is read without a lock.
    ViewLoadedUnlocked,
    /// A retry applies events up to the swept position, as it would up to the checkpoint in log order.
    RetriedToSwept,
    /// A retry reads the log's head before it locks the row.
    HeadReadUnlocked,
    ParkedNotPassedOver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadModel {
    /// Each aggregate has its own rows.
    PerAggregate,
    /// All aggregates share one row, which is read, folded and written back.
    Shared,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery {
    /// The aggregate of each event, in log order.
    pub(crate) log: &'static [usize],
    pub(crate) read_model: ReadModel,
    /// The event that the projection cannot apply until it is repaired.
    pub(crate) poison: Option<u8>,
    pub(crate) broken: Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
enum At {
    #[default]
    Down,
    Idle,
    /// In a transaction that applies a frame.
    Frame(Frame),
    /// In a sweep's transaction. Everything before the frame is already swept.
    Sweep(Frame),
    /// The sweep's events are committed; the swept position has not moved yet.
    Swept(Frame),
    /// In a transaction that applies a parked aggregate up to this position (zero: not known yet).
    Retry(u8),
}

/// Lock bits: one for each aggregate's row, and this one for the shared view.
const VIEW: u8 = 0b100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Worker {
    at: At,
    locked: u8,
    /// The rows as this worker read them.
    rows: [u8; 2],
    /// The parked aggregates this worker knows of, as a bit set.
    parked: u8,
    /// The shared view as this worker read it.
    view: u8,
}

impl Worker {
    fn at(at: At) -> Self {
        Self { at, ..Self::default() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct State {
    head: u8,
    /// Last applied version of each aggregate.
    rows: [u8; 2],
    /// The read model: the applied positions, as a bit set.
    applied: u8,
    /// The parked aggregates, as a bit set; stored in their rows.
    parked: u8,
    repaired: bool,
    swept: u8,
    workers: [Worker; 2],
}

type Steps = Vec<Step<State>>;

impl Model for Delivery {
    type State = State;

    fn start(&self) -> State {
        State { repaired: self.poison.is_none(), ..State::default() }
    }

    fn steps(&self, state: &State, steps: &mut Steps) {
        if usize::from(state.head) < self.log.len() {
            steps.push(Step::new(Regular, "an event is appended", State { head: state.head + 1, ..*state }));
        }
        if !state.repaired {
            steps.push(Step::new(Regular, "the projection is repaired", State { repaired: true, ..*state }));
        }
        for index in 0..2 {
            self.worker(state, index, steps);
        }
        for state in steps.iter_mut().filter_map(|step| step.to.as_mut().ok()) {
            // Workers are interchangeable: sorting them merges equivalent states.
            state.workers.sort_unstable();
        }
    }

    fn violation(&self, state: &State) -> Option<&'static str> {
        let counted = |position: u8| self.version(position) <= state.rows[self.aggregate(position)];
        if !(1..=state.head).all(|position| counted(position) == has(state.applied, position)) {
            return Some("the rows and the read model differ");
        }
        let settled = |position| has(state.applied, position) || state.parked & self.row(position) != 0;
        let settled = (1..=state.swept).all(settled);
        (!settled).then_some("an event at or before the swept position is neither applied nor parked")
    }

    fn done(&self, state: &State) -> bool {
        usize::from(state.swept) == self.log.len() && state.parked == 0
    }
}

impl Delivery {
    fn aggregate(&self, position: u8) -> usize {
        self.log[usize::from(position) - 1]
    }

    /// Returns the lock bit of the row of this event's aggregate.
    fn row(&self, position: u8) -> u8 {
        1 << self.aggregate(position)
    }

    fn version(&self, position: u8) -> u8 {
        (1..=position).map(|earlier| u8::from(self.aggregate(earlier) == self.aggregate(position))).sum()
    }

    fn worker(&self, state: &State, index: usize, steps: &mut Steps) {
        let worker = state.workers[index];
        let with = |worker| with_worker(state, index, worker);
        if worker.at == At::Down {
            steps.push(Step::new(Regular, "a worker starts", with(Worker::at(At::Idle))));
            return;
        }
        steps.push(Step::new(Fault, "a worker crashes", with(Worker::default())));
        match worker.at {
            At::Idle => self.begin(state, index, steps),
            At::Frame(range) | At::Sweep(range) => self.transaction(state, index, range, steps),
            At::Retry(_) => {
                // A retry locks only the row of its aggregate.
                let poison = self.poison.unwrap_or_default();
                self.transaction(state, index, Frame { first: poison, last: poison }, steps);
            }
            At::Swept(range) => self.sweep(state, index, range, steps),
            At::Down => unreachable!("stopped workers are handled above"),
        }
    }

    fn begin(&self, state: &State, index: usize, steps: &mut Steps) {
        let with = |at| with_worker(state, index, Worker::at(at));
        for frame in Frame::all(state.head) {
            steps.push(Step::new(Fault, "a message arrives", with(At::Frame(frame))));
        }
        for last in state.swept + 1..=state.head {
            let mut next = with(At::Sweep(Frame { first: state.swept + 1, last }));
            if self.broken == Broken::SweptFirst {
                next.swept = last;
            }
            steps.push(Step::new(Regular, "a sweep begins", next));
        }
        if state.parked != 0 && state.repaired {
            let head = if self.broken == Broken::HeadReadUnlocked { state.head } else { 0 };
            steps.push(Step::new(Regular, "a retry begins", with(At::Retry(head))));
        }
    }

    fn transaction(&self, state: &State, index: usize, range: Frame, steps: &mut Steps) {
        match self.next_lock(state.workers[index], range) {
            Some(lock) => self.lock(state, index, lock, steps),
            None => self.commit(state, index, range, steps),
        }
    }

    fn sweep(&self, state: &State, index: usize, range: Frame, steps: &mut Steps) {
        let mut next = with_worker(state, index, Worker::at(At::Idle));
        if state.swept == range.first - 1 || self.broken == Broken::NoCompare {
            next.swept = range.last;
        } else if self.broken == Broken::SweptByFrames {
            next.swept = range.last.max(state.swept);
        }
        let backward = next.swept < state.swept;
        let to = if backward { Err("the swept position went backward") } else { Ok(next) };
        steps.push(Step { what: "the swept position moves", kind: Regular, to });
    }

    /// Returns the next lock to take: the batch's rows in key order, then the view.
    fn next_lock(&self, worker: Worker, range: Frame) -> Option<u8> {
        let mut rows: Vec<usize> = (range.first..=range.last).map(|position| self.aggregate(position)).collect();
        if self.broken != Broken::LockedInLogOrder {
            rows.sort_unstable();
        }
        let view = (self.read_model == ReadModel::Shared).then_some(VIEW);
        rows.into_iter().map(|row| 1 << row).chain(view).find(|lock| worker.locked & lock == 0)
    }

    /// Locks and reads a row in one statement.
    fn lock(&self, state: &State, index: usize, lock: u8, steps: &mut Steps) {
        let locks = match lock {
            VIEW => self.broken != Broken::ViewLoadedUnlocked,
            _ => self.broken != Broken::RowsReadUnlocked,
        };
        if locks && state.workers[1 - index].locked & lock != 0 {
            return;
        }
        let mut worker = state.workers[index];
        worker.locked |= lock;
        if lock == VIEW {
            worker.view = state.applied;
        } else {
            let row = lock.trailing_zeros() as usize;
            worker.rows[row] = state.rows[row];
            worker.parked |= state.parked & lock;
            if worker.at == At::Retry(0) {
                let swept = self.broken == Broken::RetriedToSwept;
                worker.at = At::Retry(if swept { state.swept } else { state.head });
            }
        }
        steps.push(Step::new(Regular, "a worker locks a row", with_worker(state, index, worker)));
    }

    fn commit(&self, state: &State, index: usize, range: Frame, steps: &mut Steps) {
        let worker = state.workers[index];
        let to = self.apply(state, index, range);
        let after = match worker.at {
            At::Sweep(_) => At::Swept(range),
            At::Frame(_) if self.broken == Broken::SweptByFrames => At::Swept(range),
            // An acknowledged message may or may not be redelivered, like every message here.
            _ => At::Idle,
        };
        let known = to.map(|next| with_worker(&next, index, Worker::at(after)));
        steps.push(Step { what: "a worker commits", kind: Regular, to: known });
        if let Ok(next) = to {
            let again = if let At::Retry(_) = worker.at { At::Retry(0) } else { worker.at };
            let unknown = with_worker(&next, index, Worker::at(again));
            steps.push(Step::new(Fault, "a commit's answer is lost", unknown));
        }
    }

    /// Returns the state after the transaction commits.
    fn apply(&self, state: &State, index: usize, range: Frame) -> Result<State, &'static str> {
        let worker = state.workers[index];
        let retry = matches!(worker.at, At::Retry(_));
        let (mut rows, mut batch) = (worker.rows, 0);
        let mut parked = if retry { 0 } else { worker.parked };
        for position in self.due(state, index, range) {
            let (row, version) = (&mut rows[self.aggregate(position)], self.version(position));
            let passed_over = parked & self.row(position) != 0 && self.broken != Broken::ParkedNotPassedOver;
            if version <= *row || passed_over {
                continue;
            }
            if self.poison == Some(position) && !state.repaired {
                parked |= self.row(position);
                continue;
            }
            batch |= bit(position);
            *row = version;
        }
        if batch & state.applied != 0 {
            return Err("an event was applied twice");
        }
        let mut next = *state;
        for row in (0..2).filter(|row| worker.locked & 1 << row != 0) {
            next.rows[row] = rows[row];
        }
        next.parked = state.parked & !worker.locked | parked;
        let before = if self.read_model == ReadModel::Shared { worker.view } else { state.applied };
        next.applied = before | batch;
        Ok(next)
    }

    /// Returns the events to consider, in order: those of the range, each after the earlier events of its aggregate.
    fn due(&self, state: &State, index: usize, range: Frame) -> Vec<u8> {
        let worker = state.workers[index];
        let other = state.workers[1 - index].at;
        let anothers = |position| matches!(other, At::Frame(frame) if (frame.first..=frame.last).contains(&position));
        let range = range.first..=range.last;
        match worker.at {
            // Another worker's retry was faster.
            At::Retry(_) if worker.parked == 0 => vec![],
            At::Retry(through) => range.flat_map(|poison| self.own(poison, through)).collect(),
            At::Sweep(_) if self.broken == Broken::SweptOverOthers => range.filter(|&at| !anothers(at)).collect(),
            _ if self.broken == Broken::NoFill => range.collect(),
            _ => range.flat_map(|position| self.own(position, position)).collect(),
        }
    }

    /// Returns the events of the same aggregate up to `through`, in store order.
    fn own(&self, position: u8, through: u8) -> impl Iterator<Item = u8> {
        (1..=through).filter(move |&other| self.aggregate(other) == self.aggregate(position))
    }
}

fn with_worker(state: &State, index: usize, worker: Worker) -> State {
    let mut next = *state;
    next.workers[index] = worker;
    next
}
