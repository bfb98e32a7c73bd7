//! The conformance suite of the inbox of a [`ReadModel`]: one function per case, each on a fresh and empty read model.
//!
//! [`inbox_conformance!`](crate::inbox_conformance) expands to one test per case.
//!
//! # Panics
//! Every case panics if the read model breaks the rule in the case's name.
#![expect(clippy::missing_panics_doc, reason = "documented once, above: every case may panic")]

use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::try_join_all;

use crate::error::{ErrorKind, Result};
use crate::id::{EventId, Position, ProjectionName, StreamId, Version};
use crate::store::model::interventions::By;
use crate::store::model::parking::{Parked, ParkingChange, Step};
use crate::store::model::progress::Turn;
use crate::store::model::pruning::InboxPruning;
use crate::store::model::read_model::{ReadModel, Work};

/// Expands to one test per case, named after the case.
///
/// Awaiting the expression returns a fresh empty read model and a guard that must live as long as it.
///
/// # Examples
/// ```
/// use retell::store::memory::MemoryReadModel;
///
/// retell::inbox_conformance!(async { (MemoryReadModel::new(), ()) });
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! inbox_conformance {
    ($fresh:expr) => {
        $crate::inbox_conformance! {
            @cases $fresh;
            event_is_handled_once,
            failed_transaction_marks_nothing,
            inboxes_belong_to_one_reaction_each,
            handled_events_survive_a_reset,
            one_of_concurrent_transactions_handles_an_event,
            start_is_stored_once,
            one_of_concurrent_starts_is_stored,
            pruned_inbox_begins_later,
        }
    };
    (@cases $fresh:expr; $($case:ident,)*) => {
        $(
            #[::tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let (model, _guard) = $fresh.await;
                $crate::testing::inbox::$case(&model).await;
            }
        )*
    };
}

fn reaction(name: &str) -> ProjectionName {
    ProjectionName::new(name).expect("a test's reaction has a valid name")
}

/// The results of the marks in a transaction.
type Marks = Arc<Mutex<Vec<bool>>>;

fn recorded(marks: &Marks) -> Vec<bool> {
    std::mem::take(&mut *marks.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Returns work that marks events, records the results, and returns `end`.
fn marking<M: ReadModel + Clone>(model: &M, name: &str, events: &[EventId], end: Result<()>) -> (Work<M::Tx>, Marks) {
    let (model, name, events) = (model.clone(), reaction(name), events.to_vec());
    let marks = Marks::default();
    let results = marks.clone();
    let work: Work<M::Tx> = Box::new(move |tx| {
        async move {
            for event in events {
                let first = model.mark_handled(tx, &name, event).await?;
                results.lock().unwrap_or_else(PoisonError::into_inner).push(first);
            }
            end
        }
        .boxed()
    });
    (work, marks)
}

/// Marks events in a step of the reaction that moves its checkpoint to `to`.
async fn mark<M: ReadModel + Clone>(model: &M, name: &str, to: u64, events: &[EventId]) -> Vec<bool> {
    let at = model.mark(&reaction(name)).await.expect("a checkpoint can be read").position;
    let (work, marks) = marking(model, name, events, Ok(()));
    model.commit(Step::new(&reaction(name), at, Position::new(to)), work).await.expect("the transaction commits");
    recorded(&marks)
}

/// The first mark of an event returns `true`. Later marks return `false`, in the same transaction and in later ones.
pub async fn event_is_handled_once<M: ReadModel + Clone>(model: &M) {
    let (first, second) = (EventId::generate(), EventId::generate());
    assert_eq!(mark(model, "mails", 1, &[first, first]).await, [true, false]);
    assert_eq!(mark(model, "mails", 2, &[first, second]).await, [false, true]);
    assert_eq!(mark(model, "mails", 3, &[second, first]).await, [false, false]);
}

/// After a failed transaction, the next mark of its event returns `true`.
pub async fn failed_transaction_marks_nothing<M: ReadModel + Clone>(model: &M) {
    let event = EventId::generate();
    let end = Err(ErrorKind::Invalid("on purpose".into()).into());
    let (work, marks) = marking(model, "mails", &[event], end);
    let step = Step::new(&reaction("mails"), Position::ZERO, Position::new(1));
    model.commit(step, work).await.expect_err("the work fails");
    assert_eq!(recorded(&marks), [true]);
    assert_eq!(mark(model, "mails", 1, &[event]).await, [true]);
}

/// Reaction names compare byte by byte.
pub async fn inboxes_belong_to_one_reaction_each<M: ReadModel + Clone>(model: &M) {
    let event = EventId::generate();
    for name in ["mails", "Mails", "mails ", "mail", "máils"] {
        assert_eq!(mark(model, name, 1, &[event]).await, [true], "{name:?}");
    }
    assert_eq!(mark(model, "mails", 2, &[event]).await, [false]);
}

/// A step that moves the checkpoint back leaves the inbox as it is.
pub async fn handled_events_survive_a_reset<M: ReadModel + Clone>(model: &M) {
    let event = EventId::generate();
    mark(model, "mails", 5, &[event]).await;
    mark(model, "mails", 0, &[]).await;
    assert_eq!(model.mark(&reaction("mails")).await.expect("the read succeeds").position, Position::ZERO);
    assert_eq!(mark(model, "mails", 1, &[event]).await, [false]);
}

/// With per-aggregate order, several transactions may try to mark the same event at once.
pub async fn one_of_concurrent_transactions_handles_an_event<M: ReadModel + Clone>(model: &M) {
    let nothing: Work<M::Tx> = Box::new(|_| async { Ok(()) }.boxed());
    model.begin(&reaction("mails"), nothing).await.expect("a reaction begins");
    for round in 1..=10 {
        let event = EventId::generate();
        let racer = async |racer: usize| {
            let (work, marks) = marking(model, "mails", &[event], Ok(()));
            let turn: Turn<M::Tx> = Box::new(move |tx, rows| {
                for row in rows {
                    (row.applied, row.seen) = (Version::new(round), Version::new(round));
                }
                work(tx)
            });
            let own = StreamId::parse("racer", &racer.to_string()).expect("a valid name");
            model.turn(&reaction("mails"), 0, vec![own], turn).await.map(|()| recorded(&marks))
        };
        let marked = try_join_all((0..4).map(racer)).await.expect("every turn commits").concat();
        assert_eq!(marked.iter().filter(|first| **first).count(), 1, "{marked:?}");
    }
}

/// The first start of a reaction is stored, and later calls return it. Each reaction has its own start.
pub async fn start_is_stored_once<M: ReadModel + Clone>(model: &M) {
    let start = async |name: &str, position| {
        let stored = model.start_after(&reaction(name), Position::new(position).into()).await;
        stored.expect("the start is stored").position.get()
    };
    assert_eq!(start("mails", 7).await, 7);
    assert_eq!(start("mails", 9).await, 7);
    assert_eq!(start("mails", 0).await, 7);
    assert_eq!(start("Mails", 0).await, 0);
    assert_eq!(start("Mails", 3).await, 0, "zero is also a stored position");
    assert_eq!(model.mark(&reaction("mails")).await.expect("the read succeeds").position, Position::ZERO);
}

/// Every call returns the same position.
pub async fn one_of_concurrent_starts_is_stored<M: ReadModel + Clone>(model: &M) {
    let mails = reaction("mails");
    let starts = (1..=8).map(|position| model.start_after(&mails, Position::new(position).into()));
    let stored = try_join_all(starts).await.expect("each call succeeds");
    assert!(stored.windows(2).all(|pair| pair[0] == pair[1]), "{stored:?}");
    assert_eq!(model.start_after(&mails, Position::new(99).into()).await.expect("the read succeeds"), stored[0]);
}

/// Pruning deletes exactly the named rows of one inbox, and moves the start forward. It is refused before the checkpoint has reached the place,
/// and while an aggregate is parked there. A read model that does not list its reactions refuses always.
pub async fn pruned_inbox_begins_later<M: ReadModel + Clone>(model: &M) {
    let (mails, events) = (reaction("mails"), [EventId::generate(), EventId::generate()]);
    let prune = async |through: u64, events: &[EventId]| {
        let through = Position::new(through).into();
        let pruning = InboxPruning::new(mails.clone(), through, events.to_vec(), By::new("ada", "weekly"));
        model.prune_inbox(&pruning).await
    };
    model.start_after(&mails, Position::ZERO.into()).await.expect("the start is stored");
    mark(model, "other", 4, &events).await;
    assert_eq!(mark(model, "mails", 4, &events).await, [true, true]);
    let Some(starts) = model.reactions(10).await.expect("the reactions are listed") else {
        prune(1, &events).await.expect_err("the read model cannot prune");
        return;
    };
    assert_eq!(starts.len(), 1, "{starts:?}");
    assert_eq!(model.count_handled(&mails, &events).await.expect("the rows are counted"), 2);
    let refused = prune(5, &events).await.expect_err("the checkpoint is at 4");
    assert!(matches!(refused.kind(), ErrorKind::Unsafe(_)), "{refused}");
    assert_eq!(prune(3, &events[..1]).await.expect("the row is deleted"), 1);
    assert_eq!(prune(3, &events[..1]).await.expect("nothing is left"), 0);
    assert_eq!(prune(2, &[]).await.expect("nothing to delete"), 0);
    let starts = model.reactions(10).await.expect("the reactions are listed").unwrap_or_default();
    assert_eq!(starts[0].begins_after.position, Position::new(3), "the start never goes back");
    assert_eq!(model.count_handled(&mails, &events).await.expect("the rows are counted"), 1);
    assert_eq!(model.count_handled(&reaction("other"), &events).await.expect("the rows are counted"), 2);

    let stream = StreamId::parse("order", "1").expect("a valid name");
    let parked = Parked::new(stream, Version::new(1), Position::new(4), "no such order", 3, chrono::Utc::now());
    let step = Step::new(&mails, Position::new(4), Position::new(5));
    let changes = model.parking(&mails).await.expect("the count is read").changes;
    let (work, _) = marking(model, "mails", &[], Ok(()));
    let step = step.with_parking(changes, vec![ParkingChange::Park(parked)]);
    model.commit(step, work).await.expect("the aggregate is parked");
    let refused = prune(4, &events).await.expect_err("the aggregate is parked from 4");
    assert!(matches!(refused.kind(), ErrorKind::Unsafe(_)), "{refused}");
    let audit = model.audit(10, None).await.expect("the audit is read");
    assert_eq!(audit.iter().map(|entry| entry.count).collect::<Vec<_>>(), [1], "{audit:?}");
}
