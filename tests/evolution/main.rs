//! The walk of the guide `evolution.md`: each step's code is compiled here, and each message that the guide shows is printed by it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "the guide's types are compared, and never made")]
#![allow(unreachable_pub, reason = "the guide writes types as a library has them")]

mod first;
mod safe;
mod second;
#[path = "unsafe.rs"]
mod unsafe_;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use retell::event::StoredEvent;
use retell::registry::Registry;
use retell::testing::assert_compatible;
use retell::{Codec, Event};

const GUIDE: &str = include_str!("../../src/docs/guide/evolution.md");

/// Runs the guide's test. Returns the message that it fails with.
fn run<E: Event>(lock: &Path) -> Option<String> {
    let registry = Registry::new().with::<E>().unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| assert_compatible(lock, &registry))).err()?;
    Some(panicked.downcast::<String>().unwrap().replace(&*lock.to_string_lossy(), "events.lock"))
}

/// Asserts that the guide has `text` as a block in `language`.
#[track_caller]
fn assert_in_guide(language: &str, text: &str) {
    let block = format!("```{language}\n{}\n```\n", text.trim_end());
    assert!(GUIDE.contains(&block), "the guide has no such block:\n{block}");
}

#[test]
fn the_guide_shows_what_a_newcomer_sees() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("events.lock");
    let blocks = || fs::read_to_string(&lock).unwrap().split_once("\n\n").unwrap().1.to_owned();

    assert_in_guide("rust", include_str!("first.rs"));
    assert_in_guide("text", &run::<first::OrderEvent>(&lock).unwrap());
    assert_in_guide("text", &blocks());
    assert_eq!(run::<first::OrderEvent>(&lock), None);

    assert_in_guide("rust", include_str!("safe.rs"));
    assert_in_guide("text", &run::<safe::OrderEvent>(&lock).unwrap());
    assert_in_guide("text", &blocks());
    assert_eq!(run::<safe::OrderEvent>(&lock), None);

    let before = blocks();
    assert_in_guide("rust", include_str!("unsafe.rs"));
    let refused = run::<unsafe_::OrderEvent>(&lock).unwrap();
    assert_in_guide("text", &refused);
    // It fails until it is mended, and the lock stays.
    assert_eq!((run::<unsafe_::OrderEvent>(&lock).unwrap(), blocks()), (refused, before));

    assert_in_guide("rust", include_str!("second.rs"));
    assert_in_guide("text", &run::<second::OrderEvent>(&lock).unwrap());
    assert_in_guide("text", &blocks());
    assert_eq!(run::<second::OrderEvent>(&lock), None);
}

#[test]
fn the_guides_last_release_reads_what_all_others_wrote() {
    let old = payload(&first::OrderEvent::Placed { customer: "ada".into(), dollars: 9 });
    assert_eq!(read(&old), ("ada".into(), 900, None));
    let note = Some("soon".to_owned());
    let newer = payload(&safe::OrderEvent::Placed { customer: "ada".into(), dollars: 9, note: note.clone() });
    assert_eq!(read(&newer), ("ada".into(), 900, note));
}

fn payload(event: &impl Event) -> Vec<u8> {
    let mut payload = Vec::new();
    event.encode(&mut payload).unwrap();
    payload
}

fn read(version_1: &[u8]) -> (String, u64, Option<String>) {
    let stored = StoredEvent::new("order.placed", 1, Codec::Json, version_1);
    let second::OrderEvent::Placed { customer, cents, note } = second::OrderEvent::decode(stored).unwrap();
    (customer, cents, note)
}
