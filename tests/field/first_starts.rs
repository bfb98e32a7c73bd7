//! Two releases with different shapes of one version start for the first time in the same moment.

use std::sync::Arc;

use retell::CommandError;
use retell::error::ErrorKind;
use retell::prelude::*;
use retell::registry::Registry;
use tokio::sync::Barrier;

use crate::counting::{Counting, Step, Steps};
use crate::sites::{Site, on_every_store};

/// An aggregate of one event.
macro_rules! release {
    ($name:ident, $field:ident) => {
        mod $name {
            use super::*;

            #[derive(Event, Debug)]
            #[event("order.placed")]
            pub(super) struct Placed {
                $field: u64,
            }

            #[derive(Aggregate, Debug, Default, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
            #[aggregate("order", event = Placed)]
            pub(super) struct Order {
                total: u64,
            }

            impl Apply<Placed> for Order {
                fn apply(&mut self, event: Placed) {
                    self.total += event.$field;
                }
            }

            impl Handle<Place> for Order {
                type Error = String;

                fn handle(&self, _: &Place) -> Result<Vec<Placed>, String> {
                    Ok(vec![Placed { $field: 1 }])
                }
            }
        }
    };
}

struct Place;

release!(cents, cents);
release!(price, price);

fn is_refused(error: &CommandError<String>) -> bool {
    matches!(error, CommandError::Failed(error) if matches!(error.kind(), ErrorKind::ShapeChanged(_)))
}

/// Both list the shapes before either registers. One of them registers and writes, then the other one registers.
async fn later_of_two_first_starts_is_refused<S, M>(Site { store, database: _database, .. }: Site<S, M>)
where
    S: EventStore + Clone,
{
    let (listed, written) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let steps = Steps { shapes_listed: Step::at(&listed), appended: Step::at(&written), ..Steps::default() };
    let first = Repository::<cents::Order>::new(Counting::new(Arc::new(store.clone())).with_steps(steps));
    let steps = Steps { shapes_listed: Step::at(&listed), registers: Step::at(&written), ..Steps::default() };
    let second = Repository::<price::Order>::new(Counting::new(Arc::new(store.clone())).with_steps(steps));
    let (accepted, refused) = tokio::join!(first.execute("a", Place), second.execute("b", Place));
    accepted.unwrap();
    assert!(is_refused(&refused.unwrap_err()));

    // Nothing is unreadable, and the other release continues.
    first.execute("a", Place).await.unwrap();
    Repository::<cents::Order>::new(store.clone()).execute("a", Place).await.unwrap();
    let events = Registry::new().with::<cents::Placed>().unwrap();
    assert!(events.check_log(&store, 100).await.unwrap().problems.is_empty());
    // A new process of the refused release is refused, too, although its shape is registered by now.
    assert!(is_refused(&Repository::<price::Order>::new(store).execute("b", Place).await.unwrap_err()));
}

/// Both register before either writes, so neither sees an event of the other one when it registers.
async fn two_that_register_together_do_not_both_continue<S, M>(Site { store, database: _database, .. }: Site<S, M>)
where
    S: EventStore + Clone,
{
    let [listed, registered, written] = [(); 3].map(|()| Arc::new(Barrier::new(2)));
    let in_step = || {
        let steps = Steps {
            shapes_listed: Step::at(&listed),
            appends: Step::at(&registered),
            appended: Step::at(&written),
            ..Steps::default()
        };
        Counting::new(Arc::new(store.clone())).with_steps(steps)
    };
    let (one, other) = (Repository::<cents::Order>::new(in_step()), Repository::<price::Order>::new(in_step()));
    let (written, also_written) = tokio::join!(one.execute("a", Place), other.execute("b", Place));
    written.unwrap();
    also_written.unwrap();
    let outcomes = [one.execute("c", Place).await, other.execute("d", Place).await];
    assert!(outcomes.iter().any(|outcome| outcome.as_ref().is_err_and(is_refused)), "{outcomes:?}");
}

/// While a program is developed, its shape changes before the first event is written. The earlier shape stays registered.
async fn shape_that_was_never_written_stops_no_other<S, M>(Site { store, database: _database, .. }: Site<S, M>)
where
    S: EventStore + Clone,
{
    Registry::new().with::<cents::Placed>().unwrap().register(&store).await.unwrap();
    for _ in 0..2 {
        let orders = Repository::<price::Order>::new(store.clone());
        orders.execute("a", Place).await.unwrap();
        orders.execute("a", Place).await.unwrap();
    }
    // Now the log has events that the earlier release cannot read.
    assert!(is_refused(&Repository::<cents::Order>::new(store).execute("b", Place).await.unwrap_err()));
}

on_every_store! {
    later_of_two_first_starts_is_refused,
    two_that_register_together_do_not_both_continue,
    shape_that_was_never_written_stops_no_other,
}
