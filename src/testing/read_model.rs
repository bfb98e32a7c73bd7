//! The conformance suite of checkpoints and parking in a [`ReadModel`]: one function per case, each on a fresh and empty read model.
//!
//! [`checkpoint_conformance!`](crate::checkpoint_conformance) expands to one test per case.
//!
//! # Panics
//! Every case panics if the read model breaks the rule in the case's name.
#![expect(clippy::missing_panics_doc, reason = "documented once, above: every case may panic")]

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;

#[cfg(feature = "sqlite")]
use crate::error::Error;
use crate::error::{ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{MAX_NAME_BYTES, Position, ProjectionName, StreamId, Version};
use crate::store::memory::model::MemoryReadModel;
use crate::store::model::parking::{Parked, Parking, Step};
use crate::store::model::parking::{ParkedState, ParkingChange};
use crate::store::model::read_model::{ReadModel, Work};
#[cfg(feature = "mysql")]
use crate::store::mysql::model::read_model::MySqlReadModel;
#[cfg(feature = "postgres")]
use crate::store::postgres::model::read_model::PostgresReadModel;
#[cfg(feature = "sqlite")]
use crate::store::sqlite::model::read_model::SqliteReadModel;

/// Expands to one test per case, named after the case.
///
/// Awaiting the expression returns a fresh empty read model and a guard that must live as long as it.
///
/// # Examples
/// ```
/// use retell::store::memory::MemoryReadModel;
///
/// retell::checkpoint_conformance!(async { (MemoryReadModel::with_value(0), ()) });
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! checkpoint_conformance {
    ($fresh:expr) => {
        $crate::checkpoint_conformance! {
            @cases $fresh; read_model:
            advancing_commits_the_work_and_the_checkpoint_together,
            a_step_from_a_stale_checkpoint_changes_nothing,
            failing_work_changes_nothing,
            a_name_that_never_ran_is_an_error,
            each_projection_has_its_own_checkpoint,
            one_of_concurrent_advances_from_one_position_wins,
            parking_changes_commit_with_the_checkpoint,
            a_step_with_an_outdated_parking_count_changes_nothing,
            a_parked_aggregate_belongs_to_one_projection,
            a_parked_aggregate_can_be_retried_on_request,
        }
        $crate::checkpoint_conformance! {
            @cases $fresh; processors:
            a_release_is_kept_as_it_was_registered_first,
            a_step_that_does_not_know_a_release_changes_nothing,
        }
        $crate::checkpoint_conformance! {
            @cases $fresh; listing:
            projections_are_listed_by_name_up_to_a_limit,
            parked_aggregates_are_read_by_position_up_to_a_limit,
        }
    };
    (@cases $fresh:expr; $file:ident: $($case:ident,)*) => {
        $(
            #[::tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let (model, _guard) = $fresh.await;
                $crate::testing::$file::$case(&model).await;
            }
        )*
    };
}

/// A read model with a counter, which the suite writes in its transactions and reads back.
#[async_trait]
pub trait Counting: ReadModel {
    /// Returns work that increments the counter.
    fn count() -> Work<Self::Tx>;

    /// Returns the counter: the number of commits of [`count`](Self::count).
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn counted(&self) -> Result<u32>;
}

#[async_trait]
impl Counting for MemoryReadModel<u32> {
    fn count() -> Work<u32> {
        Box::new(|counter| {
            *counter += 1;
            Box::pin(async { Ok(()) })
        })
    }

    async fn counted(&self) -> Result<u32> {
        Ok(*self.value())
    }
}

#[cfg(feature = "sqlite")]
#[async_trait]
impl Counting for SqliteReadModel {
    fn count() -> Work<Self::Tx> {
        Box::new(|db| {
            let counted = db.execute_batch(COUNT);
            Box::pin(
                async move { counted.map_err(|error| Error::with_source(ErrorKind::Backend("count".into()), error)) },
            )
        })
    }

    async fn counted(&self) -> Result<u32> {
        self.query(|db| {
            let exists: bool = db.query_row(COUNTER_EXISTS, [], |row| row.get(0))?;
            if exists { db.query_row(COUNTED, [], |row| row.get(0)) } else { Ok(0) }
        })
        .await
    }
}

/// The counter is a table in the first schema of the connections' `search_path`: give each test its own schema there.
#[cfg(feature = "postgres")]
#[async_trait]
impl Counting for PostgresReadModel {
    fn count() -> Work<Self::Tx> {
        Box::new(|db| {
            Box::pin(async move {
                let counted = sqlx::raw_sql(COUNT_IN_POSTGRES).execute(db).await;
                counted.map(drop).map_err(|error| Error::with_source(ErrorKind::Backend("count".into()), error))
            })
        })
    }

    async fn counted(&self) -> Result<u32> {
        let failed = |error| Error::with_source(ErrorKind::Backend("count".into()), error);
        let exists: bool = sqlx::query_scalar("SELECT to_regclass('counter') IS NOT NULL")
            .fetch_one(self.pool())
            .await
            .map_err(failed)?;
        if !exists {
            return Ok(0);
        }
        let counted: i32 =
            sqlx::query_scalar("SELECT counted FROM counter").fetch_one(self.pool()).await.map_err(failed)?;
        Ok(counted.unsigned_abs())
    }
}

/// The counter is a row of the table `counter (id INT PRIMARY KEY, counted INT NOT NULL)`. Create the table before the test: MySQL commits
/// a transaction that creates a table.
#[cfg(feature = "mysql")]
#[async_trait]
impl Counting for MySqlReadModel {
    fn count() -> Work<Self::Tx> {
        Box::new(|db| {
            Box::pin(async move {
                let counted = sqlx::query(COUNT_IN_MYSQL).execute(db).await;
                counted.map(drop).map_err(|error| Error::with_source(ErrorKind::Backend("count".into()), error))
            })
        })
    }

    async fn counted(&self) -> Result<u32> {
        let counted: Option<i32> = sqlx::query_scalar(COUNTED)
            .fetch_optional(self.pool())
            .await
            .map_err(|error| Error::with_source(ErrorKind::Backend("count".into()), error))?;
        Ok(counted.unwrap_or(0).unsigned_abs())
    }
}

fn projection(name: &str) -> ProjectionName {
    ProjectionName::new(name).expect("a test's projection has a valid name")
}

async fn advance<M: Counting>(model: &M, name: &str, from: u64, to: u64) -> Result<()> {
    model.commit(Step::new(&projection(name), Position::new(from), Position::new(to)), M::count()).await
}

/// Returns the checkpoint of the projection `totals`, and the counter.
async fn state<M: Counting>(model: &M) -> (u64, u32) {
    let checkpoint = model.mark(&projection("totals")).await.expect("a checkpoint can be read").position;
    (checkpoint.get(), model.counted().await.expect("the counter can be read"))
}

/// A step commits its work and its checkpoint. A checkpoint starts at zero and moves by any number of positions.
pub async fn advancing_commits_the_work_and_the_checkpoint_together<M: Counting>(model: &M) {
    assert_eq!(state(model).await, (0, 0), "a projection that never ran");
    for (from, to, counted) in [(0, 1, 1), (1, 7, 2), (7, 1_000_000_000_000, 3)] {
        advance(model, "totals", from, to).await.expect("the checkpoint is where it was left");
        assert_eq!(state(model).await, (to, counted));
    }
}

/// The error reports the actual checkpoint. A worker gets it when it resumes after another one has taken over.
pub async fn a_step_from_a_stale_checkpoint_changes_nothing<M: Counting>(model: &M) {
    advance(model, "totals", 0, 5).await.expect("the checkpoint is at zero");
    for from in [0, 4, 6] {
        let error = advance(model, "totals", from, 9).await.expect_err("the checkpoint is elsewhere");
        let (expected, actual) = (Position::new(from), Position::new(5));
        assert_eq!(*error.kind(), ErrorKind::CheckpointMoved { projection: projection("totals"), expected, actual });
        assert_eq!(state(model).await, (5, 1));
    }
    advance(model, "totals", 5, 6).await.expect("a step from the actual checkpoint commits");
}

/// Neither the model nor the checkpoint changes, and the caller gets the work's own error.
pub async fn failing_work_changes_nothing<M: Counting>(model: &M) {
    advance(model, "totals", 0, 5).await.expect("the checkpoint is at zero");
    for _ in 0..3 {
        let work: Work<M::Tx> = Box::new(|tx| {
            Box::pin(async move {
                M::count()(tx).await?;
                Err(ErrorKind::Invalid("no such account".into()).into())
            })
        });
        let moved = model.commit(Step::new(&projection("totals"), Position::new(5), Position::new(6)), work).await;
        assert_eq!(*moved.expect_err("the work failed").kind(), ErrorKind::Invalid("no such account".into()));
        assert_eq!(state(model).await, (5, 1));
    }
    advance(model, "totals", 5, 6).await.expect("the read model is usable");
    assert_eq!(state(model).await, (6, 2));
}

/// A name that has never run is misspelt, or belongs to another read model. The error lists the names that have run.
pub async fn a_name_that_never_ran_is_an_error<M: Counting>(model: &M) {
    let (misspelt, stream) = (projection("totalz"), parked("a", 1).stream);
    let errors = async || {
        let reset = model.reset(&misspelt, Mark::START, M::count()).await;
        let checkpoint = model.checkpoint(&misspelt).await.map(drop);
        let (state, parking) = (model.state(&misspelt).await.map(drop), model.parking(&misspelt).await.map(drop));
        let retried = model.retry_parked(&misspelt, &stream).await.map(drop);
        [reset, checkpoint, state, parking, retried].map(|refused| refused.expect_err("the name never ran"))
    };
    for known in [vec![], vec![projection("totals")]] {
        for error in errors().await {
            let unknown = ErrorKind::UnknownProjection { projection: misspelt.clone(), known: known.clone() };
            assert_eq!(*error.kind(), unknown);
        }
        assert_eq!(model.names().await.expect("names can be listed"), Some(known.clone()));
        if known.is_empty() {
            advance(model, "totals", 0, 1).await.expect("the checkpoint is at zero");
        }
    }
    assert_eq!(state(model).await, (1, 1), "a refused reset changes nothing");
    assert_eq!(model.checkpoint(&projection("totals")).await.expect("the name has run"), Position::new(1));
}

/// Each projection has its own checkpoint, even if names differ only in case or by a space.
pub async fn each_projection_has_its_own_checkpoint<M: Counting>(model: &M) {
    let names = ["totals", "Totals", "totals ", "total_", "'; --"];
    for (name, to) in names.iter().zip(1..) {
        advance(model, name, 0, to).await.expect("each begins at zero");
    }
    for (name, to) in names.iter().zip(1..) {
        let checkpoint = model.mark(&projection(name)).await.expect("a checkpoint can be read").position;
        assert_eq!(checkpoint, Position::new(to), "{name:?}");
    }
    assert_eq!(state(model).await, (1, 5));
}

/// One of the concurrent steps commits. The others get [`ErrorKind::CheckpointMoved`] or a transient error.
pub async fn one_of_concurrent_advances_from_one_position_wins<M: Counting>(model: &M) {
    let totals = projection("totals");
    let advance = |from: Position| {
        let work: Work<M::Tx> = Box::new(|tx| {
            Box::pin(async move {
                // If the read model allows concurrent transactions, all of them get here before the first commit.
                tokio::task::yield_now().await;
                M::count()(tx).await
            })
        });
        model.commit(Step::new(&totals, from, from.next()), work)
    };
    for number in 1..=5 {
        let from = Position::new(u64::from(number) - 1);
        let outcomes = join_all((0..16).map(|_| advance(from))).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "winners from {from}");
        for error in outcomes.into_iter().filter_map(Result::err) {
            let moved = matches!(error.kind(), ErrorKind::CheckpointMoved { .. });
            assert!(moved || error.is_transient(), "{error}");
        }
        assert_eq!(state(model).await, (u64::from(number), number));
    }
}

/// Returns a parked aggregate that failed at its third event.
fn parked(id: &str, position: u64) -> Parked {
    Parked {
        stream: StreamId::parse("account", id).expect("a test's stream has a valid name"),
        from_version: Version::new(3),
        from_position: Position::new(position),
        error: "no 'such' account: zoë 🦀".into(),
        attempts: 1,
        next_at: DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("a time"),
        state: ParkedState::Waiting,
    }
}

async fn step<M: Counting>(model: &M, to: u64, changes: u64, parking: Vec<ParkingChange>) -> Result<()> {
    let totals = projection("totals");
    let from = model.mark(&totals).await.expect("a checkpoint can be read").position;
    let step = Step::new(&totals, from, Position::new(to)).with_parking(changes, parking);
    model.commit(step, M::count()).await
}

async fn parking<M: Counting>(model: &M) -> Parking {
    let parking = model.parking(&projection("totals")).await;
    parking.unwrap_or_else(|error| match error.kind() {
        // It has not run yet.
        ErrorKind::UnknownProjection { .. } => Parking::default(),
        _ => panic!("parked aggregates can be read: {error}"),
    })
}

/// Parks an aggregate, updates it after another failure, and releases it. Each change increments the count that the next step must name.
pub async fn parking_changes_commit_with_the_checkpoint<M: Counting>(model: &M) {
    assert_eq!(parking(model).await, Parking::default());
    let (late, early) = (parked("late", 9), parked("early", 4));
    let both = vec![ParkingChange::Park(late.clone()), ParkingChange::Park(early.clone())];
    step(model, 9, 0, both).await.expect("nothing was parked before");
    assert_eq!(parking(model).await, Parking { changes: 1, parked: vec![early.clone(), late.clone()] });
    assert_eq!(state(model).await, (9, 1));

    step(model, 10, 1, Vec::new()).await.expect("a step without parking changes commits");
    assert_eq!(parking(model).await.changes, 1);

    let dead = Parked {
        from_version: Version::new(4),
        from_position: Position::new(11),
        error: String::new(),
        attempts: u32::MAX,
        next_at: DateTime::UNIX_EPOCH,
        state: ParkedState::Dead,
        ..early.clone()
    };
    step(model, 12, 1, vec![ParkingChange::Park(dead.clone())]).await.expect("the aggregate fails again");
    assert_eq!(parking(model).await, Parking { changes: 2, parked: vec![late.clone(), dead] });

    step(model, 12, 2, vec![ParkingChange::Release(early.stream)])
        .await
        .expect("a release need not move the checkpoint");
    assert_eq!(parking(model).await, Parking { changes: 3, parked: vec![late] });
    assert_eq!(state(model).await, (12, 4));
}

/// A step must name the current count of parking changes: a release need not move the checkpoint, so the position alone does not detect it.
pub async fn a_step_with_an_outdated_parking_count_changes_nothing<M: Counting>(model: &M) {
    let account = parked("1", 5);
    step(model, 5, 0, vec![ParkingChange::Park(account.clone())]).await.expect("nothing was parked before");
    let before = parking(model).await;
    for (changes, change) in [(0, None), (2, None), (0, Some(ParkingChange::Release(account.stream.clone())))] {
        let error =
            step(model, 9, changes, change.into_iter().collect()).await.expect_err("the step names an outdated count");
        let (expected, actual) = (Position::new(5), Position::new(5));
        assert_eq!(*error.kind(), ErrorKind::CheckpointMoved { projection: projection("totals"), expected, actual });
        assert_eq!((state(model).await, parking(model).await), ((5, 1), before.clone()));
    }
    let failing: Work<M::Tx> = Box::new(|_| Box::pin(async { Err(ErrorKind::Invalid("no".into()).into()) }));
    let release = vec![ParkingChange::Release(account.stream)];
    let failed = Step::new(&projection("totals"), Position::new(5), Position::new(6)).with_parking(1, release);
    model.commit(failed, failing).await.expect_err("the work failed");
    assert_eq!((state(model).await, parking(model).await), ((5, 1), before));
}

/// Names of projections and aggregates may be similar, or look like SQL statements.
pub async fn a_parked_aggregate_belongs_to_one_projection<M: Counting>(model: &M) {
    let names = ["a", "A", "a ", "a_", "'; --", "zoë 🦀", &"x".repeat(MAX_NAME_BYTES)];
    for (name, position) in names.iter().zip(1..) {
        let step = Step::new(&projection(name), Position::ZERO, Position::new(position));
        let accounts = names.iter().zip(1..).map(|(id, position)| ParkingChange::Park(parked(id, position))).collect();
        model.commit(step.with_parking(0, accounts), M::count()).await.expect("each begins at zero");
    }
    for (place, name) in names.iter().enumerate() {
        let release = vec![ParkingChange::Release(parked(name, 1).stream)];
        let at = Position::new(place as u64 + 1);
        let step = Step::new(&projection(name), at, at).with_parking(1, release);
        model.commit(step, M::count()).await.expect("the projection is where it was left");
    }
    for name in names {
        let parking = model.parking(&projection(name)).await.expect("parked aggregates can be read");
        let ids: Vec<_> =
            parking.parked.iter().map(|parked| parked.stream.aggregate_id().as_str().to_owned()).collect();
        let others: Vec<_> = names.into_iter().filter(|other| *other != name).collect();
        assert_eq!(ids, others, "{name:?}");
    }
}

/// A request makes a parked aggregate due immediately, even a dead one, and resets its attempts. The count of parking changes stays the same,
/// so a running worker need not restart.
pub async fn a_parked_aggregate_can_be_retried_on_request<M: Counting>(model: &M) {
    let dead = Parked { attempts: 17, state: ParkedState::Dead, ..parked("dead", 5) };
    let other = parked("other", 6);
    let both = vec![ParkingChange::Park(dead.clone()), ParkingChange::Park(other.clone())];
    step(model, 6, 0, both).await.expect("nothing was parked before");
    let totals = projection("totals");
    let before = Utc::now();
    assert!(model.retry_parked(&totals, &dead.stream).await.expect("the aggregate can be retried"));
    let Parking { changes, parked: now } = parking(model).await;
    let due = now[0].next_at;
    // Databases round or truncate times to microseconds.
    let slack = TimeDelta::milliseconds(1);
    assert!(before - slack <= due && due <= Utc::now() + slack, "the aggregate is due immediately: {due}");
    let revived = Parked { attempts: 0, next_at: due, state: ParkedState::Waiting, ..dead };
    assert_eq!((changes, now), (1, vec![revived, other.clone()]));
    let unknown = parked("unknown", 1).stream;
    assert!(!model.retry_parked(&totals, &unknown).await.expect("a request for an unknown aggregate succeeds"));
    step(model, 7, 1, Vec::new()).await.expect("the worker continues");
}

#[cfg(feature = "sqlite")]
const COUNT: &str = "
    CREATE TABLE IF NOT EXISTS counter (id INTEGER PRIMARY KEY, counted INTEGER NOT NULL) STRICT;
    INSERT INTO counter (id, counted) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET counted = counted + 1";

#[cfg(feature = "mysql")]
const COUNT_IN_MYSQL: &str =
    "INSERT INTO counter (id, counted) VALUES (1, 1) ON DUPLICATE KEY UPDATE counted = counted + 1";

#[cfg(feature = "postgres")]
const COUNT_IN_POSTGRES: &str = "
    CREATE TABLE IF NOT EXISTS counter (id integer PRIMARY KEY, counted integer NOT NULL);
    INSERT INTO counter AS c (id, counted) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET counted = c.counted + 1";

#[cfg(feature = "sqlite")]
const COUNTER_EXISTS: &str = "SELECT count(*) FROM sqlite_schema WHERE name = 'counter'";

#[cfg(any(feature = "sqlite", feature = "mysql"))]
const COUNTED: &str = "SELECT counted FROM counter";
