//! The conformance suite of the inbox of a [`ReadModel`]: one function per case, each on a fresh and empty read model.
//!
//! [`inbox_conformance!`](crate::inbox_conformance) makes a test of each of them.
//!
//! # Panics
//! Every case panics if the read model breaks the rule in the case's name.
#![expect(clippy::missing_panics_doc, reason = "said once, above: every case may panic")]

use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::try_join_all;

use crate::error::{ErrorKind, Result};
use crate::id::{EventId, Position, ProjectionName, StreamId, Version};
use crate::store::model::parking::Step;
use crate::store::model::progress::Turn;
use crate::store::model::read_model::{ReadModel, Work};

/// Makes a test of every case, by the case's name.
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

/// What each mark in a transaction returned.
type Answers = Arc<Mutex<Vec<bool>>>;

fn answered(answers: &Answers) -> Vec<bool> {
    std::mem::take(&mut *answers.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Work that marks events, notes the answers, and returns `end`.
fn marking<M: ReadModel + Clone>(model: &M, name: &str, events: &[EventId], end: Result<()>) -> (Work<M::Tx>, Answers) {
    let (model, name, events) = (model.clone(), reaction(name), events.to_vec());
    let answers = Answers::default();
    let noted = answers.clone();
    let work: Work<M::Tx> = Box::new(move |tx| {
        async move {
            for event in events {
                let first = model.mark_handled(tx, &name, event).await?;
                noted.lock().unwrap_or_else(PoisonError::into_inner).push(first);
            }
            end
        }
        .boxed()
    });
    (work, answers)
}

/// Marks events in a step of the reaction that moves its checkpoint to `to`.
async fn mark<M: ReadModel + Clone>(model: &M, name: &str, to: u64, events: &[EventId]) -> Vec<bool> {
    let at = model.checkpoint(&reaction(name)).await.expect("a checkpoint can be read");
    let (work, answers) = marking(model, name, events, Ok(()));
    model.commit(Step::new(&reaction(name), at, Position::new(to)), work).await.expect("it commits");
    answered(&answers)
}

/// The second mark returns `false`, in the same transaction and in a later one.
pub async fn event_is_handled_once<M: ReadModel + Clone>(model: &M) {
    let (first, second) = (EventId::generate(), EventId::generate());
    assert_eq!(mark(model, "mails", 1, &[first, first]).await, [true, false]);
    assert_eq!(mark(model, "mails", 2, &[first, second]).await, [false, true]);
    assert_eq!(mark(model, "mails", 3, &[second, first]).await, [false, false]);
}

/// The event counts as new afterward.
pub async fn failed_transaction_marks_nothing<M: ReadModel + Clone>(model: &M) {
    let event = EventId::generate();
    let end = Err(ErrorKind::Invalid("on purpose".into()).into());
    let (work, answers) = marking(model, "mails", &[event], end);
    let step = Step::new(&reaction("mails"), Position::ZERO, Position::new(1));
    model.commit(step, work).await.expect_err("the work fails");
    assert_eq!(answered(&answers), [true]);
    assert_eq!(mark(model, "mails", 1, &[event]).await, [true]);
}

/// Names compare by their bytes.
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
    assert_eq!(model.checkpoint(&reaction("mails")).await.expect("it can be read"), Position::ZERO);
    assert_eq!(mark(model, "mails", 1, &[event]).await, [false]);
}

/// With per-aggregate order, workers of different aggregates may see the same event.
pub async fn one_of_concurrent_transactions_handles_an_event<M: ReadModel + Clone>(model: &M) {
    let nothing: Work<M::Tx> = Box::new(|_| async { Ok(()) }.boxed());
    model.begin(&reaction("mails"), nothing).await.expect("a reaction begins");
    for round in 1..=10 {
        let event = EventId::generate();
        let racer = async |racer: usize| {
            let (work, answers) = marking(model, "mails", &[event], Ok(()));
            let turn: Turn<M::Tx> = Box::new(move |tx, rows| {
                for row in rows {
                    (row.applied, row.seen) = (Version::new(round), Version::new(round));
                }
                work(tx)
            });
            let own = StreamId::parse("racer", &racer.to_string()).expect("a valid name");
            model.turn(&reaction("mails"), vec![own], turn).await.map(|()| answered(&answers))
        };
        let marked = try_join_all((0..4).map(racer)).await.expect("every turn commits").concat();
        assert_eq!(marked.iter().filter(|first| **first).count(), 1, "{marked:?}");
    }
}

/// A later call returns the stored position, and each reaction has its own.
pub async fn start_is_stored_once<M: ReadModel + Clone>(model: &M) {
    let start = async |name: &str, position| {
        let stored = model.start_after(&reaction(name), Position::new(position)).await;
        stored.expect("it is stored").get()
    };
    assert_eq!(start("mails", 7).await, 7);
    assert_eq!(start("mails", 9).await, 7);
    assert_eq!(start("mails", 0).await, 7);
    assert_eq!(start("Mails", 0).await, 0);
    assert_eq!(start("Mails", 3).await, 0, "zero is a stored position as well");
    assert_eq!(model.checkpoint(&reaction("mails")).await.expect("it can be read"), Position::ZERO);
}

/// Every caller is told the same position.
pub async fn one_of_concurrent_starts_is_stored<M: ReadModel + Clone>(model: &M) {
    let mails = reaction("mails");
    let starts = (1..=8).map(|position| model.start_after(&mails, Position::new(position)));
    let stored = try_join_all(starts).await.expect("each is told");
    assert!(stored.windows(2).all(|pair| pair[0] == pair[1]), "{stored:?}");
    assert_eq!(model.start_after(&mails, Position::new(99)).await.expect("it can be read"), stored[0]);
}
