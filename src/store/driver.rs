//! Rules that every driver follows, for authors of stores.
//!
//! A program that only uses a store does not need this module. The guide [`writing_a_store`](crate::docs::guide::writing_a_store) shows
//! where each rule applies. The module follows semantic versioning like the rest of the crate: a new rule is a new item, and a store that
//! compiles keeps compiling within a major version. A release may add cases to the conformance suites, so run them after every update.

pub use crate::store::log::claims::{Claimed, claimed};
pub use crate::store::log::clock::recorded_time;
pub use crate::store::log::history::{snapshot_replaces, stream_changed, token_at};
pub use crate::store::log::judge::{Verdict, Written, judge, record};
pub use crate::store::log::lease::Lease;
pub use crate::store::log::mark::check_mark;
pub use crate::store::log::relay::{LONGEST_LEASE, check_fence, check_lease_name, check_relay_name};
pub use crate::store::log::replay::{replay_in_pages, snapshot_fits};
pub use crate::store::log::snapshots::{KeptSnapshot, SnapshotChanges, snapshot_changes};
pub use crate::store::model::checkpoint_row::Checkpoint;
pub use crate::store::model::deadlines::parts as deadline_parts;
pub use crate::store::model::interventions::check_pausable;
pub use crate::store::model::processors::check_changes;
pub use crate::store::model::progress::{
    Row as ProgressRow, changes, in_aggregate_order, in_key_order, in_log_order, progress_of,
};
pub use crate::store::model::views::{Changes, Entry, GenerationStatus, still_live};
pub use crate::store::model::work::of_work;
