//! The health of an app's tasks.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::app::answer::{Answer, Cause, Problem};
use crate::id::Position;
use crate::status::{Waiting, time};

/// The state of each task, by the task's name, and the state of the log. `{}` displays it with one line for each task. As JSON, it is the three
/// answers `live`, `ready` and `degraded`.
///
/// # Examples
/// ```
/// use retell::app::{Health, State};
///
/// /// Lists the tasks that need attention, for the answer to a readiness probe.
/// fn problems(health: &Health) -> Vec<String> {
///     let bad = health.tasks().filter(|(_, state)| !state.is_good());
///     bad.map(|(task, state)| format!("{task}: {state}")).collect()
/// }
///
/// assert!(problems(&Health::default()).is_empty());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    tasks: BTreeMap<String, State>,
    log: State,
    sequencer: State,
    future_event: Option<DateTime<Utc>>,
    problems: Vec<Problem>,
}

impl Health {
    /// Returns whether every task makes progress or waits without an error, the log can be read, and each of its commits gets a position.
    pub fn is_good(&self) -> bool {
        let own = [&self.log, &self.sequencer];
        // A stopped task is good to have, but a program without it is not ready.
        own.into_iter().chain(self.tasks.values()).all(|state| state.is_good() && *state != State::Stopped)
            && self.live().yes
    }

    /// Answers whether the program is alive: the loop of each task turns, or waits for something. A task is frozen if its loop has not turned
    /// for longer than the [limit](HealthOptions::with_frozen_after). Only a restart helps.
    ///
    /// A database or a broker that does not answer never makes it false. Answer a liveness probe with [`Probe::look`](crate::app::Probe::look): it notices blocked threads
    /// that also keep the watch of the app from looking.
    pub fn live(&self) -> Answer {
        let problems = self.problems(Cause::is_dead);
        Answer { yes: problems.is_empty(), problems }
    }

    /// Answers whether the program can serve: the log and the read models answer, no task waits for processes of a newer release, and none was
    /// stopped. Lag and parked aggregates never make it false: a fleet that lags would take itself out of service.
    ///
    /// A schema that is not that of this release keeps a store from opening. If it changes later so that the store cannot read it, the store does
    /// not answer.
    pub fn ready(&self) -> Answer {
        let problems = self.problems(Cause::is_unready);
        Answer { yes: problems.is_empty(), problems }
    }

    /// Answers whether an operator should look: a task is behind, stuck, paused, retired or fails, aggregates are parked, the broker is down, or anything
    /// else is wrong.
    pub fn degraded(&self) -> Answer {
        let problems = self.problems(Cause::is_degraded);
        Answer { yes: !problems.is_empty(), problems }
    }

    /// Returns the problems whose cause is one that `counts`.
    fn problems(&self, counts: fn(Cause) -> bool) -> Vec<Problem> {
        self.problems.iter().filter(|problem| counts(problem.cause)).cloned().collect()
    }

    /// Returns the name and state of each task: relays, projections, views, reactions and processes.
    ///
    /// A view whose readers see a generation that nothing keeps up to date is listed twice: by its name, and by the name of that generation
    /// with the addition `(live)`.
    pub fn tasks(&self) -> impl Iterator<Item = (&str, &State)> {
        self.tasks.iter().map(|(name, state)| (name.as_str(), state))
    }

    /// Returns the state of the task called `name`.
    pub fn task(&self, name: &str) -> Option<&State> {
        self.tasks.get(name)
    }

    /// Returns whether the log can be read: [`State::Running`], or else [`State::Waiting`] for the database.
    pub fn log(&self) -> &State {
        &self.log
    }

    /// Returns whether commits get positions: [`State::Running`], or else [`State::Stuck`]. Always [`State::Running`] on SQLite and in
    /// memory, where an append assigns its positions itself.
    pub fn sequencer(&self) -> &State {
        &self.sequencer
    }

    /// Returns the time of the newest event if it is more than a minute ahead of this process's clock. One of the two clocks is, or was, wrong.
    ///
    /// Events appended later have the right time again, but a deadline that counts from this event comes late. It does not make
    /// [`is_good`](Self::is_good) false: every task works, and a program that gets no requests would never append a later event.
    pub fn future_event(&self) -> Option<DateTime<Utc>> {
        self.future_event
    }

    pub(super) fn new(tasks: BTreeMap<String, State>, log: State, sequencer: State) -> Self {
        Self { tasks, log, sequencer, ..Self::default() }
    }

    pub(super) fn with_problems(mut self, problems: Vec<Problem>) -> Self {
        self.problems = problems;
        self
    }

    pub(super) fn with_future_event(mut self, time: Option<DateTime<Utc>>) -> Self {
        self.future_event = time;
        self
    }
}

impl Serialize for Health {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut answers = serializer.serialize_struct("Health", 3)?;
        answers.serialize_field("live", &self.live())?;
        answers.serialize_field("ready", &self.ready())?;
        answers.serialize_field("degraded", &self.degraded())?;
        answers.end()
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log: {}\nsequencer: {}", self.log, self.sequencer)?;
        if let Some(future) = self.future_event {
            let ahead = (future - Utc::now()).to_std().unwrap_or_default();
            let ahead = Duration::from_secs(ahead.as_secs());
            write!(f, "\nclock: the newest event is dated {}, {ahead:?} ahead of this process's clock", time(future))?;
        }
        self.tasks().try_for_each(|(name, state)| write!(f, "\n{name}: {state}"))
    }
}

/// The state of a task. `{}` displays it on one line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// The task is running, and it has handled all events that were in the log a [beat](HealthOptions::with_beat) ago, or has not been behind
    /// for longer than the [limit](HealthOptions::with_limit).
    #[default]
    Running,
    /// The task waits. It is a problem if the wait has an error.
    Waiting(Waiting),
    /// The task makes progress, but has been behind the head of the log for longer than the [limit](HealthOptions::with_limit).
    Behind {
        /// The number of positions that the task is behind.
        events: u64,
        /// When it began to be behind.
        since: DateTime<Utc>,
    },
    /// The task has not moved for longer than the [limit](HealthOptions::with_limit), although the log has more events.
    Stuck {
        /// The position of the task.
        position: Position,
        /// The head of the log.
        head: Position,
        /// When the task last moved, or the log grew beyond it.
        since: DateTime<Utc>,
        /// The last cause that was seen, if there was one.
        cause: Option<String>,
    },
    /// The loop of the task has not turned for longer than the [limit](HealthOptions::with_frozen_after), although it waits for nothing: a handler
    /// does not return, or a thread is blocked.
    Frozen {
        /// When the loop last turned.
        since: DateTime<Utc>,
    },
    /// The task has failed and restarts after a delay. The state changes back when the task has made progress or has run for a moment.
    Failed {
        /// The number of consecutive failures.
        times: u32,
        /// When it failed first.
        since: DateTime<Utc>,
        /// The error of the last failure, with its causes.
        error: String,
    },
    /// The task was told to stop and has ended.
    Stopped,
}

impl State {
    /// Returns whether nothing needs attention: the task runs, has stopped, or waits without an error.
    pub fn is_good(&self) -> bool {
        match self {
            Self::Running | Self::Stopped => true,
            Self::Waiting(waiting) => waiting.error.is_none(),
            Self::Behind { .. } | Self::Stuck { .. } | Self::Frozen { .. } | Self::Failed { .. } => false,
        }
    }
}

impl State {
    /// Returns the problem of the log or the read models, if they do not answer.
    pub(super) fn unanswered(&self, part: &str) -> Option<Problem> {
        let Self::Waiting(waiting) = self else { return None };
        Some(Problem::new(part, Cause::Unanswered, waiting.since, waiting.error.clone()))
    }

    /// Returns the problem of a task, or of a live generation, in this state.
    pub(super) fn problem(&self, part: &str) -> Option<Problem> {
        let (cause, since, detail) = match self {
            Self::Frozen { since } => (Cause::Frozen, since, None),
            Self::Failed { since, error, .. } => (Cause::Failed, since, Some(error.clone())),
            Self::Behind { events, since } => (Cause::Behind, since, Some(format!("lag of {events}"))),
            Self::Stuck { position, head, since, .. } => {
                (Cause::Stuck, since, Some(format!("at position {position}, the log is at {head}")))
            }
            Self::Running | Self::Waiting(_) | Self::Stopped => return None,
        };
        Some(Problem::new(part, cause, *since, detail))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::Waiting(waiting) => waiting.fmt(f),
            Self::Behind { events, since } => write!(f, "behind by {events} events since {}", time(*since)),
            Self::Stuck { position, head, since, cause } => {
                write!(f, "stuck at position {position} since {}, the log is at {head}", time(*since))?;
                cause.as_ref().map_or(Ok(()), |cause| write!(f, ": {cause}"))
            }
            Self::Frozen { since } => write!(f, "frozen: its loop has not turned since {}", time(*since)),
            Self::Failed { times, error, .. } => write!(f, "failed {times} times: {error}"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// Settings of the watch over the tasks of an app, which compares their positions with the head of the log.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::app::HealthOptions;
/// use retell::prelude::*;
///
/// // A projection that lags by ten seconds is a problem here.
/// let options = HealthOptions::new().with_limit(Duration::from_secs(10)).with_beat(Duration::from_secs(1));
/// let app = App::new(MemoryStore::new(), MemoryReadModel::new()).with_health(options);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthOptions {
    pub(super) limit: Duration,
    pub(super) beat: Duration,
    pub(super) frozen_after: Duration,
    answer_limit: Duration,
}

impl HealthOptions {
    /// Returns the defaults: a limit of 60 seconds, a beat of 5 seconds, frozen after 2 minutes, and 5 seconds for an answer of the store.
    pub fn new() -> Self {
        let (limit, frozen_after, answer_limit) =
            (Duration::from_mins(1), Duration::from_mins(2), Duration::from_secs(5));
        Self { limit, beat: Duration::from_secs(5), frozen_after, answer_limit }
    }

    /// Reports a task as [`Frozen`](State::Frozen) if its loop has not turned for `limit`. The default is 2 minutes. Set it longer than a [call of
    /// the handler](crate::WorkerOptions::with_longest_call) may take: a worker drops a handler that awaits for longer than that, and its loop
    /// turns.
    pub fn with_frozen_after(mut self, limit: Duration) -> Self {
        self.frozen_after = limit;
        self
    }

    /// Takes a log or read models that do not answer within `limit` for unavailable. The default is 5 seconds, and no limit is longer than
    /// [`with_limit`](Self::with_limit).
    pub fn with_answer_limit(mut self, limit: Duration) -> Self {
        self.answer_limit = limit;
        self
    }

    /// Returns the longest wait for an answer of the store.
    pub(super) fn answer_limit(&self) -> Duration {
        self.answer_limit.min(self.limit.max(self.beat))
    }

    /// Reports a task as [`Stuck`](State::Stuck) or [`Behind`](State::Behind) after `limit`. The default is 60 seconds: longer than a
    /// failover takes, and than an event that fails is retried in place.
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Reads the head of the log every `beat` (minimum 1 ms). The default is 5 seconds: one small query, and a problem is seen soon after the
    /// limit.
    pub fn with_beat(mut self, beat: Duration) -> Self {
        self.beat = beat.max(Duration::from_millis(1));
        self
    }
}

impl Default for HealthOptions {
    fn default() -> Self {
        Self::new()
    }
}
