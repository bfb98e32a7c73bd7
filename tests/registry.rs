//! `events.lock`: its text, the check against it, and the test that programs write.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use retell::registry::{Lock, Registry};
use retell::testing::assert_compatible;
use retell::{AnyEvent, Codec, ErrorKind, Event, EventUnion, Value};

mod first {
    use super::*;

    #[derive(Event)]
    pub(super) enum OrderEvent {
        #[event("order.placed")]
        Placed { customer: String, lines: Vec<Line> },
        #[event("order.weighed", codec = "compact")]
        Weighed(u32),
        #[event("order.closed")]
        Closed,
    }

    #[derive(Value)]
    pub(super) struct Line {
        sku: String,
    }
}

mod compatible {
    use super::*;

    #[derive(Event)]
    #[serde(deny_unknown_fields)]
    pub(super) enum OrderEvent {
        #[event("order.placed")]
        Placed {
            customer: String,
            lines: Vec<Line>,
            #[serde(default)]
            note: Option<String>,
        },
        #[event("order.weighed", version = 2, upcast(grams), codec = "compact")]
        Weighed(u64),
        #[event("order.closed")]
        Closed,
        #[event("order.reopened")]
        Reopened(u8),
    }

    fn grams(grams: u32) -> OrderEvent {
        OrderEvent::Weighed(grams.into())
    }

    #[derive(Value)]
    pub(super) struct Line {
        sku: String,
        #[serde(default)]
        count: u64,
    }
}

mod broken {
    use super::*;

    #[derive(Event)]
    pub(super) enum OrderEvent {
        #[event("order.placed")]
        Placed { customer: u64, lines: Vec<Line> },
        #[event("order.weighed", codec = "compact")]
        Weighed(u64),
    }

    #[derive(Value)]
    pub(super) struct Line {
        sku: String,
        count: u64,
    }
}

const FIRST: &str = "\
# The wire shapes of all events that the log may hold. A test compares them with the types of the program and adds what is new.
# Review each change: a stored event never changes. To allow a change that breaks a rule, add a line below its block:
#     allow RULE at PLACE: REASON

[order.closed 1 json]

[order.placed 1 json]
customer: text
lines: [{sku: text}]

[order.weighed 1 compact]
= u32
";

fn registry<E: Event>() -> Registry {
    Registry::new().with::<E>().unwrap()
}

fn lock(text: &str) -> Lock {
    text.parse().unwrap()
}

fn errors<E: Event>(text: &str) -> Vec<String> {
    registry::<E>()
        .check(&lock(text))
        .errors
        .iter()
        .map(|error| error.to_string().lines().next().unwrap().to_owned())
        .collect()
}

#[test]
fn a_new_lock_has_a_block_for_each_event() {
    let checked = registry::<first::OrderEvent>().check(&Lock::default());
    assert!(checked.errors.is_empty() && checked.warnings.is_empty());
    assert_eq!(checked.lock.to_string(), FIRST);
    assert_eq!(lock(FIRST), checked.lock);
    let again = registry::<first::OrderEvent>().check(&checked.lock);
    assert_eq!((again.errors.len(), again.lock), (0, checked.lock));
}

#[test]
fn a_compatible_change_updates_the_lock() {
    let checked = registry::<compatible::OrderEvent>().check(&lock(FIRST));
    assert!(checked.errors.is_empty(), "{:?}", checked.errors);
    let text = checked.lock.to_string();
    let blocks = text.split_once("REASON\n").unwrap().1;
    assert_eq!(
        blocks,
        "\n[order.closed 1 json]\n!\nwas {}\n\n[order.placed 1 json]\ncustomer: text\nlines: [{sku: text, count: u64 = default}]\nnote: text?\n!\nwas {customer: text, lines: [{sku: text}]}\n\
         \n[order.reopened 1 json]\n= u8\n\n[order.weighed 1 compact]\n= u32\n\n[order.weighed 2 compact]\n= u64\n"
    );
    assert_eq!(lock(&text), checked.lock);
    let added: Vec<_> = checked.warnings.iter().map(|warning| (&*warning.event, warning.broken.id())).collect();
    assert!(added.contains(&("order.reopened", "W-EVENT-ADDED")), "{added:?}");
    assert!(added.contains(&("order.weighed", "W-VERSION-ADDED")), "{added:?}");
    // The way back: older processes read what the new ones write, except for what they refuse.
    assert!(
        errors::<first::OrderEvent>(&text)
            .iter()
            .all(|error| error.contains("E-EVENT-REMOVED") || error.contains("E-VERSION-REMOVED"))
    );
}

#[test]
fn a_change_that_breaks_the_log_is_refused_by_name() {
    assert_eq!(
        errors::<broken::OrderEvent>(FIRST),
        [
            "order.placed 1: E-TYPE-CHANGED at customer: text became u64",
            "order.placed 1: E-FIELD-REQUIRED-ADDED at lines[].count",
            "order.weighed 1: E-COMPACT-CHANGED: u32 became u64",
            "order.closed 1: E-EVENT-REMOVED: no type of the program has this event",
        ]
    );
    let checked = registry::<broken::OrderEvent>().check(&lock(FIRST));
    assert_eq!(checked.lock, lock(FIRST), "a refused change is not locked");
}

#[test]
fn an_exception_allows_one_change_once() {
    let allowed = FIRST
        .replace("[{sku: text}]\n", "[{sku: text}]\nallow E-TYPE-CHANGED at customer: never written\nallow E-FIELD-REQUIRED-ADDED at lines[].count: no lines yet\n")
        .replace("= u32\n", "= u32\nallow E-COMPACT-CHANGED: not in use\n")
        .replace("closed 1 json]\n", "closed 1 json]\nallow E-EVENT-REMOVED: not in use\n");
    let checked = registry::<broken::OrderEvent>().check(&lock(&allowed));
    assert!(checked.errors.is_empty(), "{:?}", checked.errors);
    let text = checked.lock.to_string();
    assert!(
        text.contains(
            "customer: u64\nlines: [{sku: text, count: u64}]\nallowed E-TYPE-CHANGED at customer: never written\n"
        ),
        "{text}"
    );
    assert!(text.contains("= u64\nallowed E-COMPACT-CHANGED: not in use\n"), "{text}");
    assert_eq!(lock(&text), checked.lock);
    // The same change is refused the next time, and an event that is gone stays allowed.
    assert_eq!(errors::<broken::OrderEvent>(&text), [""; 0]);
    let back = errors::<first::OrderEvent>(&text);
    assert_eq!(
        back,
        [
            "order.placed 1: E-TYPE-CHANGED at customer: u64 became text",
            "order.weighed 1: E-COMPACT-CHANGED: u64 became u32"
        ]
    );
    // An exception for another place or rule allows nothing.
    let other = allowed.replace("at customer", "at lines");
    assert_eq!(errors::<broken::OrderEvent>(&other), ["order.placed 1: E-TYPE-CHANGED at customer: text became u64"]);
}

#[test]
fn another_codec_is_another_block() {
    #[derive(Event)]
    #[event("order.weighed")]
    struct Weighed(u64);

    let checked = registry::<Weighed>().check(&lock("[order.weighed 1 compact]\n= u64\n"));
    assert!(checked.errors.is_empty());
    let key = |codec| ("order.weighed".to_owned(), 1, codec);
    assert_eq!(checked.lock.blocks[&key(Codec::Json)].shape, checked.lock.blocks[&key(Codec::Compact)].shape);
    // The events in both codecs are decoded into the type.
    let wrong = errors::<Weighed>("[order.weighed 1 compact]\n= u32\n\n[order.weighed 1 json]\n= u8\n");
    assert_eq!(wrong, ["order.weighed 1: E-COMPACT-CHANGED: u32 became u64"]);
}

#[test]
fn a_text_that_is_no_lock_says_where() {
    for (text, problem) in [
        ("customer: text\n", "line 1 of the lock: expected a block, such as `[order.placed 1 json]`"),
        ("[order.placed]\n", "line 1 of the lock: expected a name, a version and a codec"),
        ("[order.placed 1 xml]\n", "expected a name, a version and a codec"),
        ("[order.placed x json]\n", "expected a name, a version and a codec"),
        ("[a.b 1 json]\n\n[a.b 1 json]\n", "line 3 of the lock: this block is there twice"),
        ("[a.b 1 json]\nname: [text\n", "line 2 of the lock: expected `]` at byte 11"),
        ("[a.b 1 json]\nname\n", "line 2 of the lock: expected `:`"),
        ("[a.b 1 json]\n= u8\nname: text\n", "line 3 of the lock: a block has fields or one line"),
        ("[a.b 1 json]\nallow E-TYPE-CHANGED at x\n", "line 2 of the lock: expected `allow RULE at PLACE: REASON`"),
        ("[a.b 1 json]\nallow E-TYPE-CHANGED at x: \n", "expected `allow RULE at PLACE: REASON`"),
        ("<<<<<<< HEAD\n", "line 1 of the lock"),
    ] {
        let error = text.parse::<Lock>().unwrap_err().to_string();
        assert!(error.contains(problem), "{text}: {error}");
    }
    assert_eq!(lock("[a.b 1 json]\nallow: u8\n").to_string().lines().last().unwrap(), "allow: u8");
}

#[derive(EventUnion)]
enum ShopEvent {
    Order(first::OrderEvent),
}

#[test]
fn a_registry_refuses_two_types_for_one_name() {
    let both = Registry::new().with::<first::OrderEvent>().unwrap().with::<ShopEvent>().unwrap();
    assert_eq!(both.events().count(), 3, "a union and its member declare the same events");
    let twice = both.clone().with::<broken::OrderEvent>().unwrap_err();
    assert!(
        matches!(twice.kind(), ErrorKind::Invalid(problem) if problem.contains("two types declare event order.placed")),
        "{twice}"
    );
    assert!(matches!(both.with::<AnyEvent>().unwrap_err().kind(), ErrorKind::Invalid(_)));
}

#[test]
fn the_macro_adds_each_type() {
    let all = retell::registry![ShopEvent, shapes::Bare,].unwrap();
    let added = Registry::new().with::<ShopEvent>().unwrap().with::<shapes::Bare>().unwrap();
    assert_eq!(all.lock(), added.lock());
    assert_eq!(retell::registry![].unwrap().events().count(), 0);
    let twice = retell::registry![first::OrderEvent, broken::OrderEvent].unwrap_err();
    assert!(twice.to_string().contains("two types declare event order.placed"), "{twice}");
}

fn failure(path: &Path, registry: &Registry) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| assert_compatible(path, registry))).err()?;
    Some(panic.downcast_ref::<String>().unwrap().clone())
}

#[test]
fn the_test_writes_what_is_compatible_and_refuses_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.lock");
    let (first, compatible, broken) =
        (registry::<first::OrderEvent>(), registry::<compatible::OrderEvent>(), registry::<broken::OrderEvent>());

    let created = failure(&path, &first).unwrap();
    assert!(
        created.contains("events.lock was not up to date and is now") && created.contains("deploy in any order"),
        "{created}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), FIRST);
    assert_eq!(failure(&path, &first), None);
    fs::write(&path, FIRST.replace('\n', "\r\n")).unwrap();
    assert_eq!(failure(&path, &first), None);

    let refused = failure(&path, &broken).unwrap();
    for part in [
        "order.placed 1: E-TYPE-CHANGED at customer: text became u64\n    keep the old type, or raise `version`",
        "allow E-TYPE-CHANGED at customer: REASON",
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), FIRST.replace('\n', "\r\n"), "the lock stays as it is");

    assert!(failure(&path, &compatible).unwrap().contains("is now"));
    assert_eq!(failure(&path, &compatible), None);
    fs::write(&path, "<<<<<<< HEAD\n").unwrap();
    assert!(failure(&path, &compatible).unwrap().contains("line 1 of the lock"));
    assert!(failure(&folder.path().join("missing/events.lock"), &first).unwrap().contains("It should be:\n#"));
}

/// Four shapes of one version, each of which alone reads the one before it.
mod shapes {
    use retell::Event;

    #[derive(Event)]
    #[event("user.named")]
    pub(crate) struct Bare {
        pub(crate) name: String,
    }

    #[derive(Event)]
    #[event("user.named")]
    pub(crate) struct Defaulted {
        pub(crate) name: String,
        #[serde(default)]
        pub(crate) title: String,
    }

    #[derive(Event)]
    #[event("user.named")]
    pub(crate) struct Required {
        pub(crate) name: String,
        pub(crate) title: String,
    }

    #[derive(Event)]
    #[event("user.named")]
    pub(crate) struct Aliased {
        #[serde(alias = "name")]
        pub(crate) nick: String,
    }

    #[derive(Event)]
    #[event("user.named")]
    pub(crate) struct Unaliased {
        pub(crate) nick: String,
    }

    #[derive(Event)]
    #[event("user.named")]
    pub(crate) struct Empty {}

    #[derive(Event)]
    #[event("user.named")]
    pub(crate) struct Reused {
        #[serde(default)]
        pub(crate) name: u64,
    }
}

/// Returns the lock after a compatible change.
fn changed<E: Event>(text: &str) -> String {
    let checked = registry::<E>().check(&lock(text));
    assert!(checked.errors.is_empty(), "{:?}", checked.errors);
    checked.lock.to_string()
}

#[test]
fn a_release_reads_every_shape_that_a_version_had() {
    let bare = changed::<shapes::Bare>("");
    let defaulted = changed::<shapes::Defaulted>(&bare);
    assert!(defaulted.ends_with("name: text\ntitle: text = default\nwas {name: text}\n"), "{defaulted}");
    // The shape before would allow it.
    assert_eq!(errors::<shapes::Required>(&defaulted), ["user.named 1: E-FIELD-REQUIRED-ADDED at title"]);
    let aliased = changed::<shapes::Aliased>(&bare);
    assert_eq!(errors::<shapes::Unaliased>(&aliased), ["user.named 1: E-FIELD-REQUIRED-ADDED at nick"]);
    let empty = changed::<shapes::Empty>(&bare);
    assert_eq!(errors::<shapes::Reused>(&empty), ["user.named 1: E-TYPE-CHANGED at name: text became u64"]);
    // A shape that was there before is no former one when it is back.
    let back = changed::<shapes::Bare>(&defaulted);
    assert!(back.ends_with("name: text\nwas {name: text, title: text = default}\n"), "{back}");
    assert_eq!(lock(&back).to_string(), back);
}

#[test]
fn a_shape_that_no_event_has_is_forgotten() {
    let bare = changed::<shapes::Bare>("");
    let allowed = bare + "allow E-FIELD-REQUIRED-ADDED at title: not released yet\n";
    let required = changed::<shapes::Required>(&allowed);
    assert!(!required.contains("\nwas "), "{required}");
}

#[test]
fn an_opaque_place_is_a_doubt_when_it_is_new() {
    #[derive(Event)]
    #[event("user.seen")]
    struct Seen {
        #[event(opaque)]
        from: std::net::IpAddr,
    }

    let checked = registry::<Seen>().check(&Lock::default());
    assert_eq!(checked.warnings.iter().map(|doubt| doubt.broken.to_string()).collect::<Vec<_>>(), ["W-OPAQUE at from"]);
    assert!(registry::<Seen>().check(&checked.lock).warnings.is_empty());
    let folder = tempfile::tempdir().unwrap();
    let told = failure(&folder.path().join("events.lock"), &registry::<Seen>()).unwrap();
    assert!(told.contains("deploy in any order.\nNothing is known about these places"), "{told}");
}
