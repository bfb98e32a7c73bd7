//! The tree of causes of a request, also of one whose ids make no tree; and the unique values of a stream.

use retell::event::NewEvent;
use retell::{
    Append, Claim, Codec, CorrelationId, EventStore, EventType, ExpectedVersion, Metadata, MySqlStore, PostgresStore,
    SqliteReadModel, SqliteStore, Uuid,
};

use crate::databases::{Database, Place};
use crate::golden::assert_golden;
use crate::planted::{id, stream};
use crate::tool::Tool;

const COMMANDS: [&str; 13] = [
    "trace 00000000-0000-0000-0000-000000000001",
    "trace 3",
    "trace 3 --limit 2",
    "trace 00000000-0000-0000-0000-00000000004d",
    "trace 00000000-0000-0000-0000-00000000004e --limit 25",
    "trace 40 --limit 0",
    "trace 00000000-0000-0000-0000-0000000000ff",
    "trace 99",
    "trace order/1",
    "trace",
    "show order/9 --claims",
    "show order/9 --claims --limit 1",
    "show order/1 --claims",
];

/// Appends one event, which gets the id of its position.
async fn append(log: &impl EventStore, position: u64, place: (&str, &str), event_type: &str, ids: (u128, Option<u64>)) {
    let (correlation, cause) = ids;
    let mut metadata = Metadata::new().with_correlation(CorrelationId::from(Uuid::from_u128(correlation)));
    metadata.causation_id = cause.map(id);
    let event = NewEvent::stored(id(position), EventType::new(event_type).unwrap(), 1, Codec::Json, "{}".into());
    let event = event.with_metadata(metadata);
    log.append(Append::new(stream(place.0, place.1), ExpectedVersion::Any, vec![event])).await.unwrap();
}

/// An order and the process that it started; a request of hostile names and causes; a request of thirty causes in a row.
async fn plant(log: &impl EventStore) {
    append(log, 1, ("order", "1"), "order.placed", (1, None)).await;
    append(log, 2, ("order", "2"), "order.placed", (2, None)).await;
    append(log, 3, ("fulfilment", "1"), "process.stepped", (1, Some(1))).await;
    append(log, 4, ("stock", "9"), "stock.reserved", (1, Some(1))).await;
    append(log, 5, ("fulfilment", "1"), "process.stepped", (1, Some(4))).await;
    append(log, 6, ("payment", "1"), "payment.taken", (1, Some(4))).await;
    append(log, 7, ("order", "1"), "order.paid", (1, Some(6))).await;
    append(log, 8, ("fulfilment", "1"), "process.stepped", (1, Some(1))).await;
    append(log, 9, ("order", "1\u{1b}[31m\u{202e}"), "order.\u{1b}]0;x\u{7}", (77, Some(9))).await;
    append(log, 10, ("order", "a\nb"), "order.looped", (77, Some(11))).await;
    append(log, 11, ("order", "a\nb"), "order.looped", (77, Some(10))).await;
    append(log, 12, ("order", "3"), "order.placed", (77, Some(2))).await;
    for position in 13..=42 {
        append(log, position, ("count", "1"), "count.raised", (78, Some(position - 1))).await;
    }
    let event = NewEvent::stored(id(43), EventType::new("order.placed").unwrap(), 1, Codec::Json, "{}".into());
    let claims = [("order.number", "2026-9"), ("order.coupon", "\u{1b}[31m\u{202e}x")];
    let claims = claims.map(|(scope, value)| Claim::reserve(scope, value).unwrap());
    let append = Append::new(stream("order", "9"), ExpectedVersion::Any, vec![event]).with_claims(claims);
    log.append(append).await.unwrap();
    // A server gives positions when the log is read.
    assert_eq!(log.head().await.unwrap().get(), 43);
    log.close().await.unwrap();
}

pub(crate) async fn request_is_printed_as_a_tree(database: &Database) {
    match &database.place {
        Place::Sqlite(path) => {
            SqliteReadModel::open(path.with_extension("models.db")).await.unwrap();
            plant(&SqliteStore::open(path).await.unwrap()).await;
        }
        Place::Postgres(url) => plant(&PostgresStore::connect(url).await.unwrap()).await,
        Place::MySql(url) => plant(&MySqlStore::connect(url).await.unwrap()).await,
    }
    assert_golden(&Tool::of(&database.place), &database.place, &[("trace", &COMMANDS)]);
}
