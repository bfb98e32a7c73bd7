//! The rows of a stream.

use retell::event::NewEvent;
use retell::operate::{self, Rows};
use retell::registry::Registry;
use retell::{Append, Codec, CorrelationId, Event, EventStoreExt, EventType, ExpectedVersion, Metadata, Uuid, Version};
use serde_json::{Value, json};

use crate::planted::{Log, Models, append, id, stream};

#[derive(Event)]
enum ScaleEvent {
    #[event("scale.weighed", codec = "compact")]
    Weighed { grams: u32 },
}

#[derive(Event)]
enum SecretEvent {
    #[event("scale.sealed", codec = "compact")]
    Sealed { seal: String },
}

pub(crate) async fn rows_have_their_payloads_as_json(log: &impl Log, _: &impl Models) {
    Registry::new().with::<ScaleEvent>().unwrap().register(log).await.unwrap();
    let scale = stream("scale", "1");
    let stored = |position, payload: &'static str| {
        let event_type = EventType::new("scale.noted").unwrap();
        NewEvent::stored(id(position), event_type, 2, Codec::Json, payload.into())
    };
    let mut metadata = Metadata::new().with_source("shop").with_entry("tenant", "acme");
    metadata.correlation_id = Some(CorrelationId::from(Uuid::from_u128(77)));
    metadata.causation_id = Some(id(9));
    let noted = stored(1, r#"{"note": "4111"}"#).with_metadata(metadata);
    log.append(Append::new(scale.clone(), ExpectedVersion::Any, vec![noted])).await.unwrap();
    log.append_events(scale.clone(), ExpectedVersion::Any, [ScaleEvent::Weighed { grams: 1_200 }]).await.unwrap();
    let sealed = SecretEvent::Sealed { seal: "wax".into() };
    log.append_events(scale.clone(), ExpectedVersion::Any, [sealed]).await.unwrap();
    log.append(Append::new(scale.clone(), ExpectedVersion::Any, vec![stored(4, "4111 is no JSON")])).await.unwrap();

    let found = operate::stream(log, &scale, Version::ZERO, 10).await.unwrap();
    let mut json = serde_json::to_value(&found).unwrap();
    assert_eq!(serde_json::from_value::<Rows>(json.clone()).unwrap(), found);
    crate::steady(&mut json);
    let first = json!({
        "version": 1, "position": 1, "event_id": "00000000-0000-0000-0000-000000000001", "event_type": "scale.noted",
        "schema_version": 2, "codec": "json", "recorded_at": "<time>",
        "correlation_id": "00000000-0000-0000-0000-00000000004d",
        "causation_id": "00000000-0000-0000-0000-000000000009",
        "metadata": {"source": "shop", "extra": {"tenant": "acme"}},
        "payload": {"note": "4111"}, "problem": null, "payload_bytes": 16,
    });
    assert_eq!(json["rows"][0], first);
    let rest = found.rows[1..].iter().map(|row| (row.codec.as_str(), row.payload.clone(), row.problem.clone()));
    let expected: [(&str, Option<Value>, Option<&str>); 3] = [
        ("compact", Some(json!({"grams": 1200})), None),
        ("compact", None, Some("no program has registered its shape")),
        ("json", None, Some("the payload is not JSON")),
    ];
    let expected = expected.map(|(codec, payload, problem)| (codec, payload, problem.map(str::to_owned)));
    assert_eq!(rest.collect::<Vec<_>>(), expected);
    assert!(!found.truncated);
}

pub(crate) async fn rows_end_at_the_limit(log: &impl Log, _: &impl Models) {
    for position in 1..=103 {
        append(log, position, "order", "1", "order.placed").await;
    }
    let order = stream("order", "1");
    for (after, limit, versions, truncated) in
        [(0, 1_000, 1..=103, false), (0, 103, 1..=103, false), (0, 102, 1..=102, true), (50, 50, 51..=100, true)]
    {
        let found = operate::stream(log, &order, Version::new(after), limit).await.unwrap();
        let found: (Vec<_>, _) = (found.rows.iter().map(|row| row.version.get()).collect(), found.truncated);
        assert_eq!(found, (versions.collect(), truncated), "at most {limit} after {after}");
    }
    for (after, limit, truncated) in [(103, 10, false), (100, 0, true), (103, 0, false)] {
        let found = operate::stream(log, &order, Version::new(after), limit).await.unwrap();
        assert_eq!((found.rows.len(), found.truncated), (0, truncated), "at most {limit} after {after}");
    }
    assert_eq!(operate::stream(log, &stream("order", "2"), Version::ZERO, 10).await.unwrap().rows, []);
}
