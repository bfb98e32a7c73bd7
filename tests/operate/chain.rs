//! The events of one request.

use retell::event::NewEvent;
use retell::operate::{self, Chain, ChainRef, MAX_ROWS};
use retell::{Append, Codec, CorrelationId, EventType, ExpectedVersion, Metadata, Position, Uuid};

use crate::planted::{Log, Models, id, stream};

/// The correlation id of the planted request, which began elsewhere.
fn request() -> CorrelationId {
    Uuid::from_u128(0xAB).into()
}

/// Returns the event with the id of its position.
fn event(position: u64, correlation: Option<CorrelationId>, cause: Option<u64>) -> NewEvent {
    let mut metadata = Metadata::new();
    (metadata.correlation_id, metadata.causation_id) = (correlation, cause.map(id));
    let event_type = EventType::new(format!("step.{position}")).unwrap();
    NewEvent::stored(id(position), event_type, 1, Codec::Json, "{}".into()).with_metadata(metadata)
}

async fn append(log: &impl Log, events: Vec<NewEvent>) {
    log.append(Append::new(stream("order", "1"), ExpectedVersion::Any, events)).await.unwrap();
    // A server gives positions when the log is read.
    log.head().await.unwrap();
}

/// Returns the positions in the order of the tree, each with its depth.
fn tree(chain: &Chain) -> Vec<(u64, u64)> {
    chain.tree().map(|link| (link.depth, link.event.position.get())).collect()
}

async fn chain(log: &impl Log, of: impl Into<ChainRef>, limit: usize) -> Chain {
    operate::chain(log, of, limit).await.unwrap().expect("the log has the request")
}

pub(crate) async fn request_is_a_tree_of_causes(log: &impl Log, _: &impl Models) {
    let of = |position, cause| event(position, Some(request()), cause);
    append(log, vec![of(1, None), of(2, Some(1))]).await;
    append(log, vec![event(3, None, None)]).await;
    append(log, vec![of(4, Some(1)), of(5, Some(2)), of(6, Some(5))]).await;
    append(log, vec![event(7, Some(id(3).into()), Some(3)), of(8, Some(4))]).await;

    let found = chain(log, request(), 100).await;
    assert_eq!((found.correlation_id, found.truncated), (request(), false));
    let positions: Vec<_> = found.events.iter().map(|link| link.event.position.get()).collect();
    assert_eq!(positions, [1, 2, 4, 5, 6, 8]);
    assert_eq!(tree(&found), [(0, 1), (1, 2), (2, 5), (3, 6), (1, 4), (2, 8)]);
    let five = &found.events[3];
    assert_eq!((five.causation_id, five.cause), (Some(id(2)), Some(Position::new(2))));
    assert_eq!((five.event.event_id, five.event.version.get()), (id(5), 5));

    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["events"][3]["event_type"], "step.5");
    assert_eq!(json["events"][3]["cause"], 2);
    assert_eq!(serde_json::from_value::<Chain>(json).unwrap(), found);

    for same in [ChainRef::from(id(5)), Position::new(8).into(), operate::EventRef::from(id(1)).into()] {
        assert_eq!(chain(log, same, 100).await, found, "{same:?}");
    }
    // An event without a correlation id began the request.
    for same in [ChainRef::from(id(3)), id(7).into(), Position::new(3).into(), CorrelationId::from(id(3)).into()] {
        assert_eq!(tree(&chain(log, same, 100).await), [(0, 3), (1, 7)], "{same:?}");
    }
    for unknown in [ChainRef::from(id(99)), Position::new(9).into(), Position::ZERO.into()] {
        assert_eq!(operate::chain(log, unknown, 100).await.unwrap(), None, "{unknown:?}");
    }
}

/// The writer chooses the ids, so a cause may be the event itself, a later one, one of another request, or none.
pub(crate) async fn strange_causes_make_roots(log: &impl Log, _: &impl Models) {
    let of = |position, cause| event(position, Some(request()), Some(cause));
    append(log, vec![of(1, 1), of(2, 3), of(3, 2), event(4, None, None), of(5, 4), of(6, 99), of(7, 7)]).await;
    let found = chain(log, request(), 100).await;
    assert_eq!(tree(&found), [(0, 1), (0, 2), (1, 3), (0, 5), (0, 6), (0, 7)]);
    let causes: Vec<_> = found.events.iter().map(|link| link.causation_id.unwrap()).collect();
    assert_eq!(causes, [1, 3, 2, 4, 99, 7].map(id));
}

pub(crate) async fn long_request_ends_at_the_limit(log: &impl Log, _: &impl Models) {
    let length = MAX_ROWS as u64 + 100;
    let of = |position: u64| event(position, Some(request()), position.checked_sub(1));
    append(log, (1..=length).map(of).collect()).await;

    for limit in [1, 49, 50, 51, 100] {
        let found = chain(log, request(), limit).await;
        assert_eq!((found.events.len(), found.truncated), (limit, true), "{limit}");
    }
    let all = chain(log, request(), usize::MAX).await;
    assert_eq!((all.events.len(), all.truncated), (MAX_ROWS, true));
    let deepest: Vec<_> = (0..MAX_ROWS as u64).map(|depth| (depth, depth + 1)).collect();
    assert_eq!(tree(&all), deepest);
    let none = chain(log, request(), 0).await;
    assert_eq!((none.events.len(), none.truncated), (0, true));

    append(log, (1..=MAX_ROWS as u64).map(|number| event(length + number, Some(id(5_000).into()), None)).collect())
        .await;
    let exact = chain(log, CorrelationId::from(id(5_000)), MAX_ROWS).await;
    assert_eq!((exact.events.len(), exact.truncated), (MAX_ROWS, false));
}
