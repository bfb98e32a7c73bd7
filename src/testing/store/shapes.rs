//! The registered wire shapes of events.

use chrono::{DateTime, Utc};

use crate::codec::Codec;
use crate::id::EventType;
use crate::store::log::shapes::RegisteredShape;
use crate::testing::store::Store;

fn shape(name: &str, version: u32, codec: Codec, shape: &str, program: &str) -> RegisteredShape {
    let name = EventType::new(name).expect("a test's event type is valid");
    let first_seen = DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("a time in range");
    RegisteredShape::new(name, version, codec, shape, first_seen, program)
}

/// A shape is kept once for each event type, version, codec and text, as the first program registered it.
pub async fn a_registered_shape_is_kept_as_it_was_first(store: Store) {
    assert_eq!(store.registered_shapes().await.expect("shapes can be listed"), []);
    let first = [
        shape("order.placed", 1, Codec::Json, "{customer: text}", "shop ü"),
        shape("order.placed", 1, Codec::Json, "{cents: u64, customer: text}", "shop"),
        shape("order.placed", 1, Codec::Compact, "{customer: text}", "shop"),
        shape("order.placed", 10, Codec::Json, "{customer: text}", ""),
        shape("order.paid", 1, Codec::Json, &format!("<{}>", "a".repeat(100_000)), "shop"),
    ];
    for one in first.chunks(2) {
        store.register_shapes(one).await.expect("shapes are registered");
    }
    let mut again = first.to_vec();
    for one in &mut again {
        (one.first_seen, one.program) = (Utc::now(), "other".into());
    }
    store.register_shapes(&again).await.expect("a registered shape is registered again");
    let kept = store.registered_shapes().await.expect("shapes can be listed");
    assert_eq!(kept.len(), first.len());
    for one in first {
        assert!(kept.contains(&one), "{} {} {:?}", one.event_type, one.version, one.codec);
    }
}
