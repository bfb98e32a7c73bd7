//! The conformance suite of per-aggregate order in a [`ReadModel`]: one function per case, each on a fresh and empty read model.
//!
//! [`progress_conformance!`](crate::progress_conformance) expands to one test per case.
//!
//! # Panics
//! Every case panics if the read model breaks the rule in the case's name.
#![expect(clippy::missing_panics_doc, reason = "documented once, above: every case may panic")]

use std::collections::HashMap;

use chrono::{SubsecRound, Utc};
use futures::FutureExt;
use futures::future::{join_all, try_join_all};

use crate::error::{ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{EventId, Position, ProjectionName, StreamId, Version};
use crate::store::model::parking::ParkedState;
use crate::store::model::parking::{Parked, Step};
use crate::store::model::progress::{Progress, Turn};
use crate::store::model::read_model::{ReadModel, Work};
use crate::testing::read_model::Counting;

/// Expands to one test per case, named after the case.
///
/// Awaiting the expression returns a fresh empty read model and a guard that must live as long as it.
///
/// # Examples
/// ```
/// use retell::store::memory::MemoryReadModel;
///
/// retell::progress_conformance!(async { (MemoryReadModel::with_value(0), ()) });
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! progress_conformance {
    ($fresh:expr) => {
        $crate::progress_conformance! {
            @cases $fresh; progress:
            a_turn_commits_the_work_and_the_rows_together,
            a_failing_turn_changes_nothing,
            each_row_comes_once_in_key_order,
            turns_over_the_same_aggregates_exclude_each_other,
            a_turn_sees_the_changes_of_the_turn_it_waited_for,
            a_parked_row_is_listed_until_it_is_released,
            progress_belongs_to_one_projection,
            the_swept_position_moves_by_compare_and_set,
            a_row_keeps_the_event_it_has_seen,
            a_reset_forgets_all_progress,
            a_projection_keeps_its_order,
        }
        $crate::progress_conformance! {
            @cases $fresh; processors:
            a_turn_that_does_not_know_a_release_changes_nothing,
        }
        $crate::progress_conformance! {
            @cases $fresh; listing:
            a_listed_projection_has_its_order,
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

fn totals() -> ProjectionName {
    ProjectionName::new("totals").expect("a test's projection has a valid name")
}

fn stream(id: &str) -> StreamId {
    StreamId::parse("counter", id).expect("a test's stream has a valid name")
}

fn nothing<Tx: Send + ?Sized + 'static>() -> Work<Tx> {
    Box::new(|_| async { Ok(()) }.boxed())
}

async fn begin<M: ReadModel>(model: &M) {
    model.begin(&totals(), nothing()).await.expect("a projection begins");
}

/// Returns a turn that only changes progress rows.
fn change<Tx: Send + ?Sized + 'static>(mut change: impl FnMut(&mut Progress) + Send + 'static) -> Turn<Tx> {
    Box::new(move |_, rows| {
        rows.iter_mut().for_each(&mut change);
        async { Ok(()) }.boxed()
    })
}

fn advance_by_one(row: &mut Progress) {
    (row.applied, row.seen) = (row.applied.next(), row.applied.next());
}

async fn turn<M: ReadModel>(model: &M, ids: &[&str], turn: Turn<M::Tx>) -> Result<()> {
    model.turn(&totals(), 0, ids.iter().map(|id| stream(id)).collect(), turn).await
}

async fn seen<M: ReadModel>(model: &M, ids: &[&str]) -> Vec<u64> {
    let streams: Vec<_> = ids.iter().map(|id| stream(id)).collect();
    let seen: HashMap<_, _> = model.seen(&totals(), &streams).await.expect("progress can be read");
    streams.iter().map(|stream| seen.get(stream).copied().unwrap_or_default().version.get()).collect()
}

/// Everything written through the transaction is visible exactly when the rows are.
pub async fn a_turn_commits_the_work_and_the_rows_together<M: Counting>(model: &M) {
    begin(model).await;
    let counting: Turn<M::Tx> = Box::new(|tx, rows| {
        rows.iter_mut().for_each(advance_by_one);
        M::count()(tx)
    });
    turn(model, &["a", "b"], counting).await.expect("the transaction commits");
    assert_eq!(
        (model.counted().await.expect("the read succeeds"), seen(model, &["a", "b", "c"]).await),
        (1, vec![1, 1, 0])
    );
}

/// Neither the work nor the rows are kept, including rows that the turn created.
pub async fn a_failing_turn_changes_nothing<M: Counting>(model: &M) {
    begin(model).await;
    turn(model, &["a"], change(advance_by_one)).await.expect("the transaction commits");
    let failing: Turn<M::Tx> = Box::new(|tx, rows| {
        rows.iter_mut().for_each(advance_by_one);
        let counted = M::count()(tx);
        async move { counted.await.and(Err(ErrorKind::Invalid("on purpose".into()).into())) }.boxed()
    });
    let error = turn(model, &["a", "b"], failing).await.expect_err("the turn fails");
    assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "{error}");
    assert_eq!((model.counted().await.expect("the read succeeds"), seen(model, &["a", "b"]).await), (0, vec![1, 0]));
}

/// The caller may pass streams in any order and more than once. Their names compare byte by byte.
pub async fn each_row_comes_once_in_key_order<M: Counting>(model: &M) {
    begin(model).await;
    let check: Turn<M::Tx> = Box::new(|_, rows| {
        let ids: Vec<_> = rows.iter().map(|row| row.stream.aggregate_id().as_str()).collect();
        assert_eq!(ids, ["A", "a", "a ", "ß", "ä"]);
        assert!(
            rows.iter().all(|row| *row == Progress::new(row.stream.clone())),
            "rows of new aggregates are empty: {rows:?}"
        );
        async { Ok(()) }.boxed()
    });
    turn(model, &["ß", "a", "A", "a ", "a", "ä"], check).await.expect("the transaction commits");
}

/// Overlapping turns neither deadlock nor lose a change, in any order of streams.
pub async fn turns_over_the_same_aggregates_exclude_each_other<M: Counting>(model: &M) {
    begin(model).await;
    let ids: Vec<String> = (0..20).map(|number| format!("{number}")).collect();
    let racer = async |racer: usize| {
        for round in 0..15 {
            let mut ids: Vec<_> = ids.iter().map(String::as_str).collect();
            // Some of the rows exist, others are new.
            ids.rotate_left((racer * 7 + round) % 20);
            ids.truncate(12);
            if racer.is_multiple_of(2) {
                ids.reverse();
            }
            turn(model, &ids, change(advance_by_one)).await.expect("the turn commits");
        }
    };
    join_all((0..4).map(racer)).await;
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    assert_eq!(seen(model, &ids).await.iter().sum::<u64>(), 4 * 15 * 12);
}

/// A turn that waited for another one sees its changes, even if both create the row.
pub async fn a_turn_sees_the_changes_of_the_turn_it_waited_for<M: Counting>(model: &M) {
    begin(model).await;
    for round in 0..20 {
        let id = format!("new {round}");
        let ids = [id.as_str()];
        let racers = (0..4).map(|_| turn(model, &ids, change(advance_by_one)));
        try_join_all(racers).await.expect("every turn commits");
        assert_eq!(seen(model, &ids).await, [4]);
    }
}

/// Parking works as for a projection in log order, including a retry on request.
pub async fn a_parked_row_is_listed_until_it_is_released<M: Counting>(model: &M) {
    begin(model).await;
    let parked = Parked {
        stream: stream("a"),
        from_version: Version::new(3),
        from_position: Position::new(7),
        error: "on purpose".into(),
        attempts: 1,
        next_at: Utc::now().trunc_subsecs(3),
        state: ParkedState::Dead,
    };
    let kept = parked.clone();
    let park = change(move |row| {
        if row.stream == kept.stream {
            (row.applied, row.seen, row.parked) = (Version::new(2), Version::new(5), Some(kept.clone()));
        }
    });
    turn(model, &["a", "b"], park).await.expect("the transaction commits");
    let listed = async || model.parking(&totals()).await.expect("the read succeeds").parked;
    assert_eq!(listed().await, std::slice::from_ref(&parked));
    assert_eq!(seen(model, &["a", "b"]).await, [5, 0]);
    let found = Progress {
        stream: stream("a"),
        applied: Version::new(2),
        seen: Version::new(5),
        seen_id: None,
        parked: Some(parked),
    };
    let check: Turn<M::Tx> = Box::new(move |_, rows| {
        assert_eq!(rows, [found, Progress::new(stream("b"))]);
        async { Ok(()) }.boxed()
    });
    turn(model, &["a", "b"], check).await.expect("the transaction commits");
    assert!(model.retry_parked(&totals(), &stream("a")).await.expect("the aggregate can be retried"));
    assert_eq!(listed().await[0].state, ParkedState::Waiting);
    let release = change(|row| (row.applied, row.seen, row.parked) = (Version::new(5), Version::new(5), None));
    turn(model, &["a"], release).await.expect("the transaction commits");
    assert_eq!((listed().await, seen(model, &["a"]).await), (Vec::new(), vec![5]));
}

/// Projections with similar names share neither rows nor a position.
pub async fn progress_belongs_to_one_projection<M: Counting>(model: &M) {
    begin(model).await;
    turn(model, &["a"], change(advance_by_one)).await.expect("the transaction commits");
    let other = ProjectionName::new("total").expect("a valid name");
    model.begin(&other, nothing()).await.expect("a projection begins");
    let rows = model.seen(&other, &[stream("a")]).await.expect("the read succeeds");
    assert!(rows.get(&stream("a")).is_none_or(|seen| seen.version == Version::ZERO), "{rows:?}");
    model.sweep(&other, 0, Mark::START, Position::new(9).into()).await.expect("the sweep succeeds");
    assert_eq!(model.mark(&totals()).await.expect("the read succeeds").position, Position::ZERO);
}

/// A row keeps the id of the event it has seen, together with the version.
pub async fn a_row_keeps_the_event_it_has_seen<M: Counting>(model: &M) {
    begin(model).await;
    for id in [Some(EventId::generate()), Some(EventId::generate()), None] {
        let one_more = change(move |row: &mut Progress| {
            advance_by_one(row);
            row.seen_id = id;
        });
        turn(model, &["a"], one_more).await.expect("the transaction commits");
        let rows = model.seen(&totals(), &[stream("a")]).await.expect("the read succeeds");
        assert_eq!(rows[&stream("a")].event_id, id);
        let found = change(move |row: &mut Progress| assert_eq!(row.seen_id, id));
        turn(model, &["a"], found).await.expect("the transaction commits");
    }
}

/// A sweep that begins elsewhere, or after another event at the same position, moves nothing and returns the current place.
pub async fn the_swept_position_moves_by_compare_and_set<M: Counting>(model: &M) {
    begin(model).await;
    let (five, other, eight) = (mark(5), mark(5), mark(8));
    for (from, to, then) in [
        (Mark::START, five, five),
        (Mark::START, mark(3), five),
        (mark(7), mark(9), five),
        (other, eight, five),
        (five, eight, eight),
        (eight, mark(8), mark(8)),
    ] {
        let swept = model.sweep(&totals(), 0, from, to).await.expect("the sweep succeeds");
        assert_eq!(swept.position, then.position, "from {from} to {to}");
    }
    begin(model).await;
    assert_eq!(model.mark(&totals()).await.expect("the read succeeds").position, Position::new(8));
}

/// A reset forgets progress and parked aggregates with the work, and refuses any place but the beginning.
pub async fn a_reset_forgets_all_progress<M: Counting>(model: &M) {
    begin(model).await;
    turn(model, &["a", "b"], change(advance_by_one)).await.expect("the transaction commits");
    model.sweep(&totals(), 0, Mark::START, mark(2)).await.expect("the sweep succeeds");
    let refused = model.reset(&totals(), mark(1), M::count()).await.expect_err("progress has no place in the middle");
    assert!(matches!(refused.kind(), ErrorKind::Invalid(_)), "{refused}");
    assert_eq!((model.counted().await.expect("the read succeeds"), seen(model, &["a"]).await), (0, vec![1]));
    model.reset(&totals(), Mark::START, M::count()).await.expect("the transaction commits");
    assert_eq!((model.counted().await.expect("the read succeeds"), seen(model, &["a", "b"]).await), (1, vec![0, 0]));
    assert_eq!(model.mark(&totals()).await.expect("the read succeeds"), Mark::START);
    begin(model).await;
}

fn mark(position: u64) -> Mark {
    Mark::new(Position::new(position), EventId::generate())
}

/// The rows of one order, and the position of the other, do not contain what the other order needs.
pub async fn a_projection_keeps_its_order<M: Counting>(model: &M) {
    let log = ProjectionName::new("log").expect("a valid name");
    let step = |projection: &ProjectionName, from, to| Step::new(projection, Position::new(from), Position::new(to));
    model.commit(step(&log, 0, 0), nothing()).await.expect("the projection is set up in log order");
    model.commit(step(&log, 0, 4), nothing()).await.expect("the projection continues");
    let error = model.begin(&log, M::count()).await.expect_err("the projection has begun in log order");
    assert!(error.to_string().contains("has begun in log order"), "{error}");
    begin(model).await;
    let error =
        model.commit(step(&totals(), 0, 1), M::count()).await.expect_err("the projection has per-aggregate order");
    assert!(error.to_string().contains("has order per aggregate"), "{error}");
    assert_eq!(model.counted().await.expect("the read succeeds"), 0);
    model.commit(step(&log, 4, 5), nothing()).await.expect("the checkpoint of the other projection is unchanged");
    let young = ProjectionName::new("young").expect("a valid name");
    model.commit(step(&young, 0, 0), nothing()).await.expect("the projection is set up");
    model.begin(&young, nothing()).await.expect("a projection without progress may change its order");
}
