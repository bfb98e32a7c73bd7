//! Watches the tasks of an app: combines what they report with their positions and the head of the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::metrics::Counter;
use chrono::{DateTime, Utc};
use futures::future::{join, join_all};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::answer::{Cause, Problem};
use crate::app::health::{Health, HealthOptions, State};
use crate::app::look::{Lag, newest_at, waiting_after, within};
use crate::app::waiting::ReadCheckpoint;
use crate::error::{Error, Result, reason};
use crate::id::Position;
use crate::metrics::names::TASK_FAILURES;
use crate::notice::{self, NoticeKind};
use crate::panics::catch;
use crate::pulse::{Pulses, Since};
use crate::status::{Activity, Status, Wait, Waiting};
use crate::store::log::clock::far_ahead;
use crate::store::log::reader::EventReader;
use crate::worker::job::ReadLive;

/// Receives the name and the error of each task that fails.
pub(super) type OnFailure = Arc<dyn Fn(&str, &Error) + Send + Sync>;

/// The report of a task: its status, the position that it has reached, and the pulses of its loops.
#[derive(Clone)]
pub(super) struct Reports {
    pub(super) status: watch::Receiver<Status>,
    pub(super) position: watch::Receiver<Position>,
    pub(super) pulses: Pulses,
}

/// Records the state of each task. Clones share it.
#[derive(Clone)]
pub(super) struct Watcher(Arc<Inner>);

struct Inner {
    seen: Mutex<Seen>,
    health: watch::Sender<Health>,
    options: HealthOptions,
    on_failure: OnFailure,
}

/// Everything that the states are derived from.
struct Seen {
    tasks: BTreeMap<String, Entry>,
    /// Generations of views that readers see and that no task here writes.
    live: BTreeMap<String, (Lag, String)>,
    head: Position,
    /// The head one beat before. An event that is younger is not late yet.
    head_before: Position,
    log: State,
    models: State,
    /// When the app has started, and whether the stores have answered since.
    started: Since,
    has_looked: bool,
    /// The last turn of the watch.
    turned: Since,
    /// The tasks whose freeze was told, and whether it was told that the program is not ready.
    told_frozen: BTreeSet<String>,
    told_unready: bool,
    /// The time of the newest event.
    newest: Option<DateTime<Utc>>,
    /// Since when commits have had no position, although none got one.
    unsequenced: Option<Since>,
    unsequenced_commits: u64,
}

/// A task, as its supervisor and its reports say.
struct Entry {
    reports: Reports,
    outcome: Outcome,
    /// Since when it has this outcome.
    since: Since,
    lag: Lag,
    failures: Counter,
}

enum Outcome {
    Runs,
    Failed { times: u32, error: String },
    Stopped,
}

impl Seen {
    fn new() -> Self {
        let now = Since::now();
        Self {
            tasks: BTreeMap::new(),
            live: BTreeMap::new(),
            head: Position::ZERO,
            head_before: Position::ZERO,
            log: State::Running,
            models: State::Running,
            started: now,
            has_looked: false,
            turned: now,
            told_frozen: BTreeSet::new(),
            told_unready: false,
            newest: None,
            unsequenced: None,
            unsequenced_commits: 0,
        }
    }

    fn health(&self, options: &HealthOptions) -> Health {
        let is_over = |since: &Option<Since>| since.filter(|since| since.0.elapsed() >= options.limit);
        let stuck = |lag: &Lag, cause: Option<String>| {
            let (position, head) = (lag.position, self.head);
            is_over(&lag.unmoved).map(|since| State::Stuck { position, head, since: since.1, cause })
        };
        let state = |entry: &Entry| {
            let status = entry.reports.status.borrow();
            let wait = status.wait().cloned();
            let is_bad = wait.as_ref().is_some_and(|wait| wait.error.is_some());
            let is_standby =
                wait.as_ref().is_some_and(|wait| matches!(wait.on, Wait::Lease | Wait::Paused | Wait::Retired));
            let waits = |wait: Option<Waiting>| wait.map_or(State::Running, State::Waiting);
            match &entry.outcome {
                Outcome::Stopped => return State::Stopped,
                Outcome::Failed { times, error } => {
                    return State::Failed { times: *times, since: entry.since.1, error: error.clone() };
                }
                Outcome::Runs => {}
            }
            if let Some(since) = self.frozen(entry, options) {
                return State::Frozen { since };
            }
            if is_standby {
                return waits(wait);
            }
            let cause = wait.as_ref().filter(|_| is_bad).map(ToString::to_string);
            let last =
                || status.last_error.as_ref().filter(|last| entry.lag.unmoved.is_some_and(|lag| last.at >= lag.1));
            let cause = cause.or_else(|| Some(last()?.error.clone()));
            if let Some(stuck) = stuck(&entry.lag, cause) {
                return stuck;
            }
            match is_over(&entry.lag.behind).filter(|_| !is_bad) {
                Some(since) => State::Behind { events: self.head.since(entry.lag.position), since: since.1 },
                None => waits(wait),
            }
        };
        let mut tasks: BTreeMap<_, _> = self.tasks.iter().map(|(name, entry)| (name.clone(), state(entry))).collect();
        tasks.extend(
            self.live
                .iter()
                .filter_map(|(name, (lag, cause))| Some((format!("{name} (live)"), stuck(lag, Some(cause.clone()))?))),
        );
        let sequencer = is_over(&self.unsequenced).map_or(State::Running, |since| State::Stuck {
            position: self.head,
            head: self.head,
            since: since.1,
            cause: Some(format!(
                "{} commits have no position: a session holds the sequencer's lock, or an open transaction its lane",
                self.unsequenced_commits
            )),
        });
        let problems = self.problems(&tasks, &sequencer, options);
        let health = Health::new(tasks, self.log.clone(), sequencer).with_problems(problems);
        health.with_future_event(self.newest.and_then(far_ahead))
    }

    /// Returns the last turn of a task's loop if it is too long ago. Nothing is frozen while the log does not answer: its tasks wait for the
    /// database, and a restart would not help.
    fn frozen(&self, entry: &Entry, options: &HealthOptions) -> Option<DateTime<Utc>> {
        let turned = entry.reports.pulses.last_turn().filter(|_| self.log == State::Running)?;
        (turned.0.elapsed() >= options.frozen_after).then_some(turned.1)
    }

    fn problems(&self, tasks: &BTreeMap<String, State>, sequencer: &State, options: &HealthOptions) -> Vec<Problem> {
        let is_unwatched = self.turned.0.elapsed() >= options.frozen_after.saturating_add(options.beat);
        let unwatched = is_unwatched.then(|| Problem::new("watch", Cause::Unwatched, self.turned.1, None));
        let is_starting = !self.has_looked && self.log == State::Running;
        let starting = is_starting.then(|| Problem::new("log", Cause::Starting, self.started.1, None));
        let stores = [self.log.unanswered("log"), self.models.unanswered("read models")];
        let unsequenced = match sequencer {
            State::Stuck { since, cause, .. } => {
                Some(Problem::new("sequencer", Cause::Unsequenced, *since, cause.clone()))
            }
            _ => None,
        };
        let of_tasks = tasks.iter().flat_map(|(name, state)| {
            let entry = self.tasks.get(name);
            let stopped = entry.filter(|entry| matches!(entry.outcome, Outcome::Stopped));
            let stopped = stopped.map(|entry| Problem::new(name, Cause::Stopped, entry.since.1, None));
            let reported = entry.map(|entry| Problem::of_status(name, &entry.reports.status.borrow()));
            stopped.into_iter().chain(state.problem(name)).chain(reported.unwrap_or_default())
        });
        let own = unwatched.into_iter().chain(starting).chain(stores.into_iter().flatten()).chain(unsequenced);
        own.chain(of_tasks).collect()
    }

    /// Returns the notices about what has changed since the last call.
    fn changes(&mut self, health: &Health) -> Vec<(String, NoticeKind, Option<String>)> {
        let is_frozen = |(task, state): (&str, &State)| matches!(state, State::Frozen { .. }).then(|| task.to_owned());
        let frozen: BTreeSet<_> = health.tasks().filter_map(is_frozen).collect();
        let froze = frozen.difference(&self.told_frozen).map(|task| (task.clone(), NoticeKind::TaskFrozen, None));
        let turns = self.told_frozen.difference(&frozen).map(|task| (task.clone(), NoticeKind::TaskUnfrozen, None));
        let mut changes: Vec<_> = froze.chain(turns).collect();
        self.told_frozen = frozen;
        let ready = health.ready();
        // A start and a stop are no news.
        let told = |problem: &&Problem| !matches!(problem.cause, Cause::Starting | Cause::Stopped);
        let problem = ready.problems.iter().find(told).map(ToString::to_string);
        let is_new = if self.told_unready { ready.yes } else { problem.is_some() };
        if is_new {
            let kind = if ready.yes { NoticeKind::Ready } else { NoticeKind::NotReady };
            self.told_unready = !ready.yes;
            changes.push(("app".to_owned(), kind, problem));
        }
        changes
    }
}

impl Watcher {
    pub(super) fn new(options: HealthOptions, on_failure: OnFailure) -> Self {
        let health = watch::Sender::new(Health::default());
        Self(Arc::new(Inner { seen: Mutex::new(Seen::new()), health, options, on_failure }))
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.0.health.subscribe()
    }

    pub(super) fn add(&self, task: &str, reports: Reports) {
        let lag = Lag { position: *reports.position.borrow(), ..Lag::default() };
        let failures = TASK_FAILURES.counter(&[task]);
        let entry = Entry { reports, outcome: Outcome::Runs, since: Since::now(), lag, failures };
        self.seen().tasks.insert(task.to_owned(), entry);
        self.refresh();
    }

    pub(super) fn failed(&self, task: &str, times: u32, error: &Error) {
        // A callback that panics loses this report, and the task still restarts.
        drop(catch(|| (self.0.on_failure)(task, error)));
        if let Some(entry) = self.seen().tasks.get(task) {
            entry.failures.increment(1);
        }
        self.set(task, Outcome::Failed { times, error: reason(error) });
    }

    pub(super) fn recovered(&self, task: &str) {
        self.set(task, Outcome::Runs);
    }

    pub(super) fn stopped(&self, task: &str) {
        self.set(task, Outcome::Stopped);
    }

    fn set(&self, task: &str, outcome: Outcome) {
        let error = if let Outcome::Failed { error, .. } = &outcome { Some(error.clone()) } else { None };
        let is_running = matches!(outcome, Outcome::Runs);
        let before = self.seen().tasks.get_mut(task).map(|entry| {
            // A task that fails again and again has failed since its first failure.
            if std::mem::discriminant(&entry.outcome) != std::mem::discriminant(&outcome) {
                entry.since = Since::now();
            }
            std::mem::replace(&mut entry.outcome, outcome)
        });
        self.refresh();
        match (before, error) {
            // A task that fails again and again gives one notice.
            (Some(Outcome::Failed { .. }), Some(_)) => {}
            (_, Some(error)) => notice::send(task, NoticeKind::TaskFailed, Some(error)),
            (Some(Outcome::Failed { .. }), None) if is_running => notice::send(task, NoticeKind::TaskRestarted, None),
            _ => {}
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Derives the states again, and notifies if one has changed.
    pub(super) fn refresh(&self) {
        let mut seen = self.seen();
        let head_before = seen.head_before;
        for entry in seen.tasks.values_mut() {
            let position = *entry.reports.position.borrow();
            entry.lag.observe(position, head_before);
        }
        let health = seen.health(&self.0.options);
        let changes = seen.changes(&health);
        // Still under the lock, so that an older state never replaces a newer one.
        self.0.health.send_if_modified(|known| {
            let is_new = *known != health;
            *known = health;
            is_new
        });
        drop(seen);
        for (part, kind, error) in changes {
            notice::send(&part, kind, error);
        }
    }

    /// Compares the tasks with the head of the log at every beat, until stopped.
    pub(super) async fn watch(
        &self,
        log: Arc<dyn EventReader>,
        models: ReadCheckpoint,
        views: Vec<(String, ReadLive)>,
        stop: CancellationToken,
    ) {
        let limit = self.0.options.answer_limit();
        loop {
            self.seen().turned = Since::now();
            let (looked, answered) = (self.look(&*log, &views), async { models("health".to_owned()).await.map(drop) });
            let looked =
                join(within(limit, "read the head of the log", looked), within(limit, "read a checkpoint", answered));
            let Some((looked, answered)) = stop.run_until_cancelled(looked).await else { return };
            self.found(looked.err().as_ref());
            self.found_models(answered.err().as_ref());
            self.refresh();
            if stop.run_until_cancelled(tokio::time::sleep(self.0.options.beat)).await.is_none() {
                return;
            }
        }
    }

    /// Takes over whether the log could be read.
    fn found(&self, failed: Option<&Error>) {
        let (on, error) = (Wait::Database, failed.map(reason));
        let mut seen = self.seen();
        seen.has_looked |= failed.is_none();
        let before = if let State::Waiting(before) = &seen.log { Some(before.since) } else { None };
        seen.log = waiting_after(error.clone(), before);
        drop(seen);
        match (before, error) {
            (None, Some(error)) => notice::send("log", NoticeKind::OutageBegan { on: on.text() }, Some(error)),
            (Some(_), None) => notice::send("log", NoticeKind::OutageEnded { on: on.text() }, None),
            _ => {}
        }
    }

    /// Takes over whether the read models answer. Their tasks tell about it.
    fn found_models(&self, failed: Option<&Error>) {
        let mut seen = self.seen();
        let before = if let State::Waiting(before) = &seen.models { Some(before.since) } else { None };
        seen.models = waiting_after(failed.map(reason), before);
    }

    async fn look(&self, log: &dyn EventReader, views: &[(String, ReadLive)]) -> Result<()> {
        // Both at once: while commits get no positions, the head may not be readable, and the number of these commits tells why.
        let count = async {
            let unsequenced = log.unsequenced().await?;
            let mut seen = self.seen();
            seen.unsequenced_commits = unsequenced;
            if unsequenced == 0 {
                seen.unsequenced = None;
            } else {
                seen.unsequenced.get_or_insert_with(Since::now);
            }
            Ok::<_, Error>(())
        };
        let read = async {
            let head = log.head().await?;
            let newest = if head == self.seen().head { None } else { newest_at(log, head).await? };
            let mut seen = self.seen();
            seen.newest = newest.or(seen.newest);
            if head != seen.head {
                seen.unsequenced = None;
            }
            (seen.head_before, seen.head) = (seen.head, head);
            Ok(())
        };
        let (counted, read) = join(count, read).await;
        read.and(counted)?;
        let live = join_all(views.iter().map(async |(own, live)| (own, live().await))).await;
        let mut seen = self.seen();
        let (mut known, head_before) = (std::mem::take(&mut seen.live), seen.head_before);
        for (own, live) in live {
            let Ok((name, position)) = live else { continue };
            if seen.tasks.contains_key(name.as_str()) {
                continue;
            }
            let advice = format!(
                "readers see this generation, which nothing keeps up to date: switch them to {own} with `Rebuild::switch`, or run the \
                 program that keeps {name} up to date"
            );
            let mut lag = known.remove(name.as_str()).map(|(lag, _)| lag).unwrap_or_default();
            lag.observe(position, head_before);
            seen.live.insert(name.to_string(), (lag, advice));
        }
        Ok(())
    }
}

impl Reports {
    /// Returns whether the task has started.
    pub(super) fn is_running(&self) -> bool {
        self.status.borrow().activity == Activity::Running
    }
}
