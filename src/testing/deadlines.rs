//! The conformance suite of a [`DeadlineStore`]: one function per case, each on a fresh and empty read model.
//!
//! [`deadline_conformance!`](crate::deadline_conformance) expands to one test per case.
//!
//! # Panics
//! Every case panics if the read model breaks the rule in the case's name.
#![expect(clippy::missing_panics_doc, reason = "documented once, above: every case may panic")]

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use uuid::Uuid;

use crate::error::{ErrorKind, Result};
use crate::id::{AggregateId, CorrelationId, EventId, MAX_NAME_BYTES, Position, ProjectionName};
use crate::store::model::deadlines::{Deadline, DeadlineChange, DeadlineStore};
use crate::store::model::parking::Step;
use crate::store::model::read_model::Work;
use crate::trace::context::TraceContext;

/// Expands to one test per case, named after the case.
///
/// Awaiting the expression returns a fresh empty read model and a guard that must live as long as it.
///
/// # Examples
/// ```
/// use retell::store::memory::MemoryReadModel;
///
/// retell::deadline_conformance!(async { (MemoryReadModel::new(), ()) });
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! deadline_conformance {
    ($fresh:expr) => {
        $crate::deadline_conformance! {
            @cases $fresh;
            deadline_is_due_from_its_time_on,
            due_deadlines_come_earliest_first_up_to_the_limit,
            every_part_of_a_deadline_is_kept,
            existing_deadline_is_not_set_again,
            ended_deadline_is_gone,
            deadline_set_and_ended_in_one_call_has_ended,
            changes_commit_with_the_checkpoint,
            failed_transaction_changes_no_deadline,
            postponed_deadline_comes_later_and_counts_the_attempt,
            postponing_an_unknown_deadline_changes_nothing,
            deadlines_belong_to_one_process_each,
            many_deadlines_change_in_one_call,
        }
    };
    (@cases $fresh:expr; $($case:ident,)*) => {
        $(
            #[::tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let (model, _guard) = $fresh.await;
                $crate::testing::deadlines::$case(&model).await;
            }
        )*
    };
}

fn process(name: &str) -> ProjectionName {
    ProjectionName::new(name).expect("a test's process has a valid name")
}

fn orders() -> ProjectionName {
    process("orders")
}

/// Returns a time in the past, `second` seconds after a fixed one.
fn time(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 0).expect("a time")
}

/// Returns a deadline of the process instance `order-<id>`.
fn deadline(id: u128, at: DateTime<Utc>) -> Deadline {
    Deadline {
        id: Uuid::from_u128(id),
        key: AggregateId::new(format!("order-{id}")).expect("a valid id"),
        name: "unpaid".into(),
        at,
        correlation_id: None,
        causation_id: None,
        trace: None,
        attempts: 0,
    }
}

fn set(deadline: &Deadline) -> DeadlineChange {
    DeadlineChange::Set(deadline.clone())
}

fn end(id: u128) -> DeadlineChange {
    DeadlineChange::End(Uuid::from_u128(id))
}

async fn settle<M: DeadlineStore>(model: &M, changes: &[DeadlineChange]) {
    model.settle_deadlines(&orders(), changes).await.expect("deadlines can be changed");
}

async fn due<M: DeadlineStore>(model: &M, now: DateTime<Utc>, limit: usize) -> Vec<Deadline> {
    model.due_deadlines(&orders(), now, limit).await.expect("deadlines can be read")
}

/// Returns the ids of all deadlines, earliest first.
async fn ids<M: DeadlineStore>(model: &M) -> Vec<u128> {
    due(model, time(1_000_000), 10_000).await.iter().map(|deadline| deadline.id.as_u128()).collect()
}

/// Changes deadlines in the transaction that moves the checkpoint of the process by one.
async fn step<M: DeadlineStore + Clone>(model: &M, changes: &[DeadlineChange], end: Result<()>) -> Result<()> {
    let at = model.mark(&orders()).await?.position;
    let (store, changes) = (model.clone(), changes.to_vec());
    let work: Work<M::Tx> = Box::new(move |tx| {
        async move {
            store.change_deadlines(tx, &orders(), &changes).await?;
            end
        }
        .boxed()
    });
    model.commit(Step::new(&orders(), at, at.next()), work).await
}

/// A deadline is due from its time on, exact to the microsecond.
pub async fn deadline_is_due_from_its_time_on<M: DeadlineStore + Clone>(model: &M) {
    let microsecond = TimeDelta::microseconds(1);
    settle(model, &[set(&deadline(1, time(5) + microsecond))]).await;
    assert!(due(model, time(5), 9).await.is_empty());
    assert_eq!(due(model, time(5) + microsecond, 9).await.len(), 1);
    assert_eq!(due(model, time(9), 9).await.len(), 1, "a deadline stays due until it is ended");
}

/// A call returns the earliest of the due deadlines.
pub async fn due_deadlines_come_earliest_first_up_to_the_limit<M: DeadlineStore + Clone>(model: &M) {
    let changes: Vec<_> =
        [(1, 30), (2, 10), (3, 50), (4, 20), (5, 40)].map(|(id, at)| set(&deadline(id, time(at)))).into();
    settle(model, &changes).await;
    assert_eq!(ids(model).await, [2, 4, 1, 5, 3]);
    let first: Vec<_> = due(model, time(40), 2).await.iter().map(|deadline| deadline.id.as_u128()).collect();
    assert_eq!(first, [2, 4]);
    assert_eq!(due(model, time(40), 9).await.len(), 4);
    assert!(due(model, time(40), 0).await.is_empty());
}

/// Id, key, name, time, correlation id, cause and trace are returned unchanged, with any characters.
pub async fn every_part_of_a_deadline_is_kept<M: DeadlineStore + Clone>(model: &M) {
    let trace = TraceContext::new(u128::MAX, u64::MAX, 1).expect("valid ids");
    let longest = Deadline {
        key: AggregateId::new("ü".repeat(MAX_NAME_BYTES / 2)).expect("a valid id"),
        name: "zoë's \"deadline\" 🦀 '; --".into(),
        correlation_id: Some(CorrelationId::generate()),
        causation_id: Some(EventId::generate()),
        trace: Some(trace.with_state(&format!("vendor={}", "~".repeat(256))).expect("a valid state")),
        ..deadline(1, time(1) + TimeDelta::microseconds(123_456))
    };
    let plain = deadline(u128::MAX, time(2));
    settle(model, &[set(&longest), set(&plain)]).await;
    assert_eq!(due(model, time(9), 9).await, [longest, plain]);
}

/// A repeated step sets its deadlines again. A deadline that was postponed in between keeps its time.
pub async fn existing_deadline_is_not_set_again<M: DeadlineStore + Clone>(model: &M) {
    settle(model, &[set(&deadline(1, time(5)))]).await;
    settle(model, &[set(&deadline(1, time(1)))]).await;
    assert_eq!(due(model, time(9), 9).await, [deadline(1, time(5))]);
    model.postpone_deadline(&orders(), Uuid::from_u128(1), time(7), "late").await.expect("a deadline can be postponed");
    step(model, &[set(&deadline(1, time(5)))], Ok(())).await.expect("the transaction commits");
    assert_eq!(due(model, time(9), 9).await, [Deadline { attempts: 1, ..deadline(1, time(7)) }]);
}

/// Ending a deadline again changes nothing. Neither does ending a deadline that was never set.
pub async fn ended_deadline_is_gone<M: DeadlineStore + Clone>(model: &M) {
    settle(model, &[set(&deadline(1, time(1))), set(&deadline(2, time(2))), set(&deadline(3, time(3)))]).await;
    for _ in 0..2 {
        settle(model, &[end(2), end(9)]).await;
        assert_eq!(ids(model).await, [1, 3]);
    }
    settle(model, &[end(1), end(3), set(&deadline(4, time(4)))]).await;
    assert_eq!(ids(model).await, [4]);
    settle(model, &[]).await;
    assert_eq!(ids(model).await, [4]);
}

/// A deadline that one call sets and ends has ended, in whatever order the call lists the two changes.
pub async fn deadline_set_and_ended_in_one_call_has_ended<M: DeadlineStore + Clone>(model: &M) {
    settle(model, &[set(&deadline(1, time(1))), end(1), end(2), set(&deadline(2, time(2)))]).await;
    assert!(ids(model).await.is_empty());
    step(model, &[end(3), set(&deadline(3, time(3))), set(&deadline(4, time(4)))], Ok(()))
        .await
        .expect("the transaction commits");
    assert_eq!(ids(model).await, [4]);
}

/// The deadlines that a step sets and ends become visible together with its checkpoint.
pub async fn changes_commit_with_the_checkpoint<M: DeadlineStore + Clone>(model: &M) {
    step(model, &[set(&deadline(1, time(1))), set(&deadline(2, time(2)))], Ok(()))
        .await
        .expect("the transaction commits");
    assert_eq!(ids(model).await, [1, 2]);
    step(model, &[end(1), set(&deadline(3, time(3)))], Ok(())).await.expect("the transaction commits");
    assert_eq!(ids(model).await, [2, 3]);
    assert_eq!(model.mark(&orders()).await.expect("the read succeeds").position, Position::new(2));
}

/// A failed transaction changes neither the deadlines nor the checkpoint.
pub async fn failed_transaction_changes_no_deadline<M: DeadlineStore + Clone>(model: &M) {
    step(model, &[set(&deadline(1, time(1)))], Ok(())).await.expect("the transaction commits");
    let failed = Err(ErrorKind::Invalid("on purpose".into()).into());
    let error = step(model, &[end(1), set(&deadline(2, time(2)))], failed).await.expect_err("the work fails");
    assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "{error}");
    assert_eq!(ids(model).await, [1]);
    assert_eq!(model.mark(&orders()).await.expect("the read succeeds").position, Position::new(1));
}

/// Postponing a deadline moves its time and increments its attempts. The error text may have any length.
pub async fn postponed_deadline_comes_later_and_counts_the_attempt<M: DeadlineStore + Clone>(model: &M) {
    settle(model, &[set(&deadline(1, time(1))), set(&deadline(2, time(2)))]).await;
    for attempts in 1..=3 {
        let later = time(10 * i64::from(attempts));
        let error = "no 'such' order: zoë 🦀 ".repeat(100);
        model
            .postpone_deadline(&orders(), Uuid::from_u128(1), later, &error)
            .await
            .expect("a deadline can be postponed");
        let postponed = Deadline { attempts, ..deadline(1, later) };
        assert_eq!(due(model, later, 9).await, [deadline(2, time(2)), postponed]);
    }
    assert_eq!(due(model, time(29), 9).await, [deadline(2, time(2))]);
}

/// Postponing succeeds without a change if the deadline has ended or was never set.
pub async fn postponing_an_unknown_deadline_changes_nothing<M: DeadlineStore + Clone>(model: &M) {
    model
        .postpone_deadline(&orders(), Uuid::from_u128(1), time(1), "late")
        .await
        .expect("postponing an unknown deadline succeeds");
    settle(model, &[set(&deadline(2, time(2))), set(&deadline(3, time(3))), end(3)]).await;
    model
        .postpone_deadline(&orders(), Uuid::from_u128(3), time(1), "late")
        .await
        .expect("postponing an unknown deadline succeeds");
    assert_eq!(due(model, time(9), 9).await, [deadline(2, time(2))]);
}

/// Two processes may use the same deadline id. Process names compare byte by byte.
pub async fn deadlines_belong_to_one_process_each<M: DeadlineStore + Clone>(model: &M) {
    let names = ["orders", "Orders", "orders ", "order", "örders"];
    for (name, second) in names.iter().zip(1..) {
        let own = [set(&deadline(1, time(second)))];
        model.settle_deadlines(&process(name), &own).await.expect("deadlines can be changed");
    }
    model
        .postpone_deadline(&process("Orders"), Uuid::from_u128(1), time(7), "late")
        .await
        .expect("a deadline can be postponed");
    model.settle_deadlines(&process("order"), &[end(1)]).await.expect("deadlines can be changed");
    let times = [Some(time(1)), Some(time(7)), Some(time(3)), None, Some(time(5))];
    for (name, at) in names.iter().zip(times) {
        let found = model.due_deadlines(&process(name), time(9), 9).await.expect("deadlines can be read");
        assert_eq!(found.first().map(|deadline| deadline.at), at, "{name:?}");
        assert_eq!(found.len(), usize::from(at.is_some()), "{name:?}");
    }
}

/// One call may change more deadlines than fit in one statement of any database.
pub async fn many_deadlines_change_in_one_call<M: DeadlineStore + Clone>(model: &M) {
    let changes: Vec<_> = (1..=3_000).zip(1..).map(|(id, second)| set(&deadline(id, time(second)))).collect();
    step(model, &changes, Ok(())).await.expect("the transaction commits");
    assert!(ids(model).await.into_iter().eq(1..=3_000));
    let ended: Vec<_> = (2..=3_000).map(end).collect();
    settle(model, &ended).await;
    assert_eq!(ids(model).await, [1]);
}
