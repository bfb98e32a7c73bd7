//! Waiting until the parts of an app have applied events.

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

/// The waits between looks at a checkpoint that another process moves.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LONGEST_LOOK: Duration = Duration::from_millis(50);

/// Reads the checkpoint of the projection of that name, whichever process moves it.
pub(super) type Checkpoint = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Position>> + Send + Sync>;

/// The progress of one part of the app.
pub(super) struct Progress {
    name: String,
    /// As it moves; `None` if another process runs the part.
    applied: Option<watch::Receiver<Position>>,
}

impl Progress {
    /// Whether this is the part of that name, in whatever generation.
    fn is_of(&self, name: &str) -> bool {
        self.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
    }

    async fn applied(&self, checkpoint: &Checkpoint) -> Result<Position> {
        match &self.applied {
            Some(applied) => Ok(*applied.borrow()),
            None => checkpoint(self.name.clone()).await,
        }
    }

    async fn reach(&self, position: Position, checkpoint: &Checkpoint) -> Result<()> {
        if let Some(applied) = &self.applied {
            // Its sender is in a task that is started again until the app stops.
            drop(applied.clone().wait_for(|applied| *applied >= position).await);
            return Ok(());
        }
        let mut delays = delays(FIRST_LOOK, LONGEST_LOOK);
        while checkpoint(self.name.clone()).await? < position {
            tokio::time::sleep(delays.next_delay()).await;
        }
        Ok(())
    }
}

/// The progress of everything that an app describes.
pub(super) struct Waiting {
    log: Arc<dyn EventReader>,
    checkpoint: Checkpoint,
    parts: Vec<Progress>,
}

impl Waiting {
    pub(super) fn new(log: Arc<dyn EventReader>, checkpoint: Checkpoint) -> Self {
        Self { log, checkpoint, parts: Vec::new() }
    }

    /// Adds a part, with its progress if it runs in this process.
    pub(super) fn add(&mut self, name: &str, applied: Option<watch::Receiver<Position>>) {
        self.parts.push(Progress { name: name.to_owned(), applied });
    }

    pub(super) fn all(&self) -> Vec<&Progress> {
        self.parts.iter().collect()
    }

    /// Returns the parts of that name, in any generation; at least one.
    pub(super) fn named(&self, name: &str) -> Result<Vec<&Progress>> {
        let parts: Vec<_> = self.parts.iter().filter(|part| part.is_of(name)).collect();
        if parts.is_empty() {
            return Err(ErrorKind::Invalid(format!("the app has no projection {name}")).into());
        }
        Ok(parts)
    }

    pub(super) async fn head(&self) -> Result<Goal> {
        Ok(Goal::Position(self.log.head().await?))
    }

    /// Waits until `parts` have reached the goal.
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
            let applied = part.applied(&self.checkpoint).await?;
            if applied < position {
                let projection = ProjectionName::new(&part.name)?;
                return Err(ErrorKind::Behind { projection, applied, wanted: position }.into());
            }
        }
        Ok(())
    }

    /// Waits until the parts that run in this process have applied the log up to `position`.
    pub(super) async fn wait_here(&self, position: Position) {
        let here = self.parts.iter().filter(|part| part.applied.is_some());
        join_all(here.map(|part| part.reach(position, &self.checkpoint))).await;
    }

    /// Returns the position of a commit. A store that assigns positions after the commit may not know it at once.
    async fn position_of(&self, token: Token, end: Instant) -> Result<Position> {
        let mut delays = delays(FIRST_LOOK, LONGEST_LOOK);
        loop {
            if let Some(position) = self.log.position_of(token.commit()).await? {
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

/// The place in the log to wait for.
pub(super) enum Goal {
    Events(Token),
    Position(Position),
}
