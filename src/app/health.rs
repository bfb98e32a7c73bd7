//! The health of an app's tasks.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::id::Position;
use crate::status::{Wait, Waiting, time};

/// The state of each task, by the task's name, and the state of the log. `{}` displays it with one line for each task.
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
}

impl Health {
    /// Returns whether every task makes progress, the log can be read, and each of its commits gets a position.
    pub fn is_good(&self) -> bool {
        let own = [&self.log, &self.sequencer];
        // A stopped task is good to have, but a program without it is not ready.
        own.into_iter().chain(self.tasks.values()).all(|state| state.is_good() && *state != State::Stopped)
    }

    /// Returns whether an operator has paused a task. The program is ready: [`is_good`](Self::is_good) does not count a pause.
    pub fn is_degraded(&self) -> bool {
        self.tasks.values().any(|state| matches!(state, State::Waiting(waiting) if waiting.on == Wait::Paused))
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
        Self { tasks, log, sequencer, future_event: None }
    }

    pub(super) fn with_future_event(mut self, time: Option<DateTime<Utc>>) -> Self {
        self.future_event = time;
        self
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
    /// The task has failed and restarts after a delay. The state changes back when the task has made progress or has run for a moment.
    Failed {
        /// The number of consecutive failures.
        times: u32,
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
            Self::Behind { .. } | Self::Stuck { .. } | Self::Failed { .. } => false,
        }
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
            Self::Failed { times, error } => write!(f, "failed {times} times: {error}"),
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
}

impl HealthOptions {
    /// Returns the defaults: a limit of 60 seconds, and a beat of 5 seconds.
    pub fn new() -> Self {
        Self { limit: Duration::from_mins(1), beat: Duration::from_secs(5) }
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
