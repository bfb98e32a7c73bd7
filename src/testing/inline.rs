//! The conformance suite of [`InlineStore`]: one function per case, each on a fresh and empty log and its read model.
//!
//! [`inline_conformance!`](crate::inline_conformance) expands to one test per case. [`noting`] returns a handle for
//! [`store_conformance!`](crate::store_conformance), because a log with an inline projection must still pass the suite of a log.
//!
//! # Panics
//! Every case panics if the store breaks the rule in the case's name.
#![expect(clippy::missing_panics_doc, reason = "documented once, above: every case may panic")]

use std::marker::PhantomData;
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::error::Error;
use crate::error::{BoxError, ErrorKind, Result};
use crate::event::{AnyEvent, Envelope};
use crate::id::{EventId, ExpectedVersion, Generation, IdempotencyKey, Position, ProjectionName, Version, ViewKey};
use crate::inline::inline;
use crate::projection::{Projection, wait_for};
use crate::rebuild::Rebuild;
use crate::store::log::append::{Append, Outcome};
use crate::store::log::inline::InlineStore;
use crate::store::memory::model::MemoryReadModel;
use crate::store::model::interventions::By;
use crate::store::model::parking::{Parked, ParkedState, ParkingChange, Step};
use crate::store::model::read_model::{ReadModel, Work};
use crate::store::model::views::{ViewId, ViewStore};
#[cfg(feature = "mysql")]
use crate::store::mysql::model::read_model::MySqlReadModel;
#[cfg(feature = "postgres")]
use crate::store::postgres::model::read_model::PostgresReadModel;
#[cfg(feature = "sqlite")]
use crate::store::sqlite::model::read_model::SqliteReadModel;
use crate::testing::store::{event, position_of, stream, whole_log};
use crate::view::View;
use crate::view::fold::ViewProjection;
use crate::view::reader::{Paging, Views};
use crate::worker::Worker;

/// Expands to one test per case, named after the case.
///
/// Awaiting the expression returns a fresh empty log, the read model that its inline projections write to, and a guard that must live as
/// long as both. The read model must be [`Noting`].
///
/// # Examples
/// ```
/// use retell::{MemoryReadModel, MemoryStore};
///
/// retell::inline_conformance!(async {
///     let models = MemoryReadModel::with_value(Vec::new());
///     (MemoryStore::with_read_model(models.clone()), models, ())
/// });
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! inline_conformance {
    ($fresh:expr) => {
        $crate::inline_conformance! {
            @cases $fresh;
            concurrent_appends_leave_log_and_model_in_agreement,
            append_whose_projection_fails_writes_nothing,
            failed_part_of_an_append_keeps_its_key_free,
            repeated_and_refused_appends_apply_nothing,
            two_projections_of_one_handle_are_both_applied,
            second_setup_continues_from_the_checkpoint,
            projection_with_a_parked_aggregate_is_refused,
            worker_of_the_same_name_applies_nothing_twice,
            returned_append_is_applied,
            inline_projection_is_neither_paused_nor_retired,
        }
    };
    (@cases $fresh:expr; $($case:ident,)*) => {
        $(
            #[::tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let (log, models, _guard) = $fresh.await;
                $crate::testing::inline::$case(log, models).await;
            }
        )*
    };
}

/// Expands to one test per case of inline views, named after the case. The expression is that of
/// [`inline_conformance!`](crate::inline_conformance), with a read model that is also a [`ViewStore`].
///
/// # Examples
/// ```
/// use retell::{MemoryReadModel, MemoryStore};
///
/// retell::inline_view_conformance!(async {
///     let models = MemoryReadModel::new();
///     (MemoryStore::with_read_model(models.clone()), models, ())
/// });
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! inline_view_conformance {
    ($fresh:expr) => {
        $crate::inline_conformance! {
            @cases $fresh;
            view_never_lags_while_all_writers_change_one_row,
            rebuild_keeps_an_inline_generation_and_promotes_it,
            generation_that_is_being_deleted_is_refused,
        }
    };
}

/// A read model in which a projection records the id of each event that it applies. An event that is applied twice has two notes.
#[async_trait]
pub trait Noting: ReadModel + Clone {
    /// Returns work that creates the storage of the notes, such as a table, if it does not exist.
    fn make_room() -> Work<Self::Tx>;

    /// Returns work that adds a note of `event`.
    fn note(event: EventId) -> Work<Self::Tx>;

    /// Returns the committed notes, in any order.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn noted(&self) -> Result<Vec<EventId>>;
}

#[async_trait]
impl Noting for MemoryReadModel<Vec<EventId>> {
    fn make_room() -> Work<Vec<EventId>> {
        Box::new(|_| Box::pin(async { Ok(()) }))
    }

    fn note(event: EventId) -> Work<Vec<EventId>> {
        Box::new(move |notes| {
            notes.push(event);
            Box::pin(async { Ok(()) })
        })
    }

    async fn noted(&self) -> Result<Vec<EventId>> {
        Ok(self.value().to_vec())
    }
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_source(ErrorKind::Backend("note an event".into()), error)
}

#[cfg(feature = "sqlite")]
#[async_trait]
impl Noting for SqliteReadModel {
    fn make_room() -> Work<Self::Tx> {
        Box::new(|db| {
            let made = db.execute_batch(CREATE_NOTED).map_err(failed);
            Box::pin(async { made })
        })
    }

    fn note(event: EventId) -> Work<Self::Tx> {
        Box::new(move |db| {
            let noted = db.execute("INSERT INTO noted VALUES (?1)", [event.to_string()]).map(drop).map_err(failed);
            Box::pin(async { noted })
        })
    }

    async fn noted(&self) -> Result<Vec<EventId>> {
        let notes: Vec<String> = self.query(|db| db.prepare(NOTED)?.query_map([], |row| row.get(0))?.collect()).await?;
        parse(&notes)
    }
}

/// The notes are a table in the first schema of the connections' `search_path`: give each test its own schema there.
#[cfg(feature = "postgres")]
#[async_trait]
impl Noting for PostgresReadModel {
    fn make_room() -> Work<Self::Tx> {
        Box::new(|db| Box::pin(async { sqlx::raw_sql(CREATE_NOTED).execute(db).await.map(drop).map_err(failed) }))
    }

    fn note(event: EventId) -> Work<Self::Tx> {
        Box::new(move |db| {
            Box::pin(async move {
                let note = sqlx::query("INSERT INTO noted VALUES ($1)").bind(event.to_string());
                note.execute(db).await.map(drop).map_err(failed)
            })
        })
    }

    async fn noted(&self) -> Result<Vec<EventId>> {
        parse(&sqlx::query_scalar::<_, String>(NOTED).fetch_all(self.pool()).await.map_err(failed)?)
    }
}

#[cfg(feature = "mysql")]
#[async_trait]
impl Noting for MySqlReadModel {
    fn make_room() -> Work<Self::Tx> {
        Box::new(|db| Box::pin(async { sqlx::raw_sql(CREATE_NOTED).execute(db).await.map(drop).map_err(failed) }))
    }

    fn note(event: EventId) -> Work<Self::Tx> {
        Box::new(move |db| {
            Box::pin(async move {
                let note = sqlx::query("INSERT INTO noted VALUES (?)").bind(event.to_string());
                note.execute(db).await.map(drop).map_err(failed)
            })
        })
    }

    async fn noted(&self) -> Result<Vec<EventId>> {
        parse(&sqlx::query_scalar::<_, String>(NOTED).fetch_all(self.pool()).await.map_err(failed)?)
    }
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
fn parse(notes: &[String]) -> Result<Vec<EventId>> {
    notes.iter().map(|note| note.parse().map_err(failed)).collect()
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
const CREATE_NOTED: &str = "CREATE TABLE IF NOT EXISTS noted (event_id VARCHAR(36) NOT NULL)";

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
const NOTED: &str = "SELECT event_id FROM noted";

/// A projection that notes each event, and then fails if its payload is `poison`.
struct Notes<M> {
    name: &'static str,
    models: PhantomData<fn(M)>,
}

impl<M> Notes<M> {
    fn named(name: &'static str) -> Self {
        Self { name, models: PhantomData }
    }
}

#[async_trait]
impl<M: Noting> Projection for Notes<M> {
    const NAME: &'static str = "notes";
    type Event = AnyEvent;
    type Tx = M::Tx;

    fn name(&self) -> &str {
        self.name
    }

    async fn setup(&self, tx: &mut M::Tx) -> Result<(), BoxError> {
        Ok(M::make_room()(tx).await?)
    }

    async fn apply(&self, tx: &mut M::Tx, event: Envelope<AnyEvent>) -> Result<(), BoxError> {
        M::note(event.id)(tx).await?;
        if &event.event.payload[..] == b"poison" { Err("poisoned".into()) } else { Ok(()) }
    }
}

/// Returns a handle of `log` whose appends note their events in `models`. An append with the payload `poison` fails.
///
/// # Errors
/// As [`inline()`].
pub async fn noting<S: InlineStore<Tx = M::Tx>, M: Noting>(log: S, _models: &M) -> Result<S> {
    inline(log, Notes::<M>::named(Notes::<M>::NAME)).await
}

fn one(id: &str, payload: &str) -> Append {
    Append::new(stream(id), ExpectedVersion::Any, vec![event(payload.to_owned())])
}

async fn noting_of<S: InlineStore<Tx = M::Tx>, M: Noting>(log: S, models: &M) -> S {
    noting(log, models).await.expect("the projection can be set up on an empty log")
}

/// Asserts that the model has exactly one note of each event of the log, and returns the number of events.
///
/// # Panics
/// If the log and the notes differ.
pub async fn assert_agreement<S: InlineStore, M: Noting>(log: &S, models: &M) -> usize {
    let log = whole_log(log).await.expect("the log can be read");
    let mut events: Vec<_> = log.iter().map(|event| event.event.id).collect();
    let mut notes = models.noted().await.expect("the notes can be read");
    events.sort_unstable();
    notes.sort_unstable();
    assert_eq!(notes, events, "the model has one note of each event of the log");
    events.len()
}

/// Sixteen writers append to five streams.
pub async fn concurrent_appends_leave_log_and_model_in_agreement<S, M>(log: S, models: M)
where
    S: InlineStore<Tx = M::Tx> + Clone,
    M: Noting,
{
    let log = noting_of(log, &models).await;
    let mut writers = JoinSet::new();
    for writer in 0..16 {
        let log = log.clone();
        writers.spawn(async move {
            for number in 0..20 {
                log.append(one(&((writer + number) % 5).to_string(), "x"))
                    .await
                    .expect("an append that expects no version succeeds");
            }
        });
    }
    writers.join_all().await;
    assert_eq!(assert_agreement(&log, &models).await, 320);
}

/// The append fails with an error that names the projection and has the projection's error as its source. Other appends in the same commit
/// are written.
pub async fn append_whose_projection_fails_writes_nothing<S, M>(log: S, models: M)
where
    S: InlineStore<Tx = M::Tx> + Clone,
    M: Noting,
{
    let log = noting_of(log, &models).await;
    let mut writers = JoinSet::new();
    for number in 0..40 {
        let (log, payload) = (log.clone(), if number % 10 == 3 { "poison" } else { "fine" });
        writers.spawn(async move { (payload, log.append(one(&number.to_string(), payload)).await) });
    }
    for (payload, result) in writers.join_all().await {
        match result {
            Ok(_) => assert_eq!(payload, "fine"),
            Err(error) => {
                assert_eq!(payload, "poison", "{error}");
                assert!(matches!(error.kind(), ErrorKind::Projection { .. }), "{error}");
                let source = std::error::Error::source(&error).map(ToString::to_string);
                assert_eq!(source.as_deref(), Some("poisoned"));
            }
        }
    }
    assert_eq!(assert_agreement(&log, &models).await, 36);
}

/// The append is refused in all its streams. A later append under the same key is written.
pub async fn failed_part_of_an_append_keeps_its_key_free<S, M>(log: S, models: M)
where
    S: InlineStore<Tx = M::Tx> + Clone,
    M: Noting,
{
    let log = noting_of(log, &models).await;
    let key = IdempotencyKey::new("k").expect("a valid key");
    let both = |payload: &str| {
        let append = one("a", "fine").with_stream(stream("b"), ExpectedVersion::Any, vec![event(payload.to_owned())]);
        append.with_key(key.clone())
    };
    let refused = log.append(both("poison")).await.expect_err("the projection fails on it");
    assert!(matches!(refused.kind(), ErrorKind::Projection { .. }), "{refused}");
    assert_eq!(assert_agreement(&log, &models).await, 0);
    assert_eq!(
        log.append(both("fine")).await.expect("an append that expects no version succeeds").outcome,
        Outcome::Written
    );
    assert_eq!(assert_agreement(&log, &models).await, 2);
}

/// An append repeated under its key, and an append that conflicts, are not applied.
pub async fn repeated_and_refused_appends_apply_nothing<S, M>(log: S, models: M)
where
    S: InlineStore<Tx = M::Tx> + Clone,
    M: Noting,
{
    let log = noting_of(log, &models).await;
    let append = one("a", "x").with_key(IdempotencyKey::new("k").expect("a valid key"));
    for outcome in [Outcome::Written, Outcome::Repeated, Outcome::Repeated] {
        assert_eq!(log.append(append.clone()).await.expect("the append succeeds").outcome, outcome);
    }
    let conflict = Append::new(stream("a"), ExpectedVersion::NoStream, vec![event("x")]);
    assert!(log.append(conflict).await.expect_err("the stream exists").is_conflict());
    assert_eq!(assert_agreement(&log, &models).await, 1);
}

/// Both projections run in the transaction of each append. If the second one fails, the changes of the first are rolled back.
pub async fn two_projections_of_one_handle_are_both_applied<S, M>(log: S, models: M)
where
    S: InlineStore<Tx = M::Tx> + Clone,
    M: Noting,
{
    let log = noting_of(log, &models).await;
    let log = inline(log, Notes::<M>::named("more")).await.expect("another projection can be set up");
    for payload in ["x", "poison", "x"] {
        assert_eq!(log.append(one("a", payload)).await.is_ok(), payload == "x");
    }
    let mut notes = models.noted().await.expect("the notes can be read");
    notes.sort_unstable();
    let mut twice: Vec<_> = whole_log(&log).await.expect("the log can be read").iter().map(|e| e.event.id).collect();
    twice.extend(twice.clone());
    twice.sort_unstable();
    assert_eq!((notes.len(), notes), (4, twice));
}

/// A process sets up its projections again after a restart, and so does a second process.
pub async fn second_setup_continues_from_the_checkpoint<S, M>(log: S, models: M)
where
    S: InlineStore<Tx = M::Tx> + Clone,
    M: Noting,
{
    let first = noting_of(log.clone(), &models).await;
    first.append(one("a", "x")).await.expect("an append that expects no version succeeds");
    let second = noting(log, &models).await.expect("the projection has applied the whole log");
    for handle in [&second, &first, &second] {
        handle.append(one("a", "x")).await.expect("an append that expects no version succeeds");
    }
    assert_eq!(assert_agreement(&second, &models).await, 4);
}

/// The error is [`ErrorKind::Invalid`]: an append cannot know which events of a parked aggregate the projection has applied.
pub async fn projection_with_a_parked_aggregate_is_refused<S, M>(log: S, models: M)
where
    S: InlineStore<Tx = M::Tx> + Clone,
    M: Noting,
{
    let appended = log.append(one("a", "x")).await.expect("an append that expects no version succeeds");
    let at = position_of(&log, &appended).await;
    let name = ProjectionName::new(Notes::<M>::NAME).expect("a valid name");
    let parked = Parked {
        stream: stream("a"),
        from_version: Version::new(1),
        from_position: at,
        error: "poisoned".into(),
        attempts: 1,
        next_at: Utc::now(),
        state: ParkedState::Dead,
    };
    let step = Step::new(&name, Position::ZERO, at).with_parking(0, vec![ParkingChange::Park(parked)]);
    models.commit(step, M::make_room()).await.expect("the checkpoint of a new projection is zero");
    let refused = noting(log.clone(), &models).await.map(drop).expect_err("an aggregate is parked");
    assert!(matches!(refused.kind(), ErrorKind::Invalid(_)), "{refused}");
    log.append(one("b", "x")).await.expect("the log is usable");
    assert_eq!(models.noted().await.expect("the notes can be read"), []);
}

/// The worker has nothing to do or is refused, in log order and in per-aggregate order.
pub async fn worker_of_the_same_name_applies_nothing_twice<S, M>(log: S, models: M)
where
    S: InlineStore<Tx = M::Tx> + Clone,
    M: Noting,
{
    let log = noting_of(log, &models).await;
    for number in 0..10 {
        log.append(one(&number.to_string(), "x")).await.expect("an append that expects no version succeeds");
    }
    assert_eq!(assert_agreement(&log, &models).await, 10);
    for (per_aggregate, events) in [(false, 11), (true, 12)] {
        let worker = Worker::new(Notes::<M>::named(Notes::<M>::NAME), log.clone(), models.clone());
        let worker = if per_aggregate { worker.with_order_per_aggregate() } else { worker };
        let stop = CancellationToken::new();
        let soon = async {
            sleep(Duration::from_millis(100)).await;
            stop.cancel();
        };
        let (ran, ()) = tokio::join!(worker.run(stop.clone()), soon);
        if let Err(error) = ran {
            let kind = error.kind();
            assert!(matches!(kind, ErrorKind::HistoryChanged { .. } | ErrorKind::Invalid(_)), "{error}");
        }
        log.append(one("more", "x")).await.expect("an append that expects no version succeeds");
        assert_eq!(assert_agreement(&log, &models).await, events);
    }
}

/// A caller that waits for the projection returns immediately.
pub async fn returned_append_is_applied<S, M>(log: S, models: M)
where
    S: InlineStore<Tx = M::Tx> + Clone,
    M: Noting,
{
    let log = noting_of(log, &models).await;
    let name = ProjectionName::new(Notes::<M>::NAME).expect("a valid name");
    for number in 1..=3 {
        let token = log.append(one("a", "x")).await.expect("an append that expects no version succeeds").token();
        wait_for(&models, &log, &name, token, Duration::from_secs(10)).await.expect("the append is applied");
        assert_eq!(assert_agreement(&log, &models).await, number);
    }
}

/// The appends cannot wait.
pub async fn inline_projection_is_neither_paused_nor_retired<S, M>(log: S, models: M)
where
    S: InlineStore<Tx = M::Tx> + Clone,
    M: Noting,
{
    let log = noting_of(log, &models).await;
    log.append(one("a", "x")).await.expect("an append that expects no version succeeds");
    let (name, by) = (ProjectionName::new(Notes::<M>::NAME).expect("a valid name"), By::new("ada", "a test"));
    for stopped in [models.pause(&name, &by).await, models.retire(&name, &by).await] {
        let refused = stopped.expect_err("appends apply the projection");
        assert!(matches!(refused.kind(), ErrorKind::Invalid(_)), "{refused}");
    }
    log.append(one("a", "y")).await.expect("the log is usable");
    assert_eq!(assert_agreement(&log, &models).await, 2);
}

/// A view that counts the events of each payload.
#[derive(Debug, Clone, Copy)]
struct Payloads {
    generation: Generation,
}

const LIVE: Payloads = Payloads { generation: ViewId::FIRST };

/// The view in a generation that readers do not see yet.
const NEXT: Payloads = Payloads { generation: Generation::new(2) };

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

async fn viewed<S, M>(log: S, view: Payloads, models: &M) -> S
where
    S: InlineStore<Tx = M::Tx>,
    M: ViewStore + Clone,
{
    inline(log, ViewProjection::new(view, models.clone())).await.expect("the view can be set up")
}

async fn count_of<M: ViewStore + Clone>(models: &M, payload: &str) -> Option<u64> {
    Views::new(&LIVE, models.clone()).get(payload).await.expect("a view can be read")
}

/// Half of the appends of sixteen writers change one row.
pub async fn view_never_lags_while_all_writers_change_one_row<S, M>(log: S, models: M)
where
    S: InlineStore<Tx = M::Tx> + Clone,
    M: ViewStore + Clone,
{
    let log = viewed(log, LIVE, &models).await;
    let mut writers = JoinSet::new();
    for writer in 0..16_usize {
        let log = log.clone();
        writers.spawn(async move {
            for number in 0..20 {
                let payload = if number % 2 == 0 { "hot" } else { ["x", "y", "z"][writer % 3] };
                log.append(one(&writer.to_string(), payload))
                    .await
                    .expect("an append that expects no version succeeds");
            }
        });
    }
    writers.join_all().await;
    log.append(one("last", "last")).await.expect("an append that expects no version succeeds");
    assert_eq!(count_of(&models, "last").await, Some(1), "the view includes the append");
    let all = Views::new(&LIVE, models).all(Paging::first(10)).await.expect("a view can be read").rows;
    let all: Vec<_> = all.iter().map(|(key, count)| (key.as_str(), *count)).collect();
    assert_eq!(all, [("hot", 160), ("last", 1), ("x", 60), ("y", 50), ("z", 50)]);
}

/// Appends keep the generation complete, so a build has nothing to do, and the generation can be promoted.
pub async fn rebuild_keeps_an_inline_generation_and_promotes_it<S, M>(log: S, models: M)
where
    S: InlineStore<Tx = M::Tx> + Clone,
    M: ViewStore + Clone,
{
    let log = viewed(viewed(log, LIVE, &models).await, NEXT, &models).await;
    for number in 0..10 {
        log.append(one(&number.to_string(), "x")).await.expect("an append that expects no version succeeds");
    }
    let rebuild = Rebuild::new(NEXT, log.clone(), models.clone());
    rebuild.run(CancellationToken::new()).await.expect("there is nothing to build");
    let key = ViewKey::new("x").expect("a valid key");
    let view = ViewId::new(Payloads::NAME, NEXT.generation).expect("a valid name");
    let kept = models.rows(view.view(), Some(NEXT.generation), &[key]).await.expect("rows can be read");
    assert_eq!(kept.iter().map(|row| row.state.as_deref()).collect::<Vec<_>>(), [Some("10")], "the rows are kept");
    log.append(one("more", "x")).await.expect("an append that expects no version succeeds");
    assert_eq!(rebuild.switch().await.expect("the generation is complete"), LIVE.generation);
    log.append(one("more", "x")).await.expect("an append that expects no version succeeds");
    assert_eq!(count_of(&models, "x").await, Some(12), "readers see the new generation, and appends still change it");
    assert_eq!(rebuild.switch_back(LIVE.generation).await.expect("the old generation is complete"), NEXT.generation);
    assert_eq!(count_of(&models, "x").await, Some(12));
}

/// The error is [`ErrorKind::Invalid`]: some of its rows are deleted, so no event may be applied to the rest.
pub async fn generation_that_is_being_deleted_is_refused<S, M>(log: S, models: M)
where
    S: InlineStore<Tx = M::Tx> + Clone,
    M: ViewStore + Clone,
{
    let inlined = viewed(log.clone(), NEXT, &models).await;
    for payload in ["x", "y", "z"] {
        inlined.append(one(payload, payload)).await.expect("an append that expects no version succeeds");
    }
    let generation = ViewId::new(Payloads::NAME, NEXT.generation).expect("a valid name");
    let is_gone = models.delete_generation(&generation, 1).await.expect("the generation is not live");
    if is_gone {
        // A store may delete more rows than the limit, as the memory store does.
        return;
    }
    let refused =
        inline(log, ViewProjection::new(NEXT, models)).await.map(drop).expect_err("the generation is being deleted");
    assert!(matches!(refused.kind(), ErrorKind::Invalid(why) if why.contains("deleted")), "{refused}");
}
