//! Golden payloads: events as they were stored once, which every later release reads in the same way.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::needless_pass_by_value, reason = "an upcaster takes the older event")]
#![expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]

#[path = "golden/events.rs"]
mod events;

#[path = "golden/lost.rs"]
mod lost;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use retell::testing::assert_golden;
use retell::{AnyEvent, Event};
use tempfile::{TempDir, tempdir};

use events::{
    Both, Paid, PaidAsNumber, PaidInMills, PaidWithCount, PaidWithNeed, PaidWithNote, PaidWithOtherCount, UserEvent,
    as_number, compact, upcasters,
};

fn folder() -> TempDir {
    tempdir().unwrap()
}

/// Returns the message of the panic, or none if the samples fit the files.
fn run<E: Event>(folder: impl AsRef<Path>, samples: impl IntoIterator<Item = E>) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| assert_golden(folder, samples))).err()?;
    Some(panic.downcast_ref::<String>().unwrap().clone())
}

/// Writes the files of samples, and reads them once.
fn recorded<E: Event, S: IntoIterator<Item = E>>(samples: impl Fn() -> S) -> TempDir {
    let folder = folder();
    assert!(run(&folder, samples()).unwrap().contains("review and commit"));
    assert_eq!(run(&folder, samples()), None);
    folder
}

fn files(folder: &TempDir) -> BTreeMap<String, String> {
    let read =
        |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap());
    fs::read_dir(folder).unwrap().map(|entry| read(entry.unwrap())).collect()
}

/// Asserts that the run refuses the files with a message that has each of `parts`, and leaves them as they are.
#[track_caller]
fn assert_refused<E: Event>(folder: &TempDir, samples: impl IntoIterator<Item = E>, parts: &[&str]) {
    let before = files(folder);
    let message = run(folder, samples).unwrap();
    for part in parts {
        assert!(message.contains(part), "{message}\nhas no: {part}");
    }
    assert_eq!(files(folder), before, "a refused run changes no file");
}

#[test]
fn the_first_run_writes_the_files_and_fails_once() {
    let base = folder();
    let folder = base.path().join("golden/order");
    let message = run(&folder, [Paid::sample()]).unwrap();
    assert!(message.contains("golden/order: the files were not up to date and are now"), "{message}");
    assert!(message.ends_with("order.paid.1.json.golden: it is new"), "{message}");
    assert_eq!(
        fs::read_to_string(folder.join("order.paid.1.json.golden")).unwrap(),
        "# An event as it was stored once, and the event that the program reads it as. The payload never changes.\n\
         [order.paid 1 json]\n{\"customer\":\"ada\",\"amount\":\"9.50\"}\n\
         reads as [order.paid 1 json]\n{\n  \"amount\": \"9.50\",\n  \"customer\": \"ada\"\n}\n"
    );
    assert_eq!(run(&folder, [Paid::sample()]), None);
    // Other files of the folder are none of its business.
    fs::write(folder.join("README.md"), "golden").unwrap();
    assert_eq!(run(&folder, [Paid::sample()]), None);
}

#[test]
fn a_checkout_with_other_line_ends_is_the_same() {
    let folder = recorded(|| [Paid::sample()]);
    for (file, text) in files(&folder) {
        fs::write(folder.path().join(file), text.replace('\n', "\r\n")).unwrap();
    }
    assert_eq!(run(&folder, [Paid::sample()]), None);
}

#[test]
fn another_with_module_is_noticed() {
    let folder = recorded(|| [Paid::sample()]);
    assert_refused(
        &folder,
        [PaidAsNumber::sample()],
        &[
            "order.paid.1.json.golden: [order.paid 1 json] cannot be read any more: cannot decode the payload",
            "logs may hold such events",
        ],
    );
    // It decodes, as another amount.
    assert_refused(
        &folder,
        [PaidInMills::sample()],
        &[
            "read as something else than before:",
            "$.amount: \"9.50\" became \"0.950\"",
            "delete the lines of the file from `reads as` on",
        ],
    );
}

/// A payload that is read and written in a new unit looks the same, until it is compared with a sample.
#[test]
fn another_unit_is_noticed_by_the_sample() {
    #[derive(Event)]
    #[event("order.paid")]
    struct InDollars {
        customer: String,
        #[event(opaque)]
        #[serde(with = "as_number")]
        amount: u64,
    }

    let folder = recorded(|| [PaidAsNumber::sample()]);
    let dollars = InDollars { customer: "ada".into(), amount: 9 };
    assert_refused(
        &folder,
        [dollars],
        &[
            "the sample of [order.paid 1 json] is written as something else",
            "$.amount: 950 became 9",
            "needs a new `version`",
        ],
    );
}

#[test]
fn a_new_field_with_a_default_updates_the_file_once() {
    let folder = recorded(|| [Paid::sample()]);
    let message = run(&folder, [PaidWithNote::sample(None)]).unwrap();
    assert!(message.ends_with("order.paid.1.json.golden: it has new fields\n      $.note: null"), "{message}");
    assert_eq!(run(&folder, [PaidWithNote::sample(None)]), None);
    let text = &files(&folder)["order.paid.1.json.golden"];
    assert!(text.contains("\n{\"customer\":\"ada\",\"amount\":\"9.50\"}\nreads as "), "the payload stays: {text}");
    assert!(text.contains("\"note\": null"), "{text}");
    // A sample with another value is a further one.
    assert_refused(
        &folder,
        [PaidWithNote::sample(Some("x".into()))],
        &["$.note: null became \"x\"", "value of its default"],
    );
    let both = || [PaidWithNote::sample(None), PaidWithNote::sample(Some("x".into()))];
    assert!(run(&folder, both()).unwrap().ends_with("order.paid.1.json.2.golden: it is new"));
    assert_eq!(run(&folder, both()), None);
    // The field is gone.
    assert_refused(&folder, [Paid::sample(), Paid::sample()], &["$.note: null is gone", "$.note: \"x\" is gone"]);
}

#[test]
fn another_default_is_noticed() {
    let folder = recorded(|| [Paid::sample()]);
    run(&folder, [PaidWithCount::sample(1)]).unwrap();
    assert_eq!(run(&folder, [PaidWithCount::sample(1)]), None);
    assert_refused(&folder, [PaidWithOtherCount::sample(0)], &["something else than before:", "$.count: 1 became 0"]);
    assert_refused(&folder, [PaidWithNeed::sample(1)], &["cannot be read any more"]);
}

#[test]
fn a_change_is_accepted_by_deleting_what_it_was() {
    let folder = recorded(|| [Paid::sample()]);
    let path = folder.path().join("order.paid.1.json.golden");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.split_once("reads as").unwrap().0).unwrap();
    let message = run(&folder, [Paid::sample()]).unwrap();
    assert!(message.ends_with("order.paid.1.json.golden: it is read as [order.paid 1 json]"), "{message}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(run(&folder, [Paid::sample()]), None);
}

#[test]
fn another_upcaster_is_noticed() {
    use upcasters::{Careless, Panicking, Placed, PlacedInCents};

    let folder = recorded(|| [Placed { dollars: 5 }]);
    let message = run(&folder, [PlacedInCents { cents: 950 }]).unwrap();
    assert!(message.contains("order.placed.2.json.golden: it is new"), "{message}");
    assert!(
        message.contains("1.json.golden: it is read as [order.placed 2 json], and no longer as [order.placed 1 json]"),
        "{message}"
    );
    assert!(
        files(&folder)["order.placed.1.json.golden"]
            .ends_with("reads as [order.placed 2 json]\n{\n  \"cents\": 500\n}\n")
    );
    assert_eq!(run(&folder, [PlacedInCents { cents: 950 }]), None);
    assert_refused(
        &folder,
        [Careless { cents: 950 }],
        &[
            "order.placed.1.json.golden: the payload of [order.placed 1 json] is read as something else",
            "$.cents: 500 became 5",
        ],
    );
    assert_refused(&folder, [Panicking { cents: 950 }], &["order.placed.1.json.golden: ", "panicked: too cheap"]);
    // The program before reads nothing of a newer version.
    assert_refused(&folder, [Placed { dollars: 5 }], &["order.placed.2.json.golden: ", "schema version 2 is unknown"]);
}

#[test]
fn an_older_version_can_be_written_by_hand() {
    use upcasters::PlacedInCents;

    let folder = folder();
    fs::write(folder.path().join("from the log.golden"), "[order.placed 1 json]\n{\"dollars\":7}\n").unwrap();
    let message = run(&folder, [PlacedInCents { cents: 950 }]).unwrap();
    assert!(message.contains("order.placed.2.json.golden: it is new"), "{message}");
    assert!(message.ends_with("from the log.golden: it is read as [order.placed 2 json]"), "{message}");
    assert!(
        files(&folder)["from the log.golden"]
            .contains("{\"dollars\":7}\nreads as [order.placed 2 json]\n{\n  \"cents\": 700\n}")
    );
    assert_eq!(run(&folder, [PlacedInCents { cents: 950 }]), None);
}

#[test]
fn a_compact_payload_is_shown_by_its_shape() {
    use compact::{Reordered, Sensor};

    let samples = || {
        let measured = Sensor::Measured { celsius: 20.5, tags: vec!["a".into()] };
        [measured, Sensor::Moved { to: [127, 0, 0, 1].into() }, Sensor::Lost]
    };
    let folder = recorded(samples);
    let files = files(&folder);
    let lines = |file: &str| files[file].split_once("changes.\n").unwrap().1.to_owned();
    assert_eq!(
        lines("sensor.measured.1.compact.golden"),
        "[sensor.measured 1 compact]\nhex 0000000000803440010161\nreads as [sensor.measured 1 compact]\n\
         {\n  \"celsius\": 20.5,\n  \"tags\": [\n    \"a\"\n  ]\n}\n"
    );
    // The shape of an opaque field is unknown, so the bytes are compared.
    assert_eq!(
        lines("sensor.moved.1.compact.golden"),
        "[sensor.moved 1 compact]\nhex 007f000001\nreads as [sensor.moved 1 compact]\nhex 007f000001\n"
    );
    assert!(lines("sensor.lost.1.compact.golden").starts_with("[sensor.lost 1 compact]\nhex\nreads as "));
    let other = [
        Reordered::Measured { celsius: 20.5, tags: vec!["a".into()] },
        Reordered::Moved { to: [127, 0, 0, 2].into() },
        Reordered::Lost,
    ];
    assert_refused(
        &folder,
        other,
        &["sensor.measured.1.compact.golden: ", "sensor.moved.1.compact.golden: the sample", "other bytes"],
    );
}

#[test]
fn aggregates_have_a_folder_each_or_a_union() {
    let user = || [UserEvent::Registered { email: "a@b.c".into() }, UserEvent::Left];
    let folder = recorded(user);
    assert_refused(
        &folder,
        [Paid::sample()],
        &[
            "user.left.1.json.golden: golden::events::Paid has no event user.left: keep its variant",
            "join both in an `EventUnion`",
        ],
    );
    let both = || user().into_iter().map(Both::User).chain([Both::Paid(Paid::sample())]);
    let message = run(&folder, both()).unwrap();
    assert!(message.ends_with("now: review and commit them\norder.paid.1.json.golden: it is new"), "{message}");
    assert_eq!(run(&folder, both()), None);
    // An event that is gone.
    assert_refused(&folder, user(), &["order.paid.1.json.golden: golden::events::UserEvent has no event order.paid"]);
}

#[test]
fn each_kind_of_event_needs_a_sample() {
    let folder = folder();
    let registered = || [UserEvent::Registered { email: "a@b.c".into() }];
    assert_refused(&folder, registered(), &["\n[user.left 1 json] has no golden payload: add a sample of it"]);
    // A file that is there needs no sample.
    fs::write(folder.path().join("left.golden"), "[user.left 1 json]\n{}\n").unwrap();
    run(&folder, registered()).unwrap();
    assert_eq!(run(&folder, registered()), None);
    let message = run::<AnyEvent>(&folder, []).unwrap();
    assert!(message.contains("holds every event"), "{message}");
}

#[test]
fn a_damaged_file_is_named_and_kept() {
    let folder = recorded(|| [Paid::sample()]);
    let path = folder.path().join("order.paid.1.json.golden");
    let text = fs::read_to_string(&path).unwrap();
    for (damaged, problem) in [
        (String::new(), "is damaged: the file has no event"),
        (format!("<<<<<<< HEAD\n{text}"), "is damaged: line 1: expected a name"),
        (text.replace("reads as", "reads"), "is damaged: line 4: expected `reads as [order.placed 1 json]`"),
        (text.replace("\"ada\"\n", "\"ada\n"), "is damaged: the lines after line 4"),
        (text.replace(":\"9.50\"}", ":"), "order.paid.1.json.golden: [order.paid 1 json] cannot be read any more"),
        (text.replace("[order.paid 1 json]", "[order.unpaid 1 json]"), "has no event order.unpaid"),
    ] {
        fs::write(&path, damaged).unwrap();
        assert_refused(&folder, [Paid::sample()], &["order.paid.1.json.golden", problem]);
    }
    fs::write(&path, [0xff]).unwrap();
    assert!(run(&folder, [Paid::sample()]).unwrap().contains("cannot read order.paid.1.json.golden"));
    assert_eq!(fs::read(&path).unwrap(), [0xff]);
}

#[test]
fn a_file_of_another_kind_is_not_overwritten() {
    let folder = recorded(|| [Paid::sample()]);
    let (from, to) = ("order.paid.1.json.golden", "user.left.1.json.golden");
    fs::rename(folder.path().join(from), folder.path().join(to)).unwrap();
    let samples = [Both::User(UserEvent::Left), Both::User(UserEvent::Registered { email: "a@b.c".into() })];
    assert_refused(
        &folder,
        samples,
        &["user.left.1.json.golden: the file has [order.paid 1 json] and not [user.left 1 json]"],
    );
}

/// An event whose parts are not read as they are written.
#[test]
fn a_sample_that_is_not_read_back_is_not_recorded() {
    #[derive(Event, Debug)]
    #[event("order.split")]
    struct Split {
        #[serde(rename(serialize = "a", deserialize = "b"), default)]
        number: u8,
    }

    let folder = folder();
    assert_refused(
        &folder,
        [Split { number: 1 }],
        &["the sample of [order.split 1 json] is not read as it was written:", "$.a: 1 became 0"],
    );
}

/// A value of any JSON keeps its order in the payload, and the order does not count.
#[test]
fn order_of_fields_does_not_count() {
    #[derive(Event)]
    #[event("order.tagged")]
    struct Tagged {
        tags: serde_json::Value,
    }

    let sample = |json: &str| [Tagged { tags: serde_json::from_str(json).unwrap() }];
    let folder = recorded(|| sample(r#"{"b":1,"a":{"d":2,"c":[]}}"#));
    assert_eq!(run(&folder, sample(r#"{"a":{"c":[],"d":2},"b":1}"#)), None);
    let text = files(&folder).into_values().next().unwrap();
    let reading = text.split_once("reads as").unwrap().1;
    assert!(
        reading
            .ends_with("\"tags\": {\n    \"a\": {\n      \"c\": [],\n      \"d\": 2\n    },\n    \"b\": 1\n  }\n}\n"),
        "{text}"
    );
    assert_refused(&folder, sample(r#"{"b":1,"a":{"d":2,"c":[0]}}"#), &["$.tags.a.c: [] became [0]"]);
}
