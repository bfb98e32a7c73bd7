//! Waits until the parts of an app have applied events.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all, try_join_all};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::backoff::delays;
use crate::error::{ErrorKind, Result};
use crate::id::{Position, ProjectionName};
use crate::store::log::reader::EventReader;
use crate::store::log::token::Token;
use crate::worker::job::ReadLive;

/// The shortest and the longest wait between two reads of a checkpoint that another process moves.
const FIRST_POLL: Duration = Duration::from_millis(1);
const LONGEST_POLL: Duration = Duration::from_millis(50);

/// Reads the checkpoint of the projection with the given name, even if another process moves it.
pub(super) type ReadCheckpoint = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Position>> + Send + Sync>;

/// The progress of one part of the app.
pub(super) struct Progress {
    name: String,
    /// The position as it advances; `None` if another process runs the part.
    applied: Option<watch::Receiver<Position>>,
    /// For a view: reads the generation that readers see.
    live: Option<ReadLive>,
}

impl Progress {
    /// Returns whether this is the part called `name`, in any generation.
    fn is_named(&self, name: &str) -> bool {
        self.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
    }

    /// Returns the part, or for a view the generation that readers see, and how far it is: the one that is further behind.
    async fn applied(&self, checkpoint: &ReadCheckpoint) -> Result<(ProjectionName, Position)> {
        let position = match &self.applied {
            Some(applied) => *applied.borrow(),
            None => checkpoint(self.name.clone()).await?,
        };
        let own = (ProjectionName::new(&self.name)?, position);
        let Some(live) = &self.live else { return Ok(own) };
        let live = live().await?;
        Ok(if live.0 == own.0 || own.1 <= live.1 { own } else { live })
    }

    /// Waits until the part has applied the log up to `position`, and for a view until its readers see that.
    async fn reach(&self, position: Position, checkpoint: &ReadCheckpoint) -> Result<()> {
        self.reach_own(position, checkpoint).await?;
        let Some(live) = &self.live else { return Ok(()) };
        let mut delays = delays(FIRST_POLL, LONGEST_POLL);
        loop {
            let (name, seen) = live().await?;
            if name.as_str() == self.name || seen >= position {
                return Ok(());
            }
            tokio::time::sleep(delays.next_delay()).await;
        }
    }

    async fn reach_own(&self, position: Position, checkpoint: &ReadCheckpoint) -> Result<()> {
        if let Some(applied) = &self.applied {
            // Cannot fail while the app runs: the task that owns the sender restarts until the app stops.
            drop(applied.clone().wait_for(|applied| *applied >= position).await);
            return Ok(());
        }
        let mut delays = delays(FIRST_POLL, LONGEST_POLL);
        while checkpoint(self.name.clone()).await? < position {
            tokio::time::sleep(delays.next_delay()).await;
        }
        Ok(())
    }
}

/// The progress of all parts of an app.
pub(super) struct Waiting {
    log: Arc<dyn EventReader>,
    checkpoint: ReadCheckpoint,
    parts: Vec<Progress>,
}

impl Waiting {
    pub(super) fn new(log: Arc<dyn EventReader>, checkpoint: ReadCheckpoint) -> Self {
        Self { log, checkpoint, parts: Vec::new() }
    }

    /// Adds the part called `name`, with its progress if it runs in this process.
    pub(super) fn add(&mut self, name: &str, applied: Option<watch::Receiver<Position>>, live: Option<ReadLive>) {
        self.parts.push(Progress { name: name.to_owned(), applied, live });
    }

    pub(super) fn all(&self) -> Vec<&Progress> {
        self.parts.iter().collect()
    }

    /// Returns the parts called `name`, in any generation. There is at least one.
    pub(super) fn named(&self, name: &str) -> Result<Vec<&Progress>> {
        let parts: Vec<_> = self.parts.iter().filter(|part| part.is_named(name)).collect();
        if parts.is_empty() {
            let names: Vec<_> = self.parts.iter().map(|part| part.name.as_str()).collect();
            let known = if names.is_empty() { "no parts".to_owned() } else { names.join(", ") };
            return Err(ErrorKind::Invalid(format!("the app has no part called {name}; it has {known}")).into());
        }
        Ok(parts)
    }

    pub(super) async fn head(&self) -> Result<Goal> {
        Ok(Goal::Position(self.log.head().await?))
    }

    /// Waits until `parts` have reached `goal`, for at most `timeout`.
    pub(super) async fn wait(&self, parts: Vec<&Progress>, goal: Goal, timeout: Duration) -> Result<()> {
        let end = Instant::now() + timeout;
        let position = match goal {
            Goal::Position(position) => position,
            Goal::Events(token) => self.position_of(token, end).await?,
        };
        let reached = try_join_all(parts.iter().map(|part| part.reach(position, &self.checkpoint)));
        if let Ok(reached) = tokio::time::timeout_at(end, reached).await {
            return reached.map(drop);
        }
        for part in parts {
            let (projection, applied) = part.applied(&self.checkpoint).await?;
            if applied < position {
                return Err(ErrorKind::Behind { projection, applied, wanted: position }.into());
            }
        }
        Ok(())
    }

    /// Waits until the parts that run in this process have applied the log up to `position`.
    pub(super) async fn wait_here(&self, position: Position) {
        let here = self.parts.iter().filter(|part| part.applied.is_some());
        join_all(here.map(|part| part.reach_own(position, &self.checkpoint))).await;
    }

    /// Returns the position of a commit. A store that assigns positions after the commit may not know it yet.
    async fn position_of(&self, token: Token, end: Instant) -> Result<Position> {
        let mut delays = delays(FIRST_POLL, LONGEST_POLL);
        loop {
            if let Some(position) = self.log.position_of(token).await? {
                return Ok(position);
            }
            if Instant::now() >= end {
                return Err(
                    ErrorKind::TimedOut(format!("waiting for the position of commit {}", token.commit())).into()
                );
            }
            tokio::time::sleep_until(end.min(Instant::now() + delays.next_delay())).await;
        }
    }
}

/// The place in the log to wait for: the events of a commit, or a position.
pub(super) enum Goal {
    Events(Token),
    Position(Position),
}
