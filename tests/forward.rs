//! Changes that older readers cannot follow are errors for public events, and for a release that may be rolled back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "forward/events.rs"]
mod events;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice::from_ref;

use retell::registry::{Broken, Checked, Lock, Readers, Registry, Violation};
use retell::testing::{assert_compatible, assert_forward_compatible};
use retell::{Event, Value};

fn registry<E: Event>() -> Registry {
    Registry::new().with::<E>().unwrap()
}

fn ids(violations: &[Violation]) -> Vec<String> {
    violations
        .iter()
        .map(|each| {
            let path = each.broken.path();
            if path.is_empty() { each.broken.id().to_owned() } else { format!("{} at {path}", each.broken.id()) }
        })
        .collect()
}

fn lock(blocks: &str) -> Lock {
    blocks.parse().unwrap()
}

/// Compares one change with the lock in each of the ways.
struct Row {
    old: &'static str,
    plain: Checked,
    forward: Checked,
    public: Checked,
}

impl Row {
    fn of<E: Event, P: Event>(old: &'static str) -> Self {
        let block = format!("[order.placed 1 json]\n{old}\n");
        let public = block.replace("json]", "json]\npublic");
        Self {
            old,
            plain: registry::<E>().check(&lock(&block)),
            forward: registry::<E>().check_forward(&lock(&block)),
            public: registry::<P>().check(&lock(&public)),
        }
    }

    /// Asserts which rules the change breaks for the log, and for older readers. A doubt is no error.
    #[track_caller]
    fn assert(&self, backward: &[&str], forward: &[&str]) {
        let Self { old, plain, forward: strict, public } = self;
        assert_eq!(ids(&plain.errors), backward, "{old}: the log");
        let warned = ids(&plain.warnings);
        assert!(forward.iter().all(|rule| warned.iter().any(|other| other == rule)), "{old}: {warned:?}");
        let mut all = backward.to_vec();
        all.extend(forward.iter().filter(|rule| rule.starts_with('E') && !backward.contains(rule)));
        assert_eq!(ids(&strict.errors), all, "{old}: older processes");
        assert_eq!(ids(&public.errors), all, "{old}: other teams");
        for (checked, readers) in [(strict, Readers::OlderRelease), (public, Readers::OtherTeams)] {
            let of_readers: Vec<_> =
                checked.errors.iter().filter(|error| error.broken.readers() == Some(readers)).collect();
            assert_eq!(of_readers.len(), all.len() - backward.len(), "{old}");
            assert!(of_readers.iter().all(|error| error.broken.cure().len() > 20), "{old}");
        }
        for checked in [strict, public] {
            let lock = lock(&checked.lock.to_string());
            if all.is_empty() {
                let again = if lock.blocks.values().any(|block| block.is_public) { public } else { strict };
                assert_eq!(again.lock, lock, "{old}");
            } else {
                assert!(
                    lock.blocks.values().all(|block| block.former.is_empty()),
                    "{old}: a refused change is not locked"
                );
            }
        }
    }
}

macro_rules! row {
    ($(#[$of_type:meta])* $old:literal, { $($(#[$attribute:meta])* $field:ident: $type:ty),* }) => {{
        #[derive(Event)]
        #[event("order.placed")]
        $(#[$of_type])*
        struct Placed { $($(#[$attribute])* $field: $type),* }

        #[derive(Event)]
        #[event("order.placed", public)]
        $(#[$of_type])*
        struct Public { $($(#[$attribute])* $field: $type),* }

        Row::of::<Placed, Public>($old)
    }};
}

#[test]
fn fields_come_and_go_by_the_rules() {
    row!("a: u8", { a: u8, #[serde(default)] b: u8 }).assert(&[], &[]);
    row!("a: u8", { a: u8, b: Option<u8> }).assert(&[], &[]);
    row!(#[serde(deny_unknown_fields)] "a: u8\n!", { a: u8, b: Option<u8> })
        .assert(&[], &["E-FIELD-ADDED-TO-CLOSED at b"]);
    row!("a: u8", { a: u8, b: u8 }).assert(&["E-FIELD-REQUIRED-ADDED at b"], &[]);
    row!("a: u8\nb: u8 = default", { a: u8 }).assert(&[], &[]);
    row!("a: u8\nb: u8", { a: u8 }).assert(&[], &["E-FIELD-REQUIRED-REMOVED at b"]);
    row!(#[serde(deny_unknown_fields)] "a: u8\nb: u8 = default\n!", { a: u8 })
        .assert(&["E-FIELD-REMOVED-FROM-CLOSED at b"], &[]);
    row!("a: u8\nb: text", { b: String, a: u8 }).assert(&[], &[]);
}

#[test]
fn a_rename_needs_an_alias_and_still_breaks_older_readers() {
    row!("a: u8", { b: u8 }).assert(&["E-FIELD-REQUIRED-ADDED at b"], &["E-FIELD-REQUIRED-REMOVED at a"]);
    row!("a: u8", { #[serde(alias = "a")] b: u8 }).assert(&[], &["E-FIELD-REQUIRED-REMOVED at a"]);
    row!("a|b: u8", { #[serde(alias = "a")] b: u8 }).assert(&[], &[]);
}

#[test]
fn values_may_grow_for_the_log_and_shrink_for_older_readers() {
    row!("a: u32", { a: u64 }).assert(&[], &["E-NUMBER-WIDENED at a"]);
    row!("a: u64", { a: u32 }).assert(&["E-NUMBER-NARROWED at a"], &[]);
    row!("a: u8", { a: Option<u8> }).assert(&[], &["E-OPTION-ADDED at a"]);
    row!("a: u8?", { a: u8 }).assert(&["E-OPTION-REMOVED at a"], &[]);
    row!("a: text", { a: uuid::Uuid }).assert(&["E-TYPE-CHANGED at a"], &[]);
    row!("a: uuid", { a: String }).assert(&[], &["E-TYPE-CHANGED at a"]);
    row!("a: u32", { a: std::num::NonZeroU32 }).assert(&["E-CHECK-ADDED at a"], &[]);
    row!("a: checked u32", { a: u32 }).assert(&[], &["E-CHECK-REMOVED at a"]);
    row!("a: u64", { a: f64 }).assert(&["E-NUMBER-NARROWED at a"], &["E-NUMBER-WIDENED at a"]);
    row!("a: u64", { a: String }).assert(&["E-TYPE-CHANGED at a"], &["E-TYPE-CHANGED at a"]);
    row!("a: [u8; 2]", { a: [u8; 3] }).assert(&["E-LENGTH-CHANGED at a"], &["E-LENGTH-CHANGED at a"]);
}

#[derive(Value)]
enum Size {
    Small,
    Large(u8),
}

#[derive(Value)]
#[serde(tag = "kind")]
enum Tagged {
    Small,
    Large,
    #[serde(other)]
    Other,
}

#[derive(Value)]
#[serde(untagged)]
enum Untagged {
    Number(u8),
    Text(String),
}

#[test]
fn variants_may_come_for_the_log_and_go_for_older_readers() {
    row!("a: <Small>", { a: Size }).assert(&[], &["E-VARIANT-ADDED at a<Large>"]);
    row!("a: <kind in Small | Other = others>", { a: Tagged }).assert(&[], &[]);
    row!("a: <Small | Large: u8 | Huge>", { a: Size }).assert(&["E-VARIANT-REMOVED at a<Huge>"], &[]);
    row!("a: <kind in Small | Large: u8>", { a: Size })
        .assert(&["E-TAGGING-CHANGED at a"], &["E-TAGGING-CHANGED at a"]);
    row!("a: <untagged Text: text | Number: u8>", { a: Untagged })
        .assert(&["E-UNTAGGED-CHANGED at a"], &["E-UNTAGGED-CHANGED at a"]);
    row!("a: <untagged Number: u8 | Text: text>", { a: Untagged }).assert(&[], &[]);
}

#[derive(Value)]
struct Line {
    sku: String,
    #[serde(default)]
    count: u64,
}

#[test]
fn a_part_of_a_field_changes_by_the_same_rules() {
    row!("a: [{sku: text}]", { a: Vec<Line> }).assert(&[], &[]);
    row!("a: [{sku: text, count: u64 = default, unit: text}]", { a: Vec<Line> })
        .assert(&[], &["E-FIELD-REQUIRED-REMOVED at a[].unit"]);
    row!("a: [{count: u64 = default}]", { a: Vec<Line> }).assert(&["E-FIELD-REQUIRED-ADDED at a[].sku"], &[]);
}

/// Fields of any name, and opaque places.
#[test]
fn a_place_that_cannot_be_judged_is_no_error() {
    row!("a: u8", { a: u8, #[serde(flatten)] rest: BTreeMap<String, u8> }).assert(&[], &["W-OPAQUE at *"]);
    row!("a: u8", { #[event(opaque)] a: u8 }).assert(&[], &["W-OPAQUE at a"]);
}

const FIRST: &str = "[order.placed 1 json]\npublic\ncents: u64\n\n[order.seen 1 json]\ncents: u64\n";

/// Returns the blocks of a lock without the comment at its beginning.
fn blocks(lock: &Lock) -> String {
    let text = lock.to_string();
    text.split_once("\n\n").unwrap().1.to_owned()
}

/// Returns the errors of a check of all events of a type against `FIRST`, as event, rule and readers.
fn refused<E: Event>(check: impl Fn(&Registry, &Lock) -> Checked) -> Vec<(String, &'static str, Option<Readers>)> {
    let checked = check(&registry::<E>(), &lock(FIRST));
    checked.errors.iter().map(|error| (error.event.clone(), error.broken.id(), error.broken.readers())).collect()
}

#[test]
fn the_lock_has_the_mark_of_a_public_event() {
    let first = registry::<events::First>();
    assert_eq!(blocks(&first.lock()), FIRST);
    assert_eq!(first.lock(), lock(FIRST));
    assert_eq!(first.check(&lock(FIRST)).lock, lock(FIRST));
    // A lock without marks is read, and gets them.
    let checked = first.check(&lock(&FIRST.replace("public\n", "")));
    assert!(checked.errors.is_empty() && checked.warnings.is_empty());
    assert_eq!(checked.lock, lock(FIRST));
    let all = registry::<events::All>().lock();
    assert!(all.blocks.values().all(|block| block.is_public), "a mark on the enum is one on each variant");
    let field = lock("[a.b 1 json]\npublic: bool\n");
    assert!(field.blocks.values().all(|block| !block.is_public && block.shape.to_string() == "{public: bool}"));
}

#[test]
fn a_new_version_of_a_public_event_is_refused() {
    let (placed, seen, closed) = ("order.placed".to_owned(), "order.seen".to_owned(), "order.closed".to_owned());
    let public = (placed, "E-VERSION-ADDED", Some(Readers::OtherTeams));
    let older = |event, id| (event, id, Some(Readers::OlderRelease));
    assert_eq!(refused::<events::Raised>(Registry::check), from_ref(&public));
    assert_eq!(
        refused::<events::Raised>(Registry::check_forward),
        [older(closed, "E-EVENT-ADDED"), public, older(seen, "E-VERSION-ADDED")]
    );
    assert!(refused::<events::First>(Registry::check_forward).is_empty());
    let checked = registry::<events::Raised>().check(&lock(FIRST));
    assert_eq!(ids(&checked.warnings), ["W-EVENT-ADDED", "W-VERSION-ADDED"], "the others are only told");
    assert!(!checked.lock.to_string().contains("order.placed 2"), "a refused version is not locked");
    // No older release reads the events of the first one.
    assert!(registry::<events::Raised>().check_forward(&Lock::default()).errors.is_empty());
}

#[test]
fn a_new_name_of_a_public_event_is_refused() {
    let (made, looked_at) = ("order.made".to_owned(), "order.looked_at".to_owned());
    let public = (made, "E-EVENT-RENAMED", Some(Readers::OtherTeams));
    let older = (looked_at, "E-EVENT-RENAMED", Some(Readers::OlderRelease));
    assert_eq!(refused::<events::Renamed>(Registry::check), from_ref(&public));
    assert_eq!(refused::<events::Renamed>(Registry::check_forward), [older, public]);
}

#[test]
fn another_codec_of_a_public_event_is_refused() {
    let public = ("order.placed".to_owned(), "E-CODEC-CHANGED", Some(Readers::OtherTeams));
    assert_eq!(refused::<events::Compact>(Registry::check), from_ref(&public));
    assert_eq!(refused::<events::Compact>(Registry::check_forward), [public], "an older release knows each codec");
}

#[test]
fn a_mark_that_is_gone_is_refused() {
    let public = [("order.placed".to_owned(), "E-PUBLIC-REMOVED", Some(Readers::OtherTeams))];
    assert_eq!(refused::<events::Private>(Registry::check), public);
    assert_eq!(refused::<events::Retired>(Registry::check), public);
    let checked = registry::<events::Private>().check(&lock(FIRST));
    assert_eq!(checked.lock, lock(FIRST));
    assert_eq!(checked.errors[0].broken.to_string(), "E-PUBLIC-REMOVED: the event was public");
}

/// Each of the changes is allowed once, and told as a warning.
#[test]
fn an_exception_allows_what_other_teams_can_follow() {
    fn allowed<E: Event>(rule: &str) -> Checked {
        let line = format!("cents: u64\nallow {rule}: billing reads it\n");
        let registry = registry::<E>();
        let checked = registry.check(&lock(&FIRST.replacen("cents: u64\n", &line, 1)));
        assert!(checked.errors.is_empty(), "{:?}", checked.errors);
        let text = checked.lock.to_string();
        assert!(text.contains(&format!("allowed {rule}: billing reads it\n")), "{text}");
        let again = registry.check(&lock(&text));
        assert!(again.errors.is_empty() && again.lock == checked.lock, "{:?}", again.errors);
        checked
    }
    let raised = allowed::<events::Raised>("E-VERSION-ADDED");
    assert_eq!(ids(&raised.warnings), ["W-EVENT-ADDED", "W-VERSION-ADDED", "W-VERSION-ADDED"]);
    assert!(raised.lock.to_string().contains("[order.placed 2 json]\npublic\n"));
    let renamed = allowed::<events::Renamed>("E-EVENT-RENAMED");
    assert!(renamed.lock.to_string().contains("[order.made 1 json]\npublic\n"));
    allowed::<events::Compact>("E-CODEC-CHANGED");
    for lock in
        [allowed::<events::Private>("E-PUBLIC-REMOVED").lock, allowed::<events::Retired>("E-PUBLIC-REMOVED").lock]
    {
        assert!(lock.blocks.values().all(|block| !block.is_public), "{lock}");
    }
}

/// Other teams may still have a reader of a shape that the version had before.
#[test]
fn a_public_event_is_read_by_readers_of_each_shape() {
    #[derive(Event)]
    #[event("order.placed", public)]
    struct Optional {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<u64>,
    }

    const OLD: &str = "[order.placed 1 json]\npublic\n";
    let check = |fields: &str| registry::<Optional>().check(&lock(&format!("{OLD}{fields}")));
    // The newest shape would accept it.
    let newest = "note: u64? sometimes = default\nwas {note: u32}\n";
    assert_eq!(ids(&check(newest).errors), [""; 0], "what was not followed before is not found again");
    let other = "was {note: u32 = default}\n";
    assert_eq!(ids(&check(other).errors), ["E-OPTION-ADDED at note", "E-NUMBER-WIDENED at note"]);
    // An exception counts for the former shapes, too.
    let allow = "allow E-NUMBER-WIDENED at note: agreed\nallow E-OPTION-ADDED at note: agreed\n";
    let checked = check(&format!("{other}{allow}"));
    assert!(checked.errors.is_empty(), "{:?}", checked.errors);
    let again = registry::<Optional>().check(&checked.lock);
    assert!(again.errors.is_empty() && again.lock == checked.lock, "{:?}", again.errors);
}

/// One exception allows a change that breaks the log and older readers at the same place.
#[test]
fn a_change_that_breaks_both_is_one_error() {
    #[derive(Event)]
    #[event("order.placed", public)]
    struct Placed {
        cents: String,
    }

    let text = "[order.placed 1 json]\npublic\ncents: u64\n";
    let checked = registry::<Placed>().check(&lock(text));
    assert_eq!(ids(&checked.errors), ["E-TYPE-CHANGED at cents"]);
    assert!(matches!(checked.errors[0].broken, Broken::Rule(_)), "the log comes first");
    let allowed = format!("{text}allow E-TYPE-CHANGED at cents: not in use yet\n");
    assert!(registry::<Placed>().check(&lock(&allowed)).errors.is_empty());
}

#[test]
fn the_test_says_who_cannot_read_and_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.lock");
    let failure = |assert: &dyn Fn()| {
        let panic = catch_unwind(AssertUnwindSafe(assert)).err()?;
        Some(panic.downcast_ref::<String>().unwrap().clone())
    };
    let first = registry::<events::First>();
    assert!(failure(&|| assert_forward_compatible(&path, &first)).unwrap().contains("was not up to date and is now"));
    assert_eq!(failure(&|| assert_forward_compatible(&path, &first)), None);
    let written = fs::read_to_string(&path).unwrap();

    let raised = registry::<events::Raised>();
    let public = failure(&|| assert_compatible(&path, &raised)).unwrap();
    for part in [
        "programs of other teams could not read new events:\norder.placed 2: E-VERSION-ADDED: the newest version was 1\n    \
         other teams read this event: keep its form, or write another event next to it.",
        "If each of these programs reads the new form already, add this line below `[order.placed 1 ..]` in ",
        "\n    allow E-VERSION-ADDED: REASON",
    ] {
        assert!(public.contains(part), "{public}\nhas no: {part}");
    }
    assert!(!public.contains("stored events"), "{public}");
    let forward = failure(&|| assert_forward_compatible(&path, &raised)).unwrap();
    for part in [
        "processes of the older release could not read new events:\norder.closed 1: E-EVENT-ADDED: the event is new\n    deploy a \
         release that reads the event and does not write it yet",
        "order.seen 2: E-VERSION-ADDED: the newest version was 1\n    an older process cannot read a newer version",
        "If no such process reads the event, add this line below `[order.seen 1 ..]`",
    ] {
        assert!(forward.contains(part), "{forward}\nhas no: {part}");
    }
    let renamed = failure(&|| assert_compatible(&path, &registry::<events::Renamed>())).unwrap();
    assert!(renamed.contains("add this line below `[order.placed ..]`"), "{renamed}");
    assert_eq!(fs::read_to_string(&path).unwrap(), written, "the lock stays as it is");
}
