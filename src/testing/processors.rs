//! The cases of registered releases in the suites of [`checkpoint_conformance!`](crate::checkpoint_conformance) and
//! [`progress_conformance!`](crate::progress_conformance).
#![expect(clippy::missing_panics_doc, reason = "documented in the suites: every case may panic")]

use chrono::{DateTime, SubsecRound, Utc};
use futures::FutureExt;

use crate::error::ErrorKind;
use crate::id::mark::Mark;
use crate::id::{EventType, Position, ProjectionName, StreamId};
use crate::shape::types::Type;
use crate::store::log::query::Filter;
use crate::store::model::parking::Step;
use crate::store::model::processors::{ProcessorKind, RegisteredProcessor};
use crate::store::model::progress::Turn;
use crate::store::model::read_model::{ReadModel, Work};
use crate::testing::read_model::Counting;

fn totals() -> ProjectionName {
    ProjectionName::new("totals").expect("a valid name")
}

/// Returns a release that reads events of these types.
fn release(event_types: &[&str], program: &str) -> RegisteredProcessor {
    let event_types = event_types.iter().map(|name| EventType::new(*name).expect("a valid name"));
    let first_seen = DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("a time in range");
    RegisteredProcessor::new(
        ProcessorKind::Projection,
        Filter::all().with_event_types(event_types),
        first_seen,
        program,
    )
}

async fn changes(model: &impl ReadModel) -> u64 {
    model.parking(&totals()).await.expect("a projection that is registered is known").changes
}

async fn processors(model: &impl ReadModel, projection: &ProjectionName) -> Vec<RegisteredProcessor> {
    model.processors(projection).await.expect("releases can be listed")
}

/// A release is kept once for each projection, filter and shape of its states, as it was registered first, and the count of changes grows with each change.
pub async fn a_release_is_kept_as_it_was_registered_first<M: Counting>(model: &M) {
    assert_eq!(processors(model, &totals()).await, []);
    let state = Type::of::<Option<u32>>();
    let first = [release(&["opened", "closed"], "shop ü"), release(&[], ""), release(&[], "").with_state(&state)];
    for (number, each) in (1..).zip(&first) {
        model.register_processor(&totals(), each).await.expect("a release is registered");
        assert_eq!(changes(model).await, number);
    }
    let mut again = release(&["closed", "opened", "closed"], "other");
    again.first_seen = Utc::now().trunc_subsecs(6);
    model.register_processor(&totals(), &again).await.expect("a registered release is registered again");
    assert_eq!((processors(model, &totals()).await, changes(model).await), (first.to_vec(), 3));
    let other = ProjectionName::new("total").expect("a valid name");
    assert_eq!(processors(model, &other).await, []);

    assert!(model.forget_processor(&totals(), &again).await.expect("a release is forgotten"));
    assert!(!model.forget_processor(&totals(), &again).await.expect("a release that is not there is no error"));
    assert_eq!((processors(model, &totals()).await, changes(model).await), (first[1..].to_vec(), 4));
    model.register_processor(&totals(), &again).await.expect("a forgotten release is registered");
    assert_eq!(processors(model, &totals()).await, [first[1].clone(), first[2].clone(), again]);
}

/// A step names the count of changes that its worker knows: a new or forgotten release fails it, even at the same position.
pub async fn a_step_that_does_not_know_a_release_changes_nothing<M: Counting>(model: &M) {
    let step = |changes| Step::new(&totals(), Position::ZERO, Position::new(5)).with_parking(changes, Vec::new());
    let newer = release(&["opened"], "shop");
    model.register_processor(&totals(), &newer).await.expect("a release is registered");
    let moved = model.commit(step(0), M::count()).await.expect_err("the step does not know the release");
    assert!(matches!(moved.kind(), ErrorKind::CheckpointMoved { .. }), "{moved}");
    model.forget_processor(&totals(), &newer).await.expect("a release is forgotten");
    let moved = model.commit(step(1), M::count()).await.expect_err("the step does not know that it is forgotten");
    assert!(matches!(moved.kind(), ErrorKind::CheckpointMoved { .. }), "{moved}");
    assert_eq!(model.counted().await.expect("the read succeeds"), 0);
    model.commit(step(2), M::count()).await.expect("the step knows it");
    assert_eq!(model.counted().await.expect("the read succeeds"), 1);
}

/// As [`a_step_that_does_not_know_a_release_changes_nothing`], for a turn and a sweep.
pub async fn a_turn_that_does_not_know_a_release_changes_nothing<M: Counting>(model: &M) {
    let nothing: Work<M::Tx> = Box::new(|_| async { Ok(()) }.boxed());
    model.begin(&totals(), nothing).await.expect("a projection begins");
    let stream = StreamId::parse("account", "a").expect("a valid stream");
    let count = || -> Turn<M::Tx> {
        Box::new(|tx, rows| {
            for row in rows {
                (row.applied, row.seen) = (row.applied.next(), row.seen.next());
            }
            M::count()(tx)
        })
    };
    let (streams, five) = (vec![stream], Mark::from(Position::new(5)));
    model.register_processor(&totals(), &release(&["opened"], "shop")).await.expect("a release is registered");
    let refused = model.turn(&totals(), 0, streams.clone(), count()).await.expect_err("it does not know the release");
    assert_eq!(*refused.kind(), ErrorKind::ProcessorsChanged(totals()));
    let refused = model.sweep(&totals(), 0, Mark::START, five).await.expect_err("it does not know the release");
    assert_eq!(*refused.kind(), ErrorKind::ProcessorsChanged(totals()));
    let seen = model.seen(&totals(), &streams).await.expect("the read succeeds");
    assert!(seen.values().all(|seen| seen.version.get() == 0), "{seen:?}");
    assert_eq!(model.mark(&totals()).await.expect("the read succeeds"), Mark::START);

    model.turn(&totals(), 1, streams, count()).await.expect("it knows the release");
    let swept = model.sweep(&totals(), 1, Mark::START, five).await.expect("it knows the release");
    assert_eq!((swept, model.counted().await.expect("the read succeeds")), (five, 1));
}
