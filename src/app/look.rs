//! The parts of a look of the watch: lag, and whether the stores answer in time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::timeout;

use crate::app::health::State;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Position;
use crate::pulse::Since;
use crate::status::{Wait, Waiting};
use crate::store::log::query::{Filter, Query};
use crate::store::log::reader::EventReader;

/// How long something has not moved, and how long it has been behind.
#[derive(Default)]
pub(super) struct Lag {
    pub(super) position: Position,
    pub(super) unmoved: Option<Since>,
    pub(super) behind: Option<Since>,
}

impl Lag {
    pub(super) fn observe(&mut self, position: Position, head_before: Position) {
        if position >= head_before {
            (self.position, self.unmoved, self.behind) = (position, None, None);
            return;
        }
        self.behind.get_or_insert_with(Since::now);
        if position != self.position {
            (self.position, self.unmoved) = (position, None);
        }
        self.unmoved.get_or_insert_with(Since::now);
    }
}

/// Returns the state of a store that answers, or does not after `error`, perhaps since an earlier time.
pub(super) fn waiting_after(error: Option<String>, before: Option<DateTime<Utc>>) -> State {
    let on = Wait::Database;
    error.map_or(State::Running, |error| {
        let since = before.unwrap_or_else(|| Since::now().1);
        State::Waiting(Waiting { on, since, error: Some(error), note: None })
    })
}

/// Awaits an answer of a store, for at most `limit`.
pub(super) async fn within(limit: Duration, what: &str, call: impl Future<Output = Result<()>>) -> Result<()> {
    let answer = timeout(limit, call).await;
    answer.unwrap_or_else(|elapsed| Err(Error::with_source(ErrorKind::Transient(what.into()), elapsed)))
}

/// Returns the time of the event at `head`.
pub(super) async fn newest_at(log: &dyn EventReader, head: Position) -> Result<Option<DateTime<Utc>>> {
    let before = Position::new(head.get().saturating_sub(1));
    let page = log.read(Query::log(before, &Filter::all()).with_limit(1)).await?;
    Ok(page.events.first().map(|event| event.recorded_at))
}
