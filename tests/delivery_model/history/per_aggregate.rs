//! A worker with order per aggregate: a row for each of two aggregates, a swept position, frames of both histories.
//!
//! A worker that has applied a lost event notices that at its next sweeps, so the claims are checked when it remembers nothing that it has not
//! compared.

use super::{EVENTS, Event, Events, History, Log, Mark, SILENT};
use crate::search::{Fault, Model, Regular, Step};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Nothing,
    /// The rows of a page are not looked at again after the swept position has moved.
    SweptNotLookedAt,
    /// Applied events are not compared with the log.
    AppliedNotCompared,
    /// Rows ahead of the sweep are not compared with the log.
    AheadNotCompared,
    /// A refused worker stores nothing, so the next one is not refused.
    RefusalNotStored,
    /// A worker keeps the larger one of its own and the stored position.
    KeepsTheLarger,
    /// Only the start compares the event at the swept position.
    ComparedAtStartOnly,
}

/// The faults of a model, in addition to the replacement of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Faults {
    Frames,
    /// Log and read models go back together or alone.
    Restores,
    /// The worker crashes once.
    Crash,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery {
    pub(crate) faults: Faults,
    pub(crate) broken: Broken,
}

/// The last version and event that a row has seen.
type Row = (u8, Mark);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Models {
    rows: [Row; 2],
    applied: Events,
    swept: Mark,
}

/// A page of the log, and the last version and event of each aggregate in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Page {
    from: Mark,
    to: Mark,
    events: Events,
    last: [Row; 2],
}

impl Page {
    fn of(log: Log, from: Mark, to: u8) -> Self {
        let mut last = [Row::default(); 2];
        for event in log.marks(from.position, to) {
            last[usize::from(event.event.aggregate)] = (log.version(event), event);
        }
        Self { from, to: log.mark(to), events: log.events(from.position, to), last }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum At {
    #[default]
    Down,
    Idle,
    /// Has read a page.
    Read(Page),
    /// Has applied a page, and not moved the swept position.
    Applied(Page),
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Worker {
    at: At,
    view: Mark,
    /// The last event that it has applied since its last sweep.
    newest: Option<Mark>,
    /// Events that rows have seen and that no sweep has read.
    ahead: Events,
    /// Those of them that were there when the last sweep began.
    old: Events,
    swept: Option<Page>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct State {
    history: History,
    models: Models,
    backup: Option<(Log, Models)>,
    is_restored: bool,
    has_crashed: bool,
    worker: Worker,
}

type Steps = Vec<Step<State>>;

/// An event that no log has: the swept place of a refused projection.
const NOWHERE: Event = Event { era: 3, aggregate: 0 };

impl History {
    /// Returns the version of an event in the log that has it.
    fn version_of(self, mark: Mark) -> u8 {
        if self.log.has(mark) { self.log.version(mark) } else { self.lost.version(mark) }
    }

    fn marks_of(self, events: Events) -> impl Iterator<Item = Mark> {
        let lost = self.lost.marks(0, self.lost.head()).filter(move |mark| !self.log.has(*mark));
        self.log.marks(0, self.log.head()).chain(lost).filter(move |mark| events.has(*mark))
    }
}

impl Model for Delivery {
    type State = State;

    fn start(&self) -> State {
        State::default()
    }

    fn steps(&self, state: &State, steps: &mut Steps) {
        state.history.steps(2, steps, |history| State { history, ..*state });
        if self.faults == Faults::Restores {
            restore(state, steps);
        }
        self.worker(state, steps);
    }

    fn violation(&self, state: &State) -> Option<&'static str> {
        let (log, models, worker) = (state.history.log, state.models, state.worker);
        let compares = worker.newest.is_some() || worker.ahead.0 | worker.old.0 != 0 || worker.swept.is_some();
        // A place that is not the stored one is followed first.
        if worker.at != At::Idle || compares || !log.has(models.swept) || worker.view != models.swept {
            return None;
        }
        let passed = log.events(0, models.swept.position);
        let is_skipped = passed.0 & !models.applied.0 != 0;
        // A worker that did not apply a lost event itself notices it with the next event of its aggregate.
        let is_lost =
            self.faults == Faults::Frames && state.history.marks_of(models.applied).any(|mark| !log.has(mark));
        (is_skipped || is_lost).then_some(SILENT)
    }

    fn done(&self, state: &State) -> bool {
        let log = state.history.log;
        let is_swept = state.history.is_full() && state.models.swept == log.mark(EVENTS);
        is_swept && (self.faults != Faults::Frames || state.models.applied == log.events(0, EVENTS))
    }
}

fn restore(state: &State, steps: &mut Steps) {
    let State { history, models, .. } = *state;
    if state.is_restored {
        return;
    }
    let Some((log, restored)) = state.backup else {
        // A backup with lost events beyond its swept position would be restored into another history only by mistake.
        let is_at_rest = || models.applied == history.log.events(0, models.swept.position);
        if !history.is_replaced && is_at_rest() {
            steps.push(Step::new(Fault, "a backup is taken", State { backup: Some((history.log, models)), ..*state }));
        }
        return;
    };
    let alone = State { models: restored, is_restored: true, ..*state };
    steps.push(Step::new(Fault, "the read model is restored", alone));
    if !history.is_replaced {
        let history = History { log, lost: history.log, is_replaced: true };
        steps.push(Step::new(Fault, "log and read model are restored", State { history, ..alone }));
    }
}

impl Delivery {
    fn worker(self, state: &State, steps: &mut Steps) {
        let (log, stored, worker) = (state.history.log, state.models.swept, state.worker);
        let with = |worker| State { worker, ..*state };
        match worker.at {
            At::Down => {
                let at = if log.has(stored) { At::Idle } else { At::Refused };
                let started = Worker { at, view: stored, ..Worker::default() };
                steps.push(Step::new(Regular, "a worker starts", with(started)));
                return;
            }
            At::Refused => {
                steps.push(Step::new(Regular, "a refused worker starts again", with(Worker::default())));
                if !log.has(stored) {
                    let reset = State { models: Models::default(), ..with(Worker::default()) };
                    steps.push(Step::new(Regular, "an operator resets the projection", reset));
                }
                return;
            }
            At::Idle => {
                if self.faults == Faults::Frames {
                    self.receive(state, steps);
                }
                self.sweep(state, steps);
            }
            At::Read(page) => {
                let to = self.settle(state, page);
                steps.push(Step { what: "a worker applies a page", kind: Regular, to });
            }
            At::Applied(page) => {
                let mut next = with(Worker { at: At::Idle, ..worker });
                if stored == worker.view {
                    next.models.swept = page.to;
                    (next.worker.view, next.worker.newest) = (page.to, None);
                    let is_kept = self.broken != Broken::SweptNotLookedAt;
                    next.worker.swept = is_kept.then_some(page);
                } else {
                    self.follow(&mut next);
                }
                steps.push(Step::new(Regular, "the swept position moves", next));
            }
        }
        if self.faults == Faults::Crash && !state.has_crashed {
            let crashed = State { has_crashed: true, ..with(Worker::default()) };
            steps.push(Step::new(Fault, "a worker crashes", crashed));
        }
    }

    fn receive(self, state: &State, steps: &mut Steps) {
        let State { history, worker, .. } = *state;
        let all = history.log.marks(0, history.log.head()).chain(history.lost.marks(0, history.lost.head()));
        for event in all.filter(|event| event.position > worker.view.position) {
            let mut next = *state;
            match apply(&mut next, event) {
                Applied::Known | Applied::Unread => continue,
                Applied::Refused(lost) => drop(self.refuse(&mut next, lost)),
                Applied::Twice => {
                    steps.push(Step { what: "a frame arrives", kind: Fault, to: Err("an event was applied twice") });
                    continue;
                }
                Applied::Done if self.broken == Broken::AppliedNotCompared => {}
                Applied::Done => {
                    let newest = worker.newest.filter(|newest| newest.position >= event.position).unwrap_or(event);
                    next.worker.newest = Some(newest);
                    next.worker.ahead = worker.ahead.with(event);
                }
            }
            steps.push(Step::new(Fault, "a frame arrives", next));
        }
    }

    /// Continues from the stored place.
    fn follow(self, next: &mut State) {
        let (stored, worker) = (next.models.swept, &mut next.worker);
        let is_larger = self.broken == Broken::KeepsTheLarger && worker.view.position > stored.position;
        if stored == worker.view || is_larger {
            return;
        }
        if stored.position <= worker.view.position {
            (worker.newest, worker.swept) = (None, None);
        }
        (worker.ahead, worker.old, worker.view) = (Events::default(), Events::default(), stored);
    }

    /// Ends the worker because of a lost event, unless its row no longer has it. Returns whether the worker has ended.
    fn refuse(self, next: &mut State, lost: Mark) -> bool {
        let version = next.history.version_of(lost);
        if next.models.rows[usize::from(lost.event.aggregate)].0 < version {
            return false;
        }
        if self.broken != Broken::RefusalNotStored {
            next.models.swept = Mark { position: next.models.swept.position.max(1), event: NOWHERE };
        }
        next.worker = Worker { at: At::Refused, ..Worker::default() };
        true
    }

    /// Compares what the worker remembers, and reads a page.
    fn sweep(self, state: &State, steps: &mut Steps) {
        let mut next = *state;
        let log = state.history.log;
        self.follow(&mut next);
        if let Some(newest) = next.worker.newest.take()
            && newest.position > next.worker.view.position
            && !log.has(newest)
            && self.refuse(&mut next, newest)
        {
            steps.push(Step::new(Regular, "a worker finds that the log lost an event", next));
            return;
        }
        for old in state.history.marks_of(next.worker.old) {
            if !log.has(old) && self.refuse(&mut next, old) {
                steps.push(Step::new(Regular, "a sweep did not read an applied event", next));
                return;
            }
        }
        next.worker.old = next.worker.ahead;
        match self.look_again(&mut next) {
            Looked::Unchanged | Looked::Applied => {}
            Looked::Refused => {
                steps.push(Step::new(Regular, "a restored row is of the lost history", next));
                return;
            }
        }
        let view = next.worker.view;
        if !log.has(view) && self.broken != Broken::ComparedAtStartOnly {
            next.worker = Worker { at: At::Refused, ..Worker::default() };
            steps.push(Step::new(Regular, "a worker is refused", next));
            return;
        }
        if next != *state {
            steps.push(Step::new(Regular, "a sweep ends", next));
        }
        for to in view.position + 1..=log.head() {
            let page = Page::of(log, view, to);
            let worker = Worker { at: At::Read(page), ..next.worker };
            steps.push(Step::new(Regular, "a worker reads a page", State { worker, ..next }));
        }
    }

    /// Looks at the rows of the page that the last sweep moved over, and applies it again if they lack it.
    fn look_again(self, next: &mut State) -> Looked {
        let (log, rows) = (next.history.log, next.models.rows);
        let Some(page) = next.worker.swept.take() else { return Looked::Unchanged };
        let lacks = |(row, last): (Row, Row)| row.0 < last.0 || row.0 == last.0 && row.1 != last.1;
        if !rows.into_iter().zip(page.last).any(lacks) {
            for (row, last) in rows.into_iter().zip(page.last) {
                if last.0 > 0 && row.0 > last.0 && self.broken != Broken::AheadNotCompared {
                    next.worker.ahead = next.worker.ahead.with(row.1);
                }
            }
            return Looked::Unchanged;
        }
        self.follow(next);
        if log.has(page.from) && next.worker.view.position >= page.to.position {
            for event in log.marks(page.from.position, page.to.position.min(log.head())) {
                if let Applied::Refused(lost) = apply(next, event) {
                    self.refuse(next, lost);
                    return Looked::Refused;
                }
            }
            next.worker.swept = Some(Page::of(log, page.from, page.to.position.min(log.head())));
        }
        Looked::Applied
    }

    fn settle(self, state: &State, page: Page) -> Result<State, &'static str> {
        let (mut next, history) = (*state, state.history);
        match self.look_again(&mut next) {
            Looked::Unchanged => {}
            Looked::Refused => return Ok(next),
            Looked::Applied => {
                next.worker.at = At::Idle;
                return Ok(next);
            }
        }
        let read = || history.marks_of(page.events);
        for event in read() {
            let version = history.version_of(event);
            let is_other = |other: &Mark| {
                other.event.aggregate == event.event.aggregate
                    && history.version_of(*other) == version
                    && *other != event
            };
            let row = next.models.rows[usize::from(event.event.aggregate)];
            let row = Some(row.1).filter(|_| row.0 == version);
            let other = row.into_iter().chain(history.marks_of(next.worker.ahead)).find(is_other);
            if let Some(other) = other
                && self.refuse(&mut next, other)
            {
                return Ok(next);
            }
        }
        for (row, last) in next.models.rows.into_iter().zip(page.last).filter(|(_, last)| last.0 > 0) {
            let is_read =
                |mark: &Mark| mark.event.aggregate == row.1.event.aggregate && history.version_of(*mark) <= last.0;
            if row.0 > 0 {
                let read = Events::of(history.marks_of(next.worker.ahead).filter(is_read));
                next.worker.ahead.0 &= !read.0;
                next.worker.old.0 &= !read.0;
            }
            if row.0 > last.0 && self.broken != Broken::AheadNotCompared {
                next.worker.ahead = next.worker.ahead.with(row.1);
            }
        }
        for event in read() {
            match apply(&mut next, event) {
                Applied::Known | Applied::Done => {}
                Applied::Twice => return Err("an event was applied twice"),
                Applied::Refused(lost) => {
                    self.refuse(&mut next, lost);
                    return Ok(next);
                }
                Applied::Unread => {
                    next.worker.at = At::Idle;
                    return Ok(next);
                }
            }
        }
        next.worker.at = At::Applied(page);
        Ok(next)
    }
}

enum Looked {
    Unchanged,
    Applied,
    Refused,
}

enum Applied {
    Done,
    Known,
    /// The log does not have an event that is needed from it.
    Unread,
    /// The log has another event than the row.
    Refused(Mark),
    Twice,
}

/// Applies an event to its row, after the events that are missing before it.
fn apply(next: &mut State, event: Mark) -> Applied {
    let (log, version) = (next.history.log, next.history.version_of(event));
    let row = &mut next.models.rows[usize::from(event.event.aggregate)];
    let at = |version: u8| log.stream(event.event.aggregate).nth(usize::from(version) - 1);
    if version == row.0 && event != row.1 {
        return match at(version) {
            Some(found) if found != row.1 => Applied::Refused(row.1),
            _ => Applied::Known,
        };
    }
    if version <= row.0 {
        return Applied::Known;
    }
    let mut due = Vec::new();
    if version > row.0 + 1 {
        if row.0 > 0 && at(row.0).is_some_and(|found| found != row.1) {
            return Applied::Refused(row.1);
        }
        for missing in row.0 + 1..version {
            let Some(missing) = at(missing) else { return Applied::Unread };
            due.push(missing);
        }
    }
    due.push(event);
    *row = (version, event);
    for event in due {
        if next.models.applied.has(event) {
            return Applied::Twice;
        }
        next.models.applied = next.models.applied.with(event);
    }
    Applied::Done
}
