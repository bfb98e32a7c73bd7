//! Decides which snapshots of a stream a store keeps.

use std::collections::BTreeSet;

use crate::id::Version;
use crate::store::log::event_store::Snapshot;

/// A stored snapshot, without its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptSnapshot {
    /// The version of the last event in its state.
    pub version: Version,
    /// The fingerprint of the state's type.
    pub fingerprint: u64,
    /// Whether the log has its event under its version.
    pub is_in_log: bool,
}

impl KeptSnapshot {
    /// Creates the description of a stored snapshot.
    pub fn new(version: Version, fingerprint: u64, is_in_log: bool) -> Self {
        Self { version, fingerprint, is_in_log }
    }
}

/// The changes that saving a snapshot makes, if its event is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotChanges {
    /// Whether to store the new snapshot, in place of any other at its version.
    pub save: bool,
    /// The versions of the snapshots to delete.
    pub delete: Vec<Version>,
}

/// Returns the changes that saving `new` makes to the snapshots `kept` of its stream.
///
/// The newest snapshot stays, and of the older ones the first of each [`spacing`](Snapshot::spacing) versions: then a spacing that doubles keeps
/// a part of the same snapshots. Snapshots with another fingerprint, or of another history, go.
///
/// # Examples
/// ```
/// use retell::store::Snapshot;
/// use retell::store::driver::{KeptSnapshot, snapshot_changes};
/// use retell::{EventId, Version};
///
/// let kept = [100, 200, 300].map(|version| KeptSnapshot::new(Version::new(version), 7, true));
/// let new = Snapshot::new(Version::new(400), EventId::generate(), 7, Vec::new());
/// assert_eq!(snapshot_changes(&new, &kept).delete, [100, 200, 300].map(Version::new));
/// let changes = snapshot_changes(&new.with_spacing(256), &kept);
/// assert!(changes.save);
/// assert_eq!(changes.delete, [Version::new(200)]);
/// ```
pub fn snapshot_changes(new: &Snapshot, kept: &[KeptSnapshot]) -> SnapshotChanges {
    let is_current = |kept: &&KeptSnapshot| kept.is_in_log && kept.fingerprint == new.fingerprint;
    let current: BTreeSet<Version> = kept.iter().filter(is_current).map(|kept| kept.version).collect();
    let mut stay = BTreeSet::new();
    let mut last_place = None;
    let all: BTreeSet<Version> = current.iter().copied().chain([new.version]).collect();
    for version in &all {
        // Without a spacing there are no places.
        let place = version.get().checked_div(new.spacing);
        if all.last() == Some(version) || (place.is_some() && place != last_place) {
            stay.insert(*version);
        }
        last_place = place;
    }
    let save = stay.contains(&new.version) && !current.contains(&new.version);
    let remains = |kept: &KeptSnapshot| {
        let is_replaced = save && kept.version == new.version;
        is_replaced || (current.contains(&kept.version) && stay.contains(&kept.version))
    };
    let delete = kept.iter().filter(|kept| !remains(kept)).map(|kept| kept.version);
    SnapshotChanges { save, delete: delete.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::EventId;

    /// Saves snapshots of a growing stream as a repository does, and returns the versions that are kept.
    fn kept_after(versions: impl Iterator<Item = u64>, older: u64) -> Vec<u64> {
        let mut kept: Vec<KeptSnapshot> = Vec::new();
        for version in versions {
            let spacing = version.div_ceil(older).next_power_of_two();
            let new = Snapshot::new(Version::new(version), EventId::generate(), 1, Vec::new()).with_spacing(spacing);
            let SnapshotChanges { save, delete } = snapshot_changes(&new, &kept);
            kept.retain(|kept| !delete.contains(&kept.version));
            if save {
                kept.push(KeptSnapshot::new(new.version, 1, true));
            }
        }
        kept.iter().map(|kept| kept.version.get()).collect()
    }

    #[test]
    fn snapshots_of_a_growing_stream_stay_few_and_spread() {
        for last in (100..60_000).step_by(1_700) {
            let kept = kept_after((100..=last).step_by(100), 16);
            assert!(kept.len() <= 17, "{last}: {kept:?}");
            let from_start = std::iter::once(&0).chain(&kept);
            let widest = from_start.zip(&kept).map(|(before, after)| after - before).max();
            assert!(widest <= Some(last / 8 + 101), "{last}: {kept:?}");
        }
    }

    #[test]
    fn late_and_foreign_snapshots_do_not_win() {
        let at = |version| Snapshot::new(Version::new(version), EventId::generate(), 1, Vec::new());
        let kept = |version, fingerprint, is_in_log| KeptSnapshot::new(Version::new(version), fingerprint, is_in_log);
        let delete = |versions: &[u64]| versions.iter().copied().map(Version::new).collect::<Vec<_>>();
        let changes = |new: Snapshot, kept: &[KeptSnapshot]| {
            let SnapshotChanges { save, delete } = snapshot_changes(&new, kept);
            (save, delete)
        };
        // A newer one is there.
        assert_eq!(changes(at(2), &[kept(3, 1, true)]), (false, delete(&[])));
        assert_eq!(changes(at(2).with_spacing(2), &[kept(3, 1, true)]), (true, delete(&[])));
        // One of another history or another type is not newer.
        assert_eq!(changes(at(2), &[kept(3, 1, false), kept(9, 2, true)]), (true, delete(&[3, 9])));
        assert_eq!(changes(at(2), &[kept(2, 1, false)]), (true, delete(&[])));
        assert_eq!(changes(at(2), &[kept(2, 1, true)]), (false, delete(&[])));
    }
}
