//! The in-memory store and read model pass every case of the suites.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use futures::{FutureExt, poll};
use retell::store::memory::{MemoryReadModel, MemoryStore};
use retell::store::{Deadline, DeadlineChange, DeadlineStore, Step, Switch, ViewId, ViewRow, Work};
use retell::{
    AggregateId, ErrorKind, EventId, Generation, Position, ProjectionName, ReadModel, Result, ViewKey, ViewStore,
};
use tokio::sync::oneshot;
use uuid::Uuid;

mod store {
    use super::MemoryStore;

    retell::store_conformance!(async { (MemoryStore::new(), ()) });
}

/// A store behind an `Arc` passes the suite.
mod store_through_a_pointer {
    use std::sync::Arc;

    use retell::{EventStore, MemoryStore};

    retell::store_conformance!(async { (Arc::new(MemoryStore::new()) as Arc<dyn EventStore>, ()) });
}

mod relay_claims {
    retell::relay_store_conformance!(async { (super::MemoryStore::new(), ()) });
}

mod read_model {
    use super::MemoryReadModel;

    retell::checkpoint_conformance!(async { (MemoryReadModel::with_value(0), ()) });
}

mod progress {
    use super::MemoryReadModel;

    retell::progress_conformance!(async { (MemoryReadModel::with_value(0), ()) });
}

mod interventions {
    use super::MemoryReadModel;

    retell::intervention_conformance!(async { (MemoryReadModel::with_value(0), ()) });
}

mod inbox {
    use super::MemoryReadModel;

    retell::inbox_conformance!(async { (MemoryReadModel::new(), ()) });
}

mod inbox_next_to_a_value {
    use super::MemoryReadModel;

    retell::inbox_conformance!(async { (MemoryReadModel::with_value(vec![1_u64]), ()) });
}

mod deadlines {
    use super::MemoryReadModel;

    retell::deadline_conformance!(async { (MemoryReadModel::new(), ()) });
}

mod deadlines_next_to_a_value {
    use super::MemoryReadModel;

    retell::deadline_conformance!(async { (MemoryReadModel::with_value(vec![1_u64]), ()) });
}

mod views {
    use super::MemoryReadModel;

    retell::view_conformance!(async { (MemoryReadModel::new(), ()) });
}

mod views_next_to_a_value {
    use super::MemoryReadModel;

    retell::view_conformance!(async { (MemoryReadModel::with_value(vec![1_u64]), ()) });
}

fn name(name: &str) -> ProjectionName {
    ProjectionName::new(name).unwrap()
}

fn totals(generation: u64) -> ViewId {
    ViewId::new("totals", Generation::new(generation)).unwrap()
}

fn deadline() -> Deadline {
    Deadline::new(Uuid::from_u128(1), AggregateId::new("order-1").unwrap(), "unpaid", DateTime::UNIX_EPOCH)
}

/// Returns what `changing` has written to the model: rows, handled events, deadlines and the value.
async fn written(models: &MemoryReadModel<u32>, event: EventId) -> (usize, bool, usize, u32) {
    let rows = models.rows(totals(1).view(), None, &[ViewKey::new("a").unwrap()]).await.unwrap().len();
    let due = models.due_deadlines(&name("orders"), Utc::now(), 9).await.unwrap().len();
    let (kept, handled) = (models.clone(), Arc::new(AtomicBool::new(false)));
    let told = handled.clone();
    // Fails, so that the question does not mark the event.
    let ask: Work<u32> = Box::new(move |tx| {
        async move {
            told.store(!kept.mark_handled(tx, &name("mails"), event).await?, Ordering::SeqCst);
            Err(ErrorKind::Invalid("only asked".into()).into())
        }
        .boxed()
    });
    models.begin(&name("asking"), ask).await.unwrap_err();
    (rows, handled.load(Ordering::SeqCst), due, *models.value())
}

/// Writes a row, a handled event, a deadline and the value, and then waits for `end`.
fn changing(models: &MemoryReadModel<u32>, event: EventId, end: BoxFuture<'static, Result<()>>) -> Work<u32> {
    let models = models.clone();
    Box::new(move |tx| {
        async move {
            let row = ViewRow::empty(ViewKey::new("a")?);
            let after = row.clone().with_state("1");
            models.save_rows(tx, &totals(1), &[row], &[after]).await?;
            assert!(models.mark_handled(tx, &name("mails"), event).await?);
            assert!(!models.mark_handled(tx, &name("mails"), event).await?, "a transaction sees what it has written");
            models.change_deadlines(tx, &name("orders"), &[DeadlineChange::Set(deadline())]).await?;
            *tx += 1;
            end.await
        }
        .boxed()
    })
}

fn step(from: u64, to: u64) -> Step {
    Step::new(totals(1).projection(), Position::new(from), Position::new(to))
}

#[tokio::test]
async fn one_commit_makes_everything_visible_at_once() {
    let (models, event) = (MemoryReadModel::with_value(0), EventId::generate());
    let (go_on, told) = oneshot::channel::<()>();
    let end = told.map(|told| {
        told.unwrap();
        Ok(())
    });
    let commit = models.commit(step(0, 1), changing(&models, event, end.boxed()));
    let mut commit = pin!(commit);
    assert!(poll!(&mut commit).is_pending());
    let key = [ViewKey::new("a").unwrap()];
    assert!(models.rows(totals(1).view(), None, &key).await.unwrap().is_empty());
    assert!(models.due_deadlines(&name("orders"), Utc::now(), 9).await.unwrap().is_empty());
    go_on.send(()).unwrap();
    commit.await.unwrap();
    assert_eq!(written(&models, event).await, (1, true, 1, 1));
}

#[tokio::test]
async fn failed_or_dropped_transaction_leaves_nothing() {
    let (models, event) = (MemoryReadModel::with_value(0), EventId::generate());
    let failing = async { Err(ErrorKind::Invalid("on purpose".into()).into()) }.boxed();
    models.commit(step(0, 1), changing(&models, event, failing)).await.unwrap_err();
    assert_eq!(written(&models, event).await, (0, false, 0, 0));
    {
        let mut dropped = models.commit(step(0, 1), changing(&models, event, pending().boxed()));
        assert!(poll!(&mut dropped).is_pending());
    }
    assert_eq!(written(&models, event).await, (0, false, 0, 0));
    // The next transaction commits its own changes alone.
    models.commit(step(0, 1), Box::new(|_| async { Ok(()) }.boxed())).await.unwrap();
    assert_eq!(written(&models, event).await, (0, false, 0, 0));
}

/// Calls every method that needs its own transaction, also from inside a transaction of another model.
#[tokio::test]
async fn call_that_waits_for_its_own_transaction_is_refused() {
    async fn refused(models: MemoryReadModel) {
        fn nothing() -> Work<()> {
            Box::new(|()| async { Ok(()) }.boxed())
        }
        let other = name("other");
        let results = [
            models.promote(&totals(2), Switch::Force).await.map(drop),
            models.delete_generation(&totals(2), 9).await.map(drop),
            models.settle_deadlines(&other, &[DeadlineChange::Set(deadline())]).await,
            models.postpone_deadline(&other, deadline().id, Utc::now(), "late").await,
            models.commit(Step::new(&other, Position::ZERO, Position::new(1)), nothing()).await,
            models.begin(&other, nothing()).await,
            models.turn(&other, 0, Vec::new(), Box::new(|(), _| async { Ok(()) }.boxed())).await,
        ];
        for error in results.map(Result::unwrap_err) {
            assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "{error}");
            assert!(error.to_string().contains("would wait for itself"), "{error}");
        }
    }

    let models = MemoryReadModel::new();
    let (own, nested) = (models.clone(), models.clone());
    let work: Work<()> = Box::new(move |()| refused(own).map(Ok).boxed());
    models.commit(step(0, 1), work).await.unwrap();
    let work: Work<()> = Box::new(move |()| {
        let inside: Work<()> = Box::new(move |()| refused(nested).map(Ok).boxed());
        async move { MemoryReadModel::new().commit(step(0, 1), inside).await }.boxed()
    });
    models.commit(step(1, 2), work).await.unwrap();
    models.promote(&totals(1), Switch::IfCaughtUp).await.unwrap();
}

#[tokio::test]
async fn write_outside_a_transaction_is_refused() {
    let (models, rows) = (MemoryReadModel::new(), [ViewRow::empty(ViewKey::new("a").unwrap())]);
    let error = models.save_rows(&mut (), &totals(1), &rows, &rows).await.unwrap_err();
    assert!(error.to_string().contains("inside a transaction"), "{error}");
    // A transaction of another model does not count.
    let other = models.clone();
    let work: Work<()> = Box::new(move |tx| {
        async move { other.mark_handled(tx, &name("mails"), EventId::generate()).await.map(drop) }.boxed()
    });
    let error = MemoryReadModel::new().commit(step(0, 1), work).await.unwrap_err();
    assert!(error.to_string().contains("inside a transaction"), "{error}");
}

#[tokio::test]
async fn snapshot_restores_value_inboxes_and_deadlines() {
    let (models, event) = (MemoryReadModel::with_value(0), EventId::generate());
    models.commit(step(0, 1), changing(&models, event, async { Ok(()) }.boxed())).await.unwrap();
    models.start_after(&name("mails"), Position::new(7).into()).await.unwrap();
    let restored = MemoryReadModel::restore(&models.snapshot().unwrap()).unwrap();
    assert_eq!(written(&restored, event).await, (1, true, 1, 1));
    assert_eq!(restored.due_deadlines(&name("orders"), Utc::now(), 9).await.unwrap(), [deadline()]);
    assert_eq!(restored.start_after(&name("mails"), Position::new(9).into()).await.unwrap().position, Position::new(7));
    // A value of another type cannot be restored.
    assert!(MemoryReadModel::<String>::restore(&models.snapshot().unwrap()).unwrap_err().is_corrupt());
}
