//! `events.lock` and golden files have the same bytes in a program with these features. A program without them wrote those in `kept`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use retell::prelude::*;
use retell::registry;
use retell::testing::{assert_compatible, assert_golden, assert_golden_of_lock};
use serde_json::Value as Json;

#[derive(Event)]
enum KeptEvent {
    /// Its fields are not sorted.
    #[event("kept.noted", public)]
    Noted { wide: u128, float: f64, below: i64, by_name: BTreeMap<String, Vec<Part>>, any: Json },
    #[event("kept.weighed", codec = "compact")]
    Weighed { of: String, grams: f64, parts: Vec<Part> },
}

#[derive(retell::Value)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Part {
    Paid { cents: i64, rate: f64 },
    Free,
}

const LOCK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kept/events.lock");
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kept/golden");

/// `any` is text, so a program with `preserve_order` keeps the order of its fields.
fn samples(any: &str) -> [KeptEvent; 2] {
    let parts = || vec![Part::Paid { cents: -5, rate: 0.1 }, Part::Free];
    [
        KeptEvent::Noted {
            wide: u128::MAX,
            float: 0.1 + 0.2,
            below: i64::MIN,
            by_name: BTreeMap::from([("b".into(), parts()), ("a".into(), Vec::new())]),
            any: serde_json::from_str(any).unwrap(),
        },
        KeptEvent::Weighed { of: "tea".into(), grams: 1.5, parts: vec![] },
    ]
}

const SORTED: &str = r#"{"a":{"c":[],"d":18446744073709551615},"b":1.5}"#;

#[test]
fn the_lock_has_the_same_text() {
    assert_compatible(LOCK, &registry![KeptEvent].unwrap());
}

#[test]
fn golden_files_are_read_as_before() {
    for any in [SORTED, r#"{"b":1.5,"a":{"d":18446744073709551615,"c":[]}}"#] {
        assert_golden_of_lock(LOCK, FOLDER, samples(any));
    }
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn new_golden_files_have_the_same_bytes() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kept-{}", std::process::id()));
    assert!(catch_unwind(|| assert_golden(&folder, samples(SORTED))).is_err(), "the first run fails once");
    assert_golden(&folder, samples(SORTED));
    let (written, kept) = (files(&folder), files(Path::new(FOLDER)));
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(kept.len(), 2);
    assert_eq!(written, kept);
}
