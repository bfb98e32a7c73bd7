//! The way of an event to each processor.

use retell::operate::{self, Answer, Why};
use retell::store::{Progress, Turn};
use retell::{ErrorKind, EventId, Position, Version};
use serde_json::{Value, json};

use crate::planted::{Log, Models, append, id, name, nothing, parked, situation, stream};

/// Returns the answer as JSON.
fn json_of(why: Option<Why>) -> Value {
    let why = why.expect("the log has the event");
    let mut json = serde_json::to_value(&why).unwrap();
    assert_eq!(serde_json::from_value::<Why>(json.clone()).unwrap(), why);
    crate::steady(&mut json);
    json
}

pub(crate) async fn each_processor_tells_what_happened(log: &impl Log, models: &impl Models) {
    situation(log, models).await;
    let golden: Value = serde_json::from_str(include_str!("why.json")).unwrap();
    let mut found = serde_json::Map::new();
    for position in 1..=6 {
        let why = operate::why(log, models, Position::new(position), &name("totals")).await.unwrap();
        let by_id = operate::why(log, models, id(position), &name("totals")).await.unwrap();
        assert_eq!(why, by_id);
        found.insert(position.to_string(), json_of(why));
    }
    assert_eq!(Value::Object(found.clone()), golden, "{:#}", Value::Object(found));

    let each = operate::why_each(log, models, Position::new(3)).await.unwrap().unwrap();
    let answers: Vec<_> = each.items.iter().map(|why| serde_json::to_value(why).unwrap()["answer"].clone()).collect();
    let names: Vec<_> = each.items.iter().map(|why| why.processor.as_str()).collect();
    assert_eq!(names, ["audit", "lost", "orders", "orders@2", "shipping", "totals"]);
    let expected = ["applied", "history_changed", "applied", "not_reached", "applied", "not_reached"];
    assert_eq!(json!(answers), json!(expected));
    assert!(!each.truncated);
}

/// A worker that gets an event from the broker applies it before the sweep comes to it.
pub(crate) async fn order_per_aggregate_is_asked_by_version(log: &impl Log, models: &impl Models) {
    for position in 1..=3 {
        append(log, position, "order", "1", "order.placed").await;
    }
    append(log, 4, "order", "2", "order.placed").await;
    let audit = name("audit");
    models.begin(&audit, nothing()).await.unwrap();
    let turn: Turn<_> = Box::new(|_, rows: &mut [Progress]| {
        rows[0].applied = Version::new(1);
        rows[0].seen = Version::new(3);
        rows[0].parked = Some(parked(stream("order", "1"), 2, 2));
        Box::pin(async { Ok(()) })
    });
    models.turn(&audit, 0, vec![stream("order", "1")], turn).await.unwrap();
    let answer = async |position| {
        let why = operate::why(log, models, Position::new(position), &audit).await.unwrap();
        why.expect("the log has the event").answer
    };
    assert_eq!(answer(1).await, Answer::Applied);
    let Answer::Parked { failed } = answer(2).await else { panic!("the second event is parked") };
    assert_eq!((failed.version.get(), failed.attempts, failed.reason.as_str()), (2, 3, "no such order"));
    assert!(failed.recorded_at.is_some() && failed.next_attempt.is_some());
    assert_eq!(answer(3).await, Answer::Behind { failed });
    assert_eq!(answer(4).await, Answer::NotReached { checkpoint: Position::ZERO, events: 4 });

    let turn: Turn<_> = Box::new(|_, rows: &mut [Progress]| {
        (rows[0].applied, rows[0].seen) = (Version::new(1), Version::new(1));
        Box::pin(async { Ok(()) })
    });
    models.turn(&audit, 0, vec![stream("order", "2")], turn).await.unwrap();
    assert_eq!(answer(4).await, Answer::Applied);
}

pub(crate) async fn unknown_event_and_processor_are_told_apart(log: &impl Log, models: &impl Models) {
    situation(log, models).await;
    let totals = name("totals");
    for unknown in [Position::ZERO, Position::new(7)] {
        assert_eq!(operate::why(log, models, unknown, &totals).await.unwrap(), None);
        assert_eq!(operate::why_each(log, models, unknown).await.unwrap(), None);
    }
    assert_eq!(operate::why(log, models, EventId::generate(), &totals).await.unwrap(), None);
    let misspelt = name("totalz of the operators");
    let error = operate::why(log, models, Position::new(1), &misspelt).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnknownProjection { .. }), "{error}");
}
