//! The planted situation.

use std::time::Duration;

use retell::event::NewEvent;
use retell::store::{
    By, Deadline, DeadlineChange, Parked, ParkedState, ParkingChange, ProcessorKind, RegisteredProcessor, Step, Switch,
    ViewId, Work,
};
use retell::{
    AggregateId, Append, Codec, DateTime, DeadlineStore, EventId, EventStore, EventType, ExpectedVersion, Filter,
    Generation, Mark, Position, ProjectionName, RelayStore, StreamId, Utc, Uuid, Version, ViewStore,
};

pub(crate) trait Log: EventStore + RelayStore {}
impl<L: EventStore + RelayStore> Log for L {}

pub(crate) trait Models: ViewStore + DeadlineStore {}
impl<M: ViewStore + DeadlineStore> Models for M {}

pub(crate) fn name(name: &str) -> ProjectionName {
    ProjectionName::new(name).unwrap()
}

pub(crate) fn stream(kind: &str, id: &str) -> StreamId {
    StreamId::parse(kind, id).unwrap()
}

/// Returns the id of the event at a position.
pub(crate) fn id(position: u64) -> EventId {
    Uuid::from_u128(position.into()).into()
}

pub(crate) fn mark(position: u64) -> Mark {
    Mark::new(Position::new(position), id(position))
}

pub(crate) fn nothing<Tx: ?Sized + 'static>() -> Work<Tx> {
    Box::new(|_| Box::pin(async { Ok(()) }))
}

/// Appends the next event, which gets the id of its position.
pub(crate) async fn append(log: &impl Log, position: u64, kind: &str, aggregate: &str, event_type: &str) {
    let event_type = EventType::new(event_type).unwrap();
    let event = NewEvent::stored(id(position), event_type, 1, Codec::Json, "{}".into());
    log.append(Append::new(stream(kind, aggregate), ExpectedVersion::Any, vec![event])).await.unwrap();
}

/// A time in the past.
pub(crate) fn then() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

/// Returns the row of an aggregate whose event at `version` and `position` failed.
pub(crate) fn parked(stream: StreamId, version: u64, position: u64) -> Parked {
    Parked::new(stream, Version::new(version), Position::new(position), "no such order", 3, then())
}

fn release(event_types: &[&str]) -> RegisteredProcessor {
    let event_types = event_types.iter().map(|name| EventType::new(name).unwrap());
    RegisteredProcessor::new(ProcessorKind::Projection, Filter::all().with_event_types(event_types), then(), "shop")
}

async fn step(models: &impl Models, projection: &str, to: Mark) {
    models.commit(Step::new(&name(projection), Position::ZERO, to), nothing()).await.unwrap();
}

/// Six events; a projection with two releases and a parked aggregate, one with order per aggregate, one of another log, a view that was
/// rebuilt, a process with due deadlines, and two relays.
pub(crate) async fn situation(log: &impl Log, models: &impl Models) {
    append(log, 1, "order", "1", "order.placed").await;
    append(log, 2, "order", "1", "order.paid").await;
    append(log, 3, "order", "2", "order.placed").await;
    append(log, 4, "stock", "1", "stock.counted").await;
    append(log, 5, "order", "1", "order.placed").await;
    append(log, 6, "order", "2", "order.paid").await;

    // A server gives positions when the log is read.
    assert_eq!(log.head().await.unwrap().get(), 6);
    let totals = name("totals");
    models.register_processor(&totals, &release(&["order.placed"])).await.unwrap();
    models.register_processor(&totals, &release(&["order.paid", "order.placed"])).await.unwrap();
    let changes = vec![
        ParkingChange::Park(parked(stream("order", "1"), 2, 2)),
        ParkingChange::Park(parked(stream("order", "9"), 1, 9).with_state(ParkedState::Dead)),
    ];
    let to_two = Step::new(&totals, Position::ZERO, mark(2)).with_parking(2, changes);
    models.commit(to_two, nothing()).await.unwrap();

    models.begin(&name("audit"), nothing()).await.unwrap();
    models.sweep(&name("audit"), 0, Mark::START, mark(6)).await.unwrap();

    step(models, "lost", Mark::new(Position::new(3), id(33))).await;
    step(models, "orders", mark(6)).await;
    step(models, "orders@2", mark(1)).await;
    let second = ViewId::new("orders", Generation::new(2)).unwrap();
    models.promote_by(&second, Switch::Force, &By::new("ada", "a new layout")).await.unwrap();

    step(models, "shipping", mark(6)).await;
    let deadline = |number, at| {
        let key = AggregateId::new(format!("order-{number}")).unwrap();
        DeadlineChange::Set(Deadline::new(Uuid::from_u128(number), key, "payment", at))
    };
    let due = [deadline(1, then() + Duration::from_secs(9)), deadline(2, then())];
    let later = deadline(3, Utc::now() + Duration::from_hours(24));
    models.settle_deadlines(&name("shipping"), &due).await.unwrap();
    models.settle_deadlines(&name("shipping"), &[later]).await.unwrap();

    models.pause(&name("audit"), &By::new("ada", "maintenance")).await.unwrap();

    let (leader, idle) = (Uuid::from_u128(7), Uuid::from_u128(8));
    let fence = log.acquire_lease("main", leader, Duration::from_hours(1)).await.unwrap().unwrap();
    log.advance("main", mark(4), fence).await.unwrap();
    log.acquire_lease("idle", idle, Duration::from_hours(1)).await.unwrap();
    log.release_lease("idle", idle).await.unwrap();
}
