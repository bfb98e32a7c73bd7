//! The status of an event at every stage of its delivery.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use chrono::{DateTime, Utc};
use retell::event::RecordedEvent;
use retell::lifecycle::{Stage, stage};
use retell::store::{Append, Parked, Step, Work};
use retell::store::{ParkedState, ParkingChange};
use retell::testing::store::{events, stream};
use retell::{
    EventReaderExt, EventStore, ExpectedVersion, Filter, MemoryReadModel, MemoryStore, Position, ProjectionName,
    ReadModel,
};

fn sales() -> ProjectionName {
    ProjectionName::new("sales").unwrap()
}

fn nothing() -> Work<()> {
    Box::new(|()| Box::pin(async { Ok(()) }))
}

async fn stages(log: &[RecordedEvent], relayed: u64, models: &MemoryReadModel) -> Vec<Stage> {
    let mut stages = Vec::new();
    for event in log {
        stages.push(stage(event, Position::new(relayed), models, &sales()).await.unwrap());
    }
    stages
}

fn parked(event: &RecordedEvent, attempts: u32, state: ParkedState) -> Parked {
    let next_at = DateTime::<Utc>::MIN_UTC;
    Parked::new(event.stream.clone(), event.version, event.position, "out of paper", attempts, next_at)
        .with_state(state)
}

#[tokio::test]
async fn an_event_is_persisted_then_published_then_completed() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::new());
    store.append(Append::new(stream("a"), ExpectedVersion::Any, events(3))).await.unwrap();
    let log = store.read_all(Position::ZERO, 10, &Filter::all()).await.unwrap().events;
    // The projection starts: before that, its name is unknown.
    models.commit(Step::new(&sales(), Position::ZERO, Position::ZERO), nothing()).await.unwrap();
    assert_eq!(stages(&log, 0, &models).await, [Stage::Persisted, Stage::Persisted, Stage::Persisted]);
    models.commit(Step::new(&sales(), Position::ZERO, Position::new(1)), nothing()).await.unwrap();
    assert_eq!(stages(&log, 2, &models).await, [Stage::Completed, Stage::Published, Stage::Persisted]);
}

#[tokio::test]
async fn a_failing_event_and_its_successors_are_retried_then_dead() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::new());
    store.append(Append::new(stream("a"), ExpectedVersion::Any, events(3))).await.unwrap();
    store.append(Append::new(stream("b"), ExpectedVersion::Any, events(1))).await.unwrap();
    let log = store.read_all(Position::ZERO, 10, &Filter::all()).await.unwrap().events;
    let (all, error) = (Position::new(4), "out of paper".to_owned());
    let change = |attempts, state| vec![ParkingChange::Park(parked(&log[1], attempts, state))];
    let step = Step::new(&sales(), Position::ZERO, all).with_parking(0, change(1, ParkedState::Waiting));
    models.commit(step, nothing()).await.unwrap();
    let retrying = Stage::Retrying { attempts: 1, next_at: DateTime::<Utc>::MIN_UTC, error: error.clone() };
    assert_eq!(stages(&log, 4, &models).await, [Stage::Completed, retrying.clone(), retrying, Stage::Completed]);
    let step = Step::new(&sales(), all, all).with_parking(1, change(17, ParkedState::Dead));
    models.commit(step, nothing()).await.unwrap();
    let dead = Stage::DeadLettered { attempts: 17, error };
    assert_eq!(stages(&log, 4, &models).await, [Stage::Completed, dead.clone(), dead, Stage::Completed]);
    let step = Step::new(&sales(), all, all).with_parking(2, vec![ParkingChange::Release(stream("a"))]);
    models.commit(step, nothing()).await.unwrap();
    assert!(stages(&log, 4, &models).await.iter().all(|stage| *stage == Stage::Completed));
}
