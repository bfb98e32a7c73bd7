//! Files that are gone, although a log may hold their events.

use retell::testing::assert_golden_of_lock;
use tempfile::tempdir;

use super::*;
use crate::events::upcasters::{Placed, PlacedInCents};

#[test]
fn a_deleted_file_of_an_older_version_is_noticed() {
    let folder = recorded(|| [Placed { dollars: 5 }]);
    run(&folder, [PlacedInCents { cents: 950 }]).unwrap();
    fs::remove_file(folder.path().join("order.placed.1.json.golden")).unwrap();
    assert_refused(
        &folder,
        [PlacedInCents { cents: 950 }],
        &["\nversion 1 of order.placed has no golden payload: restore its file from version control"],
    );
}

#[test]
fn a_deleted_file_of_a_former_name_is_noticed() {
    #[derive(Event)]
    #[event("user.gone", renamed_from = "user.left")]
    struct Gone;

    let folder = folder();
    fs::write(folder.path().join("left.golden"), "[user.left 1 json]\n{}\n").unwrap();
    run(&folder, [Gone]).unwrap();
    assert_eq!(run(&folder, [Gone]), None);
    fs::remove_file(folder.path().join("left.golden")).unwrap();
    assert_refused(&folder, [Gone], &["\nuser.left, now user.gone, has no golden payload: restore its file"]);
}

/// The type does not tell that version 1 was stored in two codecs.
#[test]
fn the_lock_tells_which_codecs_need_a_file() {
    let base = folder();
    let (lock, folder) = (base.path().join("events.lock"), tempdir().unwrap());
    fs::write(folder.path().join("json.golden"), "[order.placed 1 json]\n{\"dollars\":7}\n").unwrap();
    let with_lock = |lock: &Path| {
        let samples = [PlacedInCents { cents: 950 }];
        let panic = catch_unwind(AssertUnwindSafe(|| assert_golden_of_lock(lock, &folder, samples))).err()?;
        Some(panic.downcast_ref::<String>().unwrap().clone())
    };
    let blocks = "[order.placed 1 compact]\ndollars: u64\n\n[order.placed 1 json]\ndollars: u64\n\n\
                  [order.placed 2 json]\ncents: u64\n\n[user.left 1 json]\n";
    fs::write(&lock, blocks).unwrap();
    let message = with_lock(&lock).unwrap();
    assert!(message.contains("\n[order.placed 1 compact] has no golden payload: restore its file"), "{message}");
    assert_eq!(message.matches("has no golden payload").count(), 1, "{message}");

    let compact = folder.path().join("compact.golden");
    fs::write(&compact, "[order.placed 1 compact]\nhex 07\n").unwrap();
    assert!(with_lock(&lock).unwrap().contains("review and commit"));
    assert_eq!(with_lock(&lock), None);
    fs::remove_file(compact).unwrap();
    assert!(with_lock(&lock).unwrap().contains("[order.placed 1 compact] has no golden payload"));
    assert_eq!(run(&folder, [PlacedInCents { cents: 950 }]), None, "the type alone does not know");

    fs::write(&lock, "<<<<<<< HEAD\n").unwrap();
    assert!(with_lock(&lock).unwrap().contains("events.lock: line 1 of the lock"));
    assert!(with_lock(&base.path().join("other.lock")).unwrap().contains("cannot read "));
}
