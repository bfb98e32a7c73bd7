//! Runs the suite of inline projections on every store, and the suite of stores on logs that apply one. Needs `POSTGRES_URL` and
//! `MYSQL_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/databases.rs"]
mod databases;

use std::future::{Ready, ready};

use std::sync::Arc;

use databases::{Database, Place};
use futures::FutureExt;
use retell::error::{ErrorKind, Result};
use retell::store::RegisteredShape;
use retell::store::{Append, Appended, Inline, InlineStore, KeyedOutcome, Page, Query, Replay, Snapshot, Visitor};
use retell::testing::inline::noting;
use retell::testing::{inline, store};
use retell::{
    ClaimScope, ClaimValue, EventId, EventReader, EventStore, EventType, IdempotencyKey, MemoryReadModel, MemoryStore,
    MySqlReadModel, MySqlStore, Position, PostgresReadModel, PostgresStore, SqliteReadModel, SqliteStore, StreamId,
    async_trait, inline_conformance, inline_view_conformance, store_conformance,
};
use tokio::sync::watch;

type Notes = MemoryReadModel<Vec<EventId>>;

fn memory() -> (MemoryStore<Vec<EventId>>, Notes) {
    let models = MemoryReadModel::with_value(Vec::new());
    (MemoryStore::with_read_model(models.clone()), models)
}

async fn sqlite() -> (SqliteStore, SqliteReadModel, Database) {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
    let log = SqliteStore::open(path).await.unwrap();
    (log.clone(), log.read_model(), database)
}

async fn postgres() -> (PostgresStore, PostgresReadModel, Database) {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!("a PostgreSQL database") };
    let log = PostgresStore::connect(url).await.unwrap();
    (log.clone(), log.read_model(), database)
}

async fn mysql() -> (MySqlStore, MySqlReadModel, Database) {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!("a MySQL database") };
    let log = MySqlStore::connect(url).await.unwrap();
    (log.clone(), log.read_model(), database)
}

mod in_memory {
    use super::*;

    fn fresh() -> Ready<(MemoryStore<Vec<EventId>>, Notes, ())> {
        let (log, models) = memory();
        ready((log, models, ()))
    }

    inline_conformance!(fresh());
    inline_view_conformance!(fresh());
    store_conformance!(async {
        let (log, models) = memory();
        (noting(log, &models).await.unwrap(), ())
    });
}

/// A store behind an `Arc` passes the suite.
mod behind_an_arc {
    use super::*;

    inline_conformance!(async {
        let (log, models) = memory();
        (Arc::new(log), models, ())
    });
}

mod on_sqlite {
    use super::*;

    inline_conformance!(sqlite());
    inline_view_conformance!(sqlite());
    store_conformance!(async {
        let (log, models, database) = sqlite().await;
        (noting(log, &models).await.unwrap(), database)
    });
}

mod on_postgres {
    use super::*;

    inline_conformance!(postgres());
    inline_view_conformance!(postgres());
    store_conformance!(async {
        let (log, models, database) = postgres().await;
        (noting(log, &models).await.unwrap(), database)
    });
}

mod on_mysql {
    use super::*;

    inline_conformance!(mysql());
    inline_view_conformance!(mysql());
    store_conformance!(async {
        let (log, models, database) = mysql().await;
        (noting(log, &models).await.unwrap(), database)
    });
}

/// The fault of a planted store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Appends without applying the projection.
    Forgets,
    /// Appends first and applies the projection in a second transaction, so that a rejected append stays in the log.
    AppliesLater,
    /// Applies the projection in a transaction before the append.
    AppliesSooner,
}

/// A log in memory whose inline handles have a planted fault.
#[derive(Clone)]
struct Faulty {
    log: MemoryStore<Vec<EventId>>,
    models: Notes,
    fault: Fault,
    inlines: Vec<Arc<dyn Inline<Vec<EventId>>>>,
}

impl Faulty {
    fn fresh(fault: Fault) -> (Self, Notes) {
        let (log, models) = memory();
        (Self { log, models: models.clone(), fault, inlines: Vec::new() }, models)
    }

    /// Applies the events in a separate transaction of the projection.
    async fn apply(&self, append: &Append) -> Result<()> {
        for inline in &self.inlines {
            let events = append.streams().iter().flat_map(|part| {
                part.events.iter().map(|event| {
                    let (stream, event) = (part.stream.clone(), event.clone());
                    retell::RecordedEvent::new(Position::ZERO, stream, retell::Version::ZERO, retell::Utc::now(), event)
                })
            });
            let (inline, events) = (inline.clone(), events.collect());
            let work: retell::store::Work<Vec<EventId>> =
                Box::new(move |tx| async move { inline.apply(tx, events).await }.boxed());
            let name = retell::ProjectionName::new("another").unwrap();
            retell::ReadModel::begin(&self.models, &name, work).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl EventReader for Faulty {
    async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()> {
        self.log.replay(stream, replay, visitor).await
    }

    async fn read(&self, query: Query<'_>) -> Result<Page> {
        self.log.read(query).await
    }

    async fn head(&self) -> Result<Position> {
        self.log.head().await
    }

    async fn position_of(&self, token: retell::Token) -> Result<Option<Position>> {
        self.log.position_of(token).await
    }

    async fn registered_shapes(&self) -> Result<Vec<RegisteredShape>> {
        self.log.registered_shapes().await
    }

    async fn next_event_type(&self, after: Option<&EventType>) -> Result<Option<EventType>> {
        self.log.next_event_type(after).await
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.log.watch_head()
    }
}

#[async_trait]
impl EventStore for Faulty {
    async fn append(&self, append: Append) -> Result<Appended> {
        match self.fault {
            Fault::Forgets => self.log.append(append).await,
            Fault::AppliesLater => {
                let appended = self.log.append(append.clone()).await?;
                self.apply(&append).await.map(|()| appended)
            }
            Fault::AppliesSooner => {
                self.apply(&append).await?;
                self.log.append(append).await
            }
        }
    }

    async fn find_by_key(&self, key: &IdempotencyKey) -> Result<Option<KeyedOutcome>> {
        self.log.find_by_key(key).await
    }

    async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>> {
        self.log.holder(scope, value).await
    }

    async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        self.log.save_snapshot(stream, snapshot).await
    }

    async fn register_shapes(&self, shapes: &[RegisteredShape]) -> Result<()> {
        self.log.register_shapes(shapes).await
    }

    async fn close(&self) -> Result<()> {
        self.log.close().await
    }
}

#[async_trait]
impl InlineStore for Faulty {
    type Tx = Vec<EventId>;

    async fn with_inline(&self, inline: Arc<dyn Inline<Vec<EventId>>>) -> Result<Self> {
        let mut with = self.clone();
        with.inlines.push(inline);
        Ok(with)
    }
}

/// Evaluates to whether a case finds the fault.
macro_rules! finds {
    ($fault:expr, $case:ident) => {{
        let (log, models) = Faulty::fresh($fault);
        tokio::spawn(inline::$case(log, models)).await.is_err_and(|error| error.is_panic())
    }};
}

#[tokio::test]
async fn suite_finds_each_planted_fault() {
    assert!(finds!(Fault::Forgets, concurrent_appends_leave_log_and_model_in_agreement));
    assert!(finds!(Fault::Forgets, two_projections_of_one_handle_are_both_applied));
    assert!(finds!(Fault::Forgets, projection_with_a_parked_aggregate_is_refused));
    assert!(finds!(Fault::AppliesLater, append_whose_projection_fails_writes_nothing));
    assert!(finds!(Fault::AppliesLater, failed_part_of_an_append_keeps_its_key_free));
    assert!(finds!(Fault::AppliesLater, repeated_and_refused_appends_apply_nothing));
    assert!(finds!(Fault::AppliesSooner, repeated_and_refused_appends_apply_nothing));
    assert!(finds!(Fault::AppliesSooner, worker_of_the_same_name_applies_nothing_twice));
    assert!(finds!(Fault::AppliesSooner, returned_append_is_applied));
}

#[tokio::test]
async fn store_behind_an_arc_refuses_what_its_store_refuses() {
    let (log, models) = memory();
    let log = noting(Arc::new(log), &models).await.unwrap();
    let poisoned = Append::new(store::stream("a"), retell::ExpectedVersion::Any, vec![store::event("poison")]);
    let refused = log.append(poisoned).await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Projection { .. }), "{refused}");
}
