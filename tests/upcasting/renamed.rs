//! Events that are stored under a former name.

use retell::registry::{Lock, Registry};
use retell::store::{EventReader, EventReaderExt, EventStoreExt};
use retell::{
    Aggregate, App, Apply, CommandError, Context, ErrorKind, Event, EventUnion, ExpectedVersion, Filter, Handle,
    IdempotencyKey, MemoryReadModel, MemoryStore, Repository, Value,
};

use crate::readers::{Texts, assert_reads};
use crate::{Stored, append};

mod before {
    use super::*;

    #[derive(Debug, Event)]
    pub(super) enum OrderEvent {
        #[event("order.created", version = 2, upcast(created_v1))]
        Created { cents: u64 },
        #[event("order.closed")]
        Closed,
    }

    fn created_v1(dollars: u64) -> OrderEvent {
        OrderEvent::Created { cents: dollars * 100 }
    }
}

#[derive(Debug, Event)]
enum OrderEvent {
    #[event("order.placed", version = 3, upcast(placed_v1, placed_v2), renamed_from("order.created", "OrderMade"))]
    Placed { cents: u64, note: String },
    #[event("order.ended", renamed_from = "order.closed")]
    Ended,
}

#[derive(Value)]
struct PlacedV2 {
    cents: u64,
}

fn placed_v1(dollars: u64) -> PlacedV2 {
    PlacedV2 { cents: dollars * 100 }
}

fn placed_v2(PlacedV2 { cents }: PlacedV2) -> OrderEvent {
    OrderEvent::Placed { cents, note: String::new() }
}

const STORED: [Stored; 5] = [
    Stored("OrderMade", 1, "3"),
    Stored("order.created", 2, r#"{"cents":400}"#),
    Stored("order.placed", 2, r#"{"cents":500}"#),
    Stored("order.placed", 3, r#"{"cents":600,"note":"new"}"#),
    Stored("order.closed", 1, "{}"),
];

const EXPECTED: [&str; 5] = [
    "Placed { cents: 300, note: \"\" }",
    "Placed { cents: 400, note: \"\" }",
    "Placed { cents: 500, note: \"\" }",
    "Placed { cents: 600, note: \"new\" }",
    "Ended",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_takes_a_former_name_for_the_new_one() {
    assert_reads::<OrderEvent>(&STORED, &EXPECTED).await;
}

#[derive(Debug, EventUnion)]
enum ShopEvent {
    Order(OrderEvent),
    User(UserEvent),
}

#[derive(Debug, Event)]
enum UserEvent {
    #[event("user.left", renamed_from = "user.gone")]
    Left,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_union_reads_the_former_names_of_its_members() {
    let stored = [Stored("order.closed", 1, "{}"), Stored("user.gone", 1, "{}"), Stored("user.left", 1, "{}")];
    assert_reads::<ShopEvent>(&stored, &["Order(Ended)", "User(Left)", "User(Left)"]).await;
    let names: Vec<_> = Filter::of::<ShopEvent>().unwrap().event_types.iter().map(ToString::to_string).collect();
    assert_eq!(
        names,
        ["order.placed", "order.created", "OrderMade", "order.ended", "order.closed", "user.left", "user.gone"]
    );
}

#[tokio::test]
async fn a_new_event_is_stored_under_the_new_name() {
    let log = MemoryStore::new();
    log.append_events(("order", "1"), ExpectedVersion::NoStream, [OrderEvent::Ended]).await.unwrap();
    let ended = retell::EventType::new("order.ended").unwrap();
    assert_eq!(log.newest(&ended, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_unknown_version_under_a_former_name_is_an_error() {
    let log = MemoryStore::new();
    append(&log, "1", &[Stored("order.created", 4, "{}")]).await;
    let read = log.read_stream(&crate::order("1"), retell::Version::ZERO, 1).await.unwrap();
    let error = read[0].decode::<OrderEvent>().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnknownSchema { found: 4, known: 3, .. }), "{error}");
}

#[derive(Debug, Default, Clone, Aggregate)]
#[aggregate("order", event = OrderEvent)]
struct Order {
    is_ended: bool,
}

impl Apply<OrderEvent> for Order {
    fn apply(&mut self, event: OrderEvent) {
        self.is_ended |= matches!(event, OrderEvent::Ended);
    }
}

#[derive(Debug, Default, Clone, Aggregate)]
#[aggregate("order", event = before::OrderEvent)]
struct OrderBefore {
    is_closed: bool,
}

impl Apply<before::OrderEvent> for OrderBefore {
    fn apply(&mut self, event: before::OrderEvent) {
        self.is_closed |= matches!(event, before::OrderEvent::Closed);
    }
}

struct End;

#[derive(Debug, thiserror::Error)]
#[error("it has ended")]
struct HasEnded;

impl Handle<End> for Order {
    type Error = HasEnded;

    fn handle(&self, _: &End) -> Result<Vec<OrderEvent>, HasEnded> {
        if self.is_ended { Err(HasEnded) } else { Ok(vec![OrderEvent::Ended]) }
    }
}

impl Handle<End> for OrderBefore {
    type Error = HasEnded;

    fn handle(&self, _: &End) -> Result<Vec<before::OrderEvent>, HasEnded> {
        if self.is_closed { Err(HasEnded) } else { Ok(vec![before::OrderEvent::Closed]) }
    }
}

#[tokio::test]
async fn a_command_of_the_older_release_is_known_by_its_key() {
    let log = MemoryStore::new();
    let context = || Context::new().with_key(IdempotencyKey::new("k").unwrap());
    let first = Repository::<OrderBefore>::new(log.clone()).execute_with("1", End, context()).await.unwrap();
    let again = Repository::<Order>::new(log).execute_with("1", End, context()).await.unwrap();
    assert_eq!((first.version, again.outcome), (again.version, retell::store::Outcome::Repeated));
}

#[tokio::test]
async fn an_older_process_is_told_that_it_is_behind_the_rename() {
    let log = MemoryStore::new();
    Repository::<Order>::new(log.clone()).execute("1", End).await.unwrap();
    let refused = Repository::<OrderBefore>::new(log).execute("1", End).await.unwrap_err();
    assert!(matches!(refused, CommandError::BehindDeploy(_)), "{refused:?}");
}

#[tokio::test]
async fn a_shape_that_cannot_read_the_former_name_is_refused() {
    mod broken {
        #[derive(Debug, retell::Event)]
        pub(super) enum OrderEvent {
            #[event("order.placed", version = 2, upcast(placed_v1), renamed_from = "order.created")]
            Placed { euros: u64 },
        }

        fn placed_v1(dollars: u64) -> OrderEvent {
            OrderEvent::Placed { euros: dollars }
        }
    }
    let log = MemoryStore::new();
    let registry = Registry::new().with::<before::OrderEvent>().unwrap();
    registry.register(&log).await.unwrap();
    let broken = Registry::new().with::<broken::OrderEvent>().unwrap();
    assert_eq!(broken.register(&log).await.unwrap().errors.len(), 0, "the log has no such event yet");
    let created = before::OrderEvent::Created { cents: 1 };
    log.append_events(("order", "1"), ExpectedVersion::NoStream, [created]).await.unwrap();
    let error = broken.register(&log).await.unwrap_err();
    let ErrorKind::ShapeChanged(refused) = error.kind() else { panic!("{error}") };
    assert!(refused[0].starts_with("order.created 2: E-FIELD-REQUIRED-ADDED at euros"), "{refused:?}");
    // A compatible shape is registered under the new name alone.
    let renamed = Registry::new().with::<UserEvent>().unwrap();
    renamed.register(&log).await.unwrap();
    let names: Vec<_> = log.registered_shapes().await.unwrap().iter().map(|each| each.event_type.to_string()).collect();
    assert!(names.contains(&"user.left".to_owned()) && !names.contains(&"user.gone".to_owned()), "{names:?}");
}

#[tokio::test]
async fn a_newer_version_under_a_former_name_is_noted() {
    #[derive(Debug, Event)]
    #[event("order.placed", renamed_from = "order.created")]
    struct Placed;

    let log = MemoryStore::new();
    Registry::new().with::<before::OrderEvent>().unwrap().register(&log).await.unwrap();
    let compared = Registry::new().with::<Placed>().unwrap().register(&log).await.unwrap();
    assert_eq!(
        compared.newer[0].to_string(),
        "a newer release writes version 2 of order.created, this one knows version 1"
    );
}

#[test]
fn a_stored_name_has_one_owner_former_names_included() {
    #[derive(Event)]
    #[event("order.created")]
    struct Other;

    #[derive(Event)]
    #[event("order.arrived", renamed_from = "order.ended")]
    struct Third;

    for error in [
        Registry::new().with::<OrderEvent>().unwrap().with::<Other>().unwrap_err(),
        Registry::new().with::<Other>().unwrap().with::<OrderEvent>().unwrap_err(),
    ] {
        assert!(error.to_string().contains("two types declare event order.created: "), "{error}");
    }
    let error = Registry::new().with::<OrderEvent>().unwrap().with::<Third>().unwrap_err();
    assert!(error.to_string().contains("two types declare event order.ended: "), "{error}");
    assert!(Registry::new().with::<ShopEvent>().unwrap().with::<OrderEvent>().is_ok(), "one type, twice");
}

const LOCK: &str = "[order.closed 1 json]\n\n[order.created 1 json]\n= u64\n\n[order.created 2 json]\ncents: u64\n";

#[test]
fn the_lock_keeps_the_blocks_of_former_names() {
    let lock: Lock = LOCK.parse().unwrap();
    let checked = Registry::new().with::<OrderEvent>().unwrap().check(&lock);
    assert!(checked.errors.is_empty(), "{:?}", checked.errors);
    let warnings: Vec<_> =
        checked.warnings.iter().map(|each| each.to_string().lines().next().unwrap().to_owned()).collect();
    assert_eq!(
        warnings,
        [
            "order.ended 1: W-EVENT-RENAMED: older processes know it as order.closed",
            "order.placed 3: W-EVENT-RENAMED: older processes know it as order.created",
            "order.placed 3: W-VERSION-ADDED: the newest version was 2"
        ]
    );
    let text = checked.lock.to_string();
    assert!(
        text.ends_with(&format!("\n{LOCK}\n[order.ended 1 json]\n\n[order.placed 3 json]\ncents: u64\nnote: text\n")),
        "{text}"
    );
    let again = Registry::new().with::<OrderEvent>().unwrap().check(&checked.lock);
    assert_eq!((again.errors.len(), again.warnings.len(), &again.lock), (0, 0, &checked.lock));
    // Without the former names, the log could not be read.
    let forgotten = Registry::new().with::<UserEvent>().unwrap().check(&lock);
    assert!(forgotten.errors.iter().all(|error| error.broken.id() == "E-EVENT-REMOVED"));
    assert_eq!(forgotten.errors.len(), 3);
}

#[test]
fn a_frozen_block_is_compared_and_its_exception_stays() {
    #[derive(Event)]
    #[event("order.placed", version = 2, upcast(from_text), renamed_from = "order.created")]
    struct Placed {
        cents: u64,
        currency: String,
    }

    fn from_text(_: u64) -> Placed {
        Placed { cents: 0, currency: String::new() }
    }

    let registry = Registry::new().with::<Placed>().unwrap();
    let checked = registry.check(&"[order.created 2 json]\ncents: u64\n".parse().unwrap());
    let errors: Vec<_> = checked.errors.iter().map(ToString::to_string).collect();
    assert!(errors[0].starts_with("order.created 2: E-FIELD-REQUIRED-ADDED at currency\n"), "{errors:?}");
    let allowed = "[order.created 2 json]\ncents: u64\nallow E-FIELD-REQUIRED-ADDED at currency: never written\n";
    let mut lock: Lock = allowed.parse().unwrap();
    for _ in 0..2 {
        let checked = registry.check(&lock);
        assert!(checked.errors.is_empty(), "{:?}", checked.errors);
        lock = checked.lock;
    }
    assert!(lock.to_string().contains(allowed), "{lock}");
}

#[tokio::test]
async fn two_types_that_read_one_name_are_not_mixed() {
    #[derive(Debug, Event)]
    #[event("order.created")]
    struct Foreign;

    let log = MemoryStore::new();
    log.append_events(("cart", "1"), ExpectedVersion::NoStream, [Foreign]).await.unwrap();
    let placed = OrderEvent::Placed { cents: 1, note: String::new() };
    let error = log.append_events(("order", "1"), ExpectedVersion::NoStream, [placed]).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "{error}");
    let app = App::new(MemoryStore::new(), MemoryReadModel::new());
    let app = app.view(Texts::<OrderEvent>::new("placed")).view(Texts::<Foreign>::new("foreign"));
    let error = app.check().unwrap_err();
    assert!(error.to_string().contains("events called order.created are of the type "), "{error}");
}
