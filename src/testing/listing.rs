//! The cases of what operators list, in the suites of [`checkpoint_conformance!`](crate::checkpoint_conformance) and
//! [`progress_conformance!`](crate::progress_conformance).
#![expect(clippy::missing_panics_doc, reason = "documented in the suites: every case may panic")]

use chrono::DateTime;
use futures::FutureExt;

use crate::id::mark::Mark;
use crate::id::{EventId, Position, ProjectionName, StreamId, Version};
use crate::store::model::checkpoint::{ProjectionState, ProjectionStatus};
use crate::store::model::parking::{Parked, ParkedState, ParkingChange, Step};
use crate::store::model::read_model::{ReadModel, Work};

fn name(name: &str) -> ProjectionName {
    ProjectionName::new(name).expect("a valid name")
}

fn nothing<Tx: ?Sized + 'static>() -> Work<Tx> {
    Box::new(|_| async { Ok(()) }.boxed())
}

async fn listed(model: &impl ReadModel, limit: usize) -> Vec<ProjectionStatus> {
    model.projections(limit).await.expect("projections can be listed")
}

/// Projections are listed in the order of the bytes of their names, each with its checkpoint and the event there.
pub async fn projections_are_listed_by_name_up_to_a_limit(model: &impl ReadModel) {
    assert_eq!(listed(model, 10).await, []);
    let mark = |position| Mark::new(Position::new(position), EventId::generate());
    let places = [("totals", mark(3)), ("Totals", mark(5)), ("totals@2", mark(1))];
    for (projection, to) in &places {
        model.commit(Step::new(&name(projection), Mark::START, *to), nothing()).await.expect("a step commits");
    }
    let all = listed(model, 10).await;
    let expected =
        [places[1], places[0], places[2]].map(|(projection, to)| ProjectionStatus::new(name(projection), to));
    assert_eq!(all, expected);
    assert_eq!((listed(model, 2).await, listed(model, 0).await), (expected[..2].to_vec(), Vec::new()));
}

/// A projection with order per aggregate is listed from its beginning, with its swept position.
pub async fn a_listed_projection_has_its_order(model: &impl ReadModel) {
    let (totals, swept) = (name("totals"), Mark::new(Position::new(4), EventId::generate()));
    model.begin(&totals, nothing()).await.expect("a projection begins");
    for mark in [Mark::START, swept] {
        model.sweep(&totals, 0, Mark::START, mark).await.expect("a sweep moves");
        let [listed] = &listed(model, 10).await[..] else { panic!("one projection is listed") };
        assert_eq!((listed.mark, listed.per_aggregate, listed.state), (mark, true, ProjectionState::Running));
    }
}

/// The aggregates that were parked first come first, and one aggregate is found among those of its projection.
pub async fn parked_aggregates_are_read_by_position_up_to_a_limit(model: &impl ReadModel) {
    let (totals, other) = (name("totals"), name("other"));
    let parked = |id: &str, position| {
        let stream = StreamId::parse("account", id).expect("a valid stream");
        let next_at = DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("a time in range");
        Parked::new(stream, Version::new(3), Position::new(position), "no such account", 2, next_at)
    };
    let read = async |projection, stream, limit| {
        model.parked(projection, stream, limit).await.expect("parked aggregates can be read")
    };
    assert_eq!(read(&totals, None, 10).await, []);
    let late = parked("a", 9).with_state(ParkedState::Dead);
    let (early, elsewhere) = (parked("b", 4), parked("c", 1));
    for (projection, rows) in [(&totals, vec![late.clone(), early.clone()]), (&other, vec![elsewhere.clone()])] {
        let changes = rows.into_iter().map(ParkingChange::Park).collect();
        let step = Step::new(projection, Mark::START, Position::new(9)).with_parking(0, changes);
        model.commit(step, nothing()).await.expect("a step commits");
    }
    assert_eq!(read(&totals, None, 10).await, [early.clone(), late.clone()]);
    assert_eq!((read(&totals, None, 1).await, read(&totals, None, 0).await), (vec![early.clone()], Vec::new()));
    assert_eq!(read(&totals, Some(&late.stream), 10).await, std::slice::from_ref(&late));
    assert_eq!(read(&totals, Some(&elsewhere.stream), 10).await, []);
    assert_eq!(read(&totals, Some(&late.stream), 0).await, []);
}
