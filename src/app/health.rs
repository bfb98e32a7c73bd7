//! The health of an app's tasks.

use std::collections::BTreeMap;

/// The state of each task, by the task's name.
///
/// # Examples
/// ```
/// use retell::app::{Health, State};
///
/// /// Lists the failed tasks, for the answer to a readiness probe.
/// fn failures(health: &Health) -> Vec<String> {
///     let failure = |(task, state): (&str, &State)| match state {
///         State::Failed { times, error } => Some(format!("{task} failed {times} times: {error}")),
///         _ => None,
///     };
///     health.tasks().filter_map(failure).collect()
/// }
///
/// assert!(failures(&Health::default()).is_empty());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health(BTreeMap<String, State>);

impl Health {
    /// Returns whether every task is running.
    pub fn is_good(&self) -> bool {
        self.0.values().all(|state| *state == State::Running)
    }

    /// Returns the name and state of each task.
    pub fn tasks(&self) -> impl Iterator<Item = (&str, &State)> {
        self.0.iter().map(|(name, state)| (name.as_str(), state))
    }

    pub(super) fn set(&mut self, task: &str, state: State) {
        self.0.insert(task.to_owned(), state);
    }
}

/// The state of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// The task is running.
    Running,
    /// The task has failed and restarts after a delay.
    Failed {
        /// The number of consecutive failures.
        times: u32,
        /// The error of the last failure.
        error: String,
    },
    /// The task was told to stop and has ended.
    Stopped,
}
