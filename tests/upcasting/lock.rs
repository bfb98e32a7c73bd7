//! The arguments of upcasters, compared with the shapes of the versions that they read.

use retell::registry::{Lock, Registry};
use retell::store::{EventReader, EventStoreExt};
use retell::{ErrorKind, Event, ExpectedVersion, MemoryStore, Value};
use serde::Deserialize;

#[derive(Debug, Event)]
enum OrderEvent {
    #[event("order.placed", version = 3, upcast(placed_v1, OrderEvent::placed_v2), renamed_from = "order.created")]
    Placed { cents: u64, currency: String },
    #[event("order.weighed", version = 2, upcast(Self::weighed_v1), codec = "compact")]
    Weighed { grams: u64 },
    #[event("order.moved", version = 2, upcast(moved_v1))]
    Moved { to: String },
}

#[derive(Value)]
struct PlacedV1 {
    dollars: u32,
}

#[derive(Value)]
struct PlacedV2 {
    cents: u64,
}

/// It has no shape.
#[derive(Deserialize)]
struct MovedV1 {
    street: String,
}

fn placed_v1(PlacedV1 { dollars }: PlacedV1) -> PlacedV2 {
    PlacedV2 { cents: u64::from(dollars) * 100 }
}

fn moved_v1(old: MovedV1) -> OrderEvent {
    OrderEvent::Moved { to: old.street }
}

impl OrderEvent {
    fn placed_v2(PlacedV2 { cents }: PlacedV2) -> Self {
        Self::Placed { cents, currency: "EUR".into() }
    }

    fn weighed_v1(grams: u32) -> Self {
        Self::Weighed { grams: grams.into() }
    }
}

fn registry() -> Registry {
    Registry::new().with::<OrderEvent>().unwrap()
}

/// Returns the errors and the doubts of a check against a lock, each without what to do.
fn check(lock: &str) -> (Vec<String>, Vec<String>) {
    let checked = registry().check(&lock.parse().unwrap());
    let heads = |all: Vec<retell::registry::Violation>| {
        all.iter().map(|each| each.to_string().lines().next().unwrap().to_owned()).collect()
    };
    let doubts = checked.warnings.into_iter().filter(|warning| warning.broken.is_doubt()).collect();
    (heads(checked.errors), heads(doubts))
}

const NONE: [&str; 0] = [];

#[test]
fn the_argument_of_each_upcaster_has_a_shape_if_its_type_does() {
    let retell::event::EventTypes::Only(schemas) = OrderEvent::TYPES else { panic!() };
    let shape = |schema: usize, version| schemas[schema].shape_of(version).map(|shape| shape.to_string());
    assert_eq!(shape(0, 1).unwrap(), "{dollars: u32}");
    assert_eq!(shape(0, 2).unwrap(), "{cents: u64}");
    assert_eq!(shape(0, 3).unwrap(), "{cents: u64, currency: text}");
    assert_eq!(shape(1, 1).unwrap(), "u32");
    assert_eq!(shape(2, 1).unwrap(), "opaque");
    assert_eq!((shape(0, 0), shape(0, 4)), (None, None));
}

#[test]
fn an_upcaster_that_reads_its_version_passes() {
    let lock = "[order.placed 1 json]\ndollars: u32\nnote: text\n\n[order.created 1 json]\ndollars: u16\n\n\
                [order.placed 2 json]\ncents: u32\n\n[order.weighed 1 compact]\n= u32\n";
    assert_eq!(check(lock), (vec![], vec![]));
    // A compact payload has no names.
    assert_eq!(check("[order.weighed 1 compact]\nweight: u32\n"), (vec![], vec![]));
}

#[test]
fn an_upcaster_that_cannot_read_its_version_is_refused() {
    let lock = "[order.placed 1 json]\nprice: u32\n\n[order.created 2 json]\ncents: text\n\n\
                [order.weighed 1 compact]\n= u64\n";
    let (errors, _) = check(lock);
    assert_eq!(
        errors,
        [
            "order.created 2: E-UPCASTER-INPUT at cents: the argument of the upcaster breaks E-TYPE-CHANGED: text became u64",
            "order.placed 1: E-UPCASTER-INPUT at dollars: the argument of the upcaster breaks E-FIELD-REQUIRED-ADDED",
            "order.weighed 1: E-UPCASTER-INPUT: the argument of the upcaster breaks E-COMPACT-CHANGED: u64 is read as u32",
        ]
    );
    let error = &registry().check(&lock.parse().unwrap()).errors[0];
    assert_eq!(
        error.broken.cure(),
        "let the upcaster take what the lock has for this version, since stored events never change"
    );
}

#[test]
fn an_argument_without_a_shape_is_a_doubt() {
    for codec in ["json", "compact"] {
        let (errors, warnings) = check(&format!("[order.moved 1 {codec}]\nstreet: text\n"));
        assert_eq!(errors, NONE);
        assert_eq!(warnings, ["order.moved 1: W-OPAQUE: {street: text} is read as opaque"]);
    }
}

#[test]
fn an_exception_for_an_upcaster_stays() {
    let allowed = "[order.placed 1 json]\nprice: u32\nallow E-UPCASTER-INPUT at dollars: never released\n";
    let mut lock: Lock = allowed.parse().unwrap();
    for _ in 0..2 {
        let checked = registry().check(&lock);
        assert!(checked.errors.is_empty(), "{:?}", checked.errors);
        lock = checked.lock;
    }
    assert!(lock.to_string().contains(allowed), "{lock}");
}

mod before {
    #[derive(Debug, retell::Event)]
    #[event("order.created")]
    pub(super) struct Created {
        pub(super) price: u32,
    }
}

#[tokio::test]
async fn a_log_with_events_that_an_upcaster_cannot_read_is_refused() {
    let log = MemoryStore::new();
    Registry::new().with::<before::Created>().unwrap().register(&log).await.unwrap();
    assert!(registry().register(&log).await.is_ok(), "the log has no such event yet");
    let created = before::Created { price: 1 };
    log.append_events(("order", "1"), ExpectedVersion::NoStream, [created]).await.unwrap();
    let error = registry().register(&log).await.unwrap_err();
    let ErrorKind::ShapeChanged(refused) = error.kind() else { panic!("{error}") };
    assert!(refused[0].starts_with("order.created 1: E-UPCASTER-INPUT at dollars: "), "{refused:?}");
    assert!(!log.registered_shapes().await.unwrap().is_empty());
}
