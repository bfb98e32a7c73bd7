//! What an append through an inline projection does and does not do, on every kind of log.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::time::Duration;

use futures::FutureExt;
use retell::inline::inline;
use retell::store::{Append, InlineStore, Outcome, Step, ViewId, Work};
use retell::testing::store::{event, stream, whole_log};
use retell::view::{Paging, ViewProjection};
use retell::{
    AnyEvent, BoxError, Envelope, Error, ErrorKind, EventStore, ExpectedVersion, Generation, IdempotencyKey,
    MemoryStore, MySqlStore, Position, PostgresStore, Projection, ProjectionName, ReadModel, Rebuild, SqliteStore,
    View, ViewKey, ViewStore, Views, Worker, async_trait, rusqlite,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::notebook::{Notebook, Notes};

/// A note for each event, but for poison.
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

/// How many events there are of each payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payloads {
    generation: Generation,
}

const LIVE: Payloads = Payloads { generation: ViewId::FIRST };

/// A generation that readers do not see yet.
pub(crate) const NEXT: Payloads = Payloads { generation: Generation::new(2) };

impl View for Payloads {
    const NAME: &'static str = "payloads";
    type Event = AnyEvent;
    type State = u64;

    fn generation(&self) -> Generation {
        self.generation
    }

    fn key(&self, event: &Envelope<AnyEvent>) -> Option<String> {
        Some(String::from_utf8_lossy(&event.event.payload).into_owned())
    }

    fn apply(&self, count: &mut u64, _: Envelope<AnyEvent>) {
        *count += 1;
    }
}

/// A log that applies [`Noted`] inline, and the model beside it.
pub(crate) trait Noting: InlineStore<Tx: Notes + Sized> + Clone + Debug {
    type Models: Notebook<Tx = <Self as InlineStore>::Tx> + ViewStore;

    fn models(&self) -> Self::Models;

    fn noting(&self) -> impl Future<Output = retell::Result<Self>> + Send {
        inline(self.clone(), Noted(PhantomData))
    }
}

fn one(id: &str, payload: &str) -> Append {
    Append::new(stream(id), ExpectedVersion::Any, vec![event(payload.to_owned())])
}

/// The model has each event of the log once, and no other.
pub(crate) async fn agree<S: Noting>(log: &S) -> usize {
    let mut events: Vec<_> = whole_log(log).await.unwrap().iter().map(|event| event.event.id.to_string()).collect();
    let mut notes = log.models().notes().await;
    events.sort();
    notes.sort();
    assert_eq!(notes, events);
    events.len()
}

pub(crate) async fn sixteen_writers_leave_log_and_model_in_agreement<S: Noting>(log: S) {
    let log = log.noting().await.unwrap();
    let mut writers = JoinSet::new();
    for writer in 0..16 {
        let log = log.clone();
        writers.spawn(async move {
            for number in 0..20 {
                log.append(one(&((writer + number) % 5).to_string(), "x")).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    assert_eq!(agree(&log).await, 320);
}

pub(crate) async fn what_the_projection_fails_on_is_not_appended_and_others_are<S: Noting>(log: S) {
    let log = log.noting().await.unwrap();
    let mut writers = JoinSet::new();
    for number in 0..40 {
        let (log, payload) = (log.clone(), if number % 10 == 3 { "poison" } else { "fine" });
        writers.spawn(async move { (payload, log.append(one(&number.to_string(), payload)).await) });
    }
    for (payload, result) in writers.join_all().await {
        match result {
            Ok(_) => assert_eq!(payload, "fine"),
            Err(error) => {
                assert_eq!(payload, "poison");
                assert!(matches!(error.kind(), ErrorKind::Projection { .. }), "{error}");
                assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "poisoned");
            }
        }
    }
    assert_eq!(agree(&log).await, 36);
    // Nor is a part of an append, and its key stays free.
    let key = IdempotencyKey::new("k").unwrap();
    let both = |payload: &str| {
        let append = one("a", "fine").and(stream("b"), ExpectedVersion::Any, vec![event(payload.to_owned())]);
        append.with_key(key.clone())
    };
    assert!(matches!(log.append(both("poison")).await.unwrap_err().kind(), ErrorKind::Projection { .. }));
    assert_eq!(log.append(both("fine")).await.unwrap().outcome, Outcome::Written);
    assert_eq!(agree(&log).await, 38);
}

pub(crate) async fn a_repeated_append_is_applied_once<S: Noting>(log: S) {
    let log = log.noting().await.unwrap();
    let append = one("a", "x").with_key(IdempotencyKey::new("k").unwrap());
    for outcome in [Outcome::Written, Outcome::Repeated, Outcome::Repeated] {
        assert_eq!(log.append(append.clone()).await.unwrap().outcome, outcome);
    }
    let conflict = Append::new(stream("a"), ExpectedVersion::NoStream, vec![event("x")]);
    assert!(log.append(conflict).await.unwrap_err().is_conflict());
    assert_eq!(agree(&log).await, 1);
}

pub(crate) async fn a_view_never_lags_also_where_all_want_one_row<S: Noting>(log: S) {
    let models = log.models();
    let log = inline(log, ViewProjection::new(LIVE, models.clone())).await.unwrap();
    let views = Views::new(&LIVE, models);
    let mut writers = JoinSet::new();
    for writer in 0..16_u64 {
        let log = log.clone();
        writers.spawn(async move {
            for number in 0..20_u64 {
                let payload =
                    if number % 2 == 0 { "hot" } else { ["x", "y", "z"][usize::try_from(writer % 3).unwrap()] };
                log.append(one(&writer.to_string(), payload)).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    log.append(one("last", "last")).await.unwrap();
    assert_eq!(views.get("last").await.unwrap(), Some(1), "at once");
    let all = views.all(Paging::first(10)).await.unwrap().rows;
    let all: Vec<_> = all.iter().map(|(key, count)| (key.as_str(), *count)).collect();
    assert_eq!(all, [("hot", 160), ("last", 1), ("x", 60), ("y", 50), ("z", 50)]);
}

/// A generation that appends keep up to date is complete: a build finds nothing to do, and readers may be given it.
pub(crate) async fn rebuild_keeps_an_inline_generation_and_promotes_it<S: Noting>(log: S)
where
    S::Models: Clone,
{
    let models = log.models();
    let log = inline(log, ViewProjection::new(LIVE, models.clone())).await.unwrap();
    let log = inline(log, ViewProjection::new(NEXT, models.clone())).await.unwrap();
    for number in 0..10 {
        log.append(one(&number.to_string(), "x")).await.unwrap();
    }
    let rebuild = Rebuild::new(NEXT, log.clone(), models.clone());
    rebuild.run(CancellationToken::new()).await.unwrap();
    let next = ViewKey::new("x").unwrap();
    let view = ViewId::new(LIVE.name(), NEXT.generation).unwrap();
    let kept = models.rows(view.view(), Some(NEXT.generation), std::slice::from_ref(&next)).await.unwrap();
    assert_eq!(kept.iter().map(|row| row.state.as_deref()).collect::<Vec<_>>(), [Some("10")], "the rows are there");
    log.append(one("more", "x")).await.unwrap();
    assert_eq!(rebuild.switch().await.unwrap(), LIVE.generation);
    log.append(one("more", "x")).await.unwrap();
    assert_eq!(Views::new(&LIVE, models.clone()).get("x").await.unwrap(), Some(12), "readers see it, and it goes on");
    assert_eq!(rebuild.switch_back(LIVE.generation).await.unwrap(), NEXT.generation);
    assert_eq!(Views::new(&LIVE, models).get("x").await.unwrap(), Some(12));
}

/// A worker of the same name finds nothing to do, or is refused; nothing is applied twice.
pub(crate) async fn a_worker_of_the_same_name_applies_nothing_twice<S: Noting>(log: S) {
    let log = log.noting().await.unwrap();
    for number in 0..10 {
        log.append(one(&number.to_string(), "x")).await.unwrap();
    }
    agree(&log).await;
    for per_aggregate in [false, true] {
        let worker = Worker::new(Noted(PhantomData), log.clone(), log.models());
        let worker = if per_aggregate { worker.with_order_per_aggregate() } else { worker };
        let stop = CancellationToken::new();
        let soon = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            stop.cancel();
        };
        let (ran, ()) = tokio::join!(worker.run(stop.clone()), soon);
        if let Err(error) = ran {
            let kind = error.kind();
            assert!(matches!(kind, ErrorKind::CheckpointAhead { .. } | ErrorKind::Invalid(_)), "{error}");
        }
        log.append(one("more", "x")).await.unwrap();
        agree(&log).await;
    }
    // Nor does whoever waits for it wait.
    let token = log.append(one("more", "x")).await.unwrap().token();
    let name = ProjectionName::new("noted").unwrap();
    retell::projection::wait_for(&log.models(), &log, &name, token, Duration::from_secs(10)).await.unwrap();
}

pub(crate) async fn sqlite_applies_what_was_appended_past_it_with_the_next_append(log: SqliteStore) {
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

pub(crate) async fn memory_applies_what_was_appended_past_it_with_the_next_append(log: MemoryStore<Vec<String>>) {
    log.append(one("before", "x")).await.unwrap();
    let inlined = log.noting().await.unwrap();
    assert_eq!(agree(&log).await, 1);
    log.append(one("past", "x")).await.unwrap();
    assert_eq!(log.models().notes().await.len(), 1);
    inlined.append(one("next", "x")).await.unwrap();
    assert_eq!(agree(&log).await, 3);
    // Both kinds of handle at once: an append that another handle overtakes is judged and applied again.
    let mut writers = JoinSet::new();
    for number in 0..200 {
        let log = if number % 2 == 0 { log.clone() } else { inlined.clone() };
        writers.spawn(async move { log.append(one(&(number % 7).to_string(), "x")).await.unwrap() });
    }
    writers.join_all().await;
    inlined.append(one("last", "x")).await.unwrap();
    assert_eq!(agree(&log).await, 204);
}

pub(crate) async fn memory_refuses_an_append_that_waits_for_its_own_transaction(log: MemoryStore<Vec<String>>) {
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

pub(crate) async fn a_server_refuses_to_begin_behind_the_log<S: Noting>(log: S) {
    log.append(one("before", "x")).await.unwrap();
    let refused = log.noting().await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Invalid(why) if why.contains("the log ends at 1")), "{refused}");
    let worker = Worker::new(Noted(PhantomData), log.clone(), log.models()).with_order_per_aggregate();
    let (stop, mut applied) = (CancellationToken::new(), worker.applied());
    let reached = async { applied.wait_for(|position| position.get() == 1).await.map(|_| stop.cancel()).unwrap() };
    tokio::join!(worker.run(stop.clone()), reached).0.unwrap();
    let log = log.noting().await.unwrap();
    log.append(one("after", "x")).await.unwrap();
    assert_eq!(agree(&log).await, 2);
}

/// A caller's transaction: its rows, the events and what the projection makes of them, or none of them.
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

callers_transaction!(a_callers_transaction_has_both_or_neither_on_postgres, PostgresStore);
callers_transaction!(a_callers_transaction_has_both_or_neither_on_mysql, MySqlStore);
