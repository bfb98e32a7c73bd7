//! Behavior of inline projections that is specific to one kind of log. The suite `inline_conformance!` checks what they do on every kind.

use std::fmt::Debug;
use std::marker::PhantomData;

use futures::FutureExt;
use retell::inline::inline;
use retell::store::{Append, InlineStore, Step, Work};
use retell::testing::store::{event, stream, whole_log};
use retell::{
    AnyEvent, BoxError, Envelope, Error, ErrorKind, EventStore, ExpectedVersion, MemoryStore, MySqlStore, Position,
    PostgresStore, Projection, ProjectionName, ReadModel, SqliteStore, Worker, async_trait, rusqlite,
};
use tokio::task::JoinSet;

use crate::notebook::{Notebook, Notes};

/// Writes a note for each event, and fails on poison.
pub(crate) struct Noted<T>(pub(crate) PhantomData<fn(&mut T)>);

#[async_trait]
impl<T: Notes> Projection for Noted<T> {
    const NAME: &'static str = "noted";
    type Event = AnyEvent;
    type Tx = T;

    async fn setup(&self, tx: &mut T) -> Result<(), BoxError> {
        tx.make().await
    }

    async fn apply(&self, tx: &mut T, event: Envelope<AnyEvent>) -> Result<(), BoxError> {
        tx.note(event.id).await?;
        if &event.event.payload[..] == b"poison" { Err("poisoned".into()) } else { Ok(()) }
    }
}

/// A log that applies [`Noted`] inline, and its read model.
pub(crate) trait Noting: InlineStore<Tx: Notes + Sized> + Clone + Debug {
    type Models: Notebook<Tx = <Self as InlineStore>::Tx>;

    fn models(&self) -> Self::Models;

    fn noting(&self) -> impl Future<Output = retell::Result<Self>> + Send {
        inline(self.clone(), Noted(PhantomData))
    }
}

fn one(id: &str, payload: &str) -> Append {
    Append::new(stream(id), ExpectedVersion::Any, vec![event(payload.to_owned())])
}

/// Asserts that the model has each event of the log exactly once. Returns the number of events.
pub(crate) async fn agree<S: Noting>(log: &S) -> usize {
    let mut events: Vec<_> = whole_log(log).await.unwrap().iter().map(|event| event.event.id.to_string()).collect();
    let mut notes = log.models().notes().await;
    events.sort();
    notes.sort();
    assert_eq!(notes, events);
    events.len()
}

pub(crate) async fn sqlite_applies_bypassing_appends_later(log: SqliteStore) {
    log.append(one("before", "x")).await.unwrap();
    let inlined = log.noting().await.unwrap();
    assert_eq!(agree(&log).await, 1);
    log.append(one("past", "x")).await.unwrap();
    assert_eq!(log.models().notes().await.len(), 1);
    inlined.append(one("next", "x")).await.unwrap();
    assert_eq!(agree(&log).await, 3);
    let written = |db: &rusqlite::Connection| db.execute_batch("CREATE TABLE mine (a)").map_err(retell_error);
    inlined.append_with(one("with", "x"), written).await.unwrap();
    let poisoned = inlined.append_with(one("with", "poison"), |_| Ok::<_, Error>(())).await.unwrap_err();
    assert!(matches!(poisoned.kind(), ErrorKind::Projection { position, .. } if *position == Position::new(5)));
    assert_eq!(agree(&log).await, 4);
}

pub(crate) async fn bypassing_appends_are_applied_with_the_next(log: MemoryStore<Vec<String>>) {
    log.append(one("before", "x")).await.unwrap();
    let inlined = log.noting().await.unwrap();
    assert_eq!(agree(&log).await, 1);
    log.append(one("past", "x")).await.unwrap();
    assert_eq!(log.models().notes().await.len(), 1);
    inlined.append(one("next", "x")).await.unwrap();
    assert_eq!(agree(&log).await, 3);
    // Uses both kinds of handle concurrently: an append that another handle overtakes is checked and applied again.
    let mut writers = JoinSet::new();
    for number in 0..200 {
        let log = if number % 2 == 0 { log.clone() } else { inlined.clone() };
        writers.spawn(async move { log.append(one(&(number % 7).to_string(), "x")).await.unwrap() });
    }
    writers.join_all().await;
    inlined.append(one("last", "x")).await.unwrap();
    assert_eq!(agree(&log).await, 204);
}

pub(crate) async fn an_append_that_waits_for_itself_is_refused(log: MemoryStore<Vec<String>>) {
    let inlined = log.noting().await.unwrap();
    let (within, models) = (inlined.clone(), log.models());
    let work: Work<Vec<String>> =
        Box::new(move |_| async move { within.append(one("a", "x")).await.map(drop) }.boxed());
    let other = ProjectionName::new("other").unwrap();
    let error = models.commit(Step::new(&other, Position::ZERO, Position::new(1)), work).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid(why) if why.contains("would wait for itself")), "{error}");
    inlined.append(one("a", "x")).await.unwrap();
    assert_eq!(agree(&log).await, 1);
}

fn retell_error(error: rusqlite::Error) -> Error {
    Error::with_source(ErrorKind::Backend("write".into()), error)
}

pub(crate) async fn a_server_refuses_a_projection_behind_the_log<S: Noting>(log: S) {
    log.append(one("before", "x")).await.unwrap();
    let refused = log.noting().await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Invalid(why) if why.contains("the log ends at 1")), "{refused}");
    let worker = Worker::new(Noted(PhantomData), log.clone(), log.models()).with_order_per_aggregate();
    worker.catch_up().await.unwrap();
    let log = log.noting().await.unwrap();
    log.append(one("after", "x")).await.unwrap();
    assert_eq!(agree(&log).await, 2);
}

/// A caller's transaction commits its rows, the events and the projection's changes, or none of them.
macro_rules! callers_transaction {
    ($name:ident, $store:ty) => {
        pub(crate) async fn $name(log: $store) {
            let log = log.noting().await.unwrap();
            let mut tx = log.pool().begin().await.unwrap();
            log.append_in(&mut tx, &one("a", "x")).await.unwrap();
            tx.rollback().await.unwrap();
            assert_eq!(agree(&log).await, 0);
            let mut tx = log.pool().begin().await.unwrap();
            log.append_in(&mut tx, &one("a", "x")).await.unwrap();
            let poisoned = log.append_in(&mut tx, &one("a", "poison")).await.unwrap_err();
            assert!(matches!(poisoned.kind(), ErrorKind::Projection { .. }), "{poisoned}");
            log.append_in(&mut tx, &one("a", "x")).await.unwrap();
            tx.commit().await.unwrap();
            assert_eq!(agree(&log).await, 2);
        }
    };
}

callers_transaction!(a_callers_transaction_commits_both_or_neither_on_postgres, PostgresStore);
callers_transaction!(a_callers_transaction_commits_both_or_neither_on_mysql, MySqlStore);
