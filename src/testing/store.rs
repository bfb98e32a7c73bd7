//! What every [`EventStore`] must do: one function per case, each on a fresh and empty store.
//!
//! [`store_conformance!`](crate::store_conformance) makes a test of each of them. They rely on nothing but the ports' own words: a
//! store may give out positions some time after an append has returned.
//!
//! # Panics
//! Every case panics if the store breaks the rule in the case's name.
#![expect(clippy::missing_panics_doc, reason = "said once, above: every case may panic")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use crate::codec::Codec;
use crate::error::{ErrorKind, Result};
use crate::event::{Metadata, NewEvent, RecordedEvent, StoredEvent};
use crate::id::{EventId, EventType, ExpectedVersion, Position, StreamId, Version};
use crate::store::log::append::{Append, Appended, Outcome};
use crate::store::log::event_store::{EventStore, Snapshot};
use crate::store::log::query::Filter;
use crate::store::log::reader::{EventReader, EventReaderExt, Replay, Visitor};

mod append;
mod claims;
mod keys;
mod log;
mod names;
mod order;
mod relays;
mod replay;
mod snapshots;

pub use append::*;
pub use claims::*;
pub use keys::*;
pub use log::*;
pub use names::*;
pub use order::*;
pub use relays::*;
pub use replay::*;
pub use snapshots::*;

/// Makes a test of every case, by the case's name.
///
/// The expression gives, when awaited, a fresh empty store and whatever must live as long as it, such as a temporary directory.
/// The tests run on tokio, which the calling crate needs with `macros` and `rt-multi-thread`.
///
/// # Examples
/// ```
/// use retell::store::memory::MemoryStore;
///
/// retell::store_conformance!(async { (MemoryStore::new(), ()) });
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! store_conformance {
    ($fresh:expr) => {
        $crate::store_conformance! {
            @cases $fresh;
            appended_events_are_read_back_with_every_field,
            an_append_conflicts_exactly_when_its_expectation_is_not_met,
            an_append_to_several_streams_returns_a_version_for_each,
            a_conflict_in_the_second_stream_writes_nothing,
            a_conflict_in_a_shared_commit_fails_no_other_append,
            of_racing_appends_at_one_version_exactly_one_wins,
            an_append_without_events_is_refused,
            an_append_that_names_a_stream_twice_is_refused,
            an_event_over_the_size_limit_is_refused,
            a_reserved_metadata_entry_is_refused,
            an_event_id_is_accepted_once,
            a_duplicate_event_id_in_a_shared_commit_fails_no_other_append,
            a_dropped_append_leaves_the_store_usable,
            a_closed_store_refuses_appends,
            a_repeated_key_returns_the_first_outcome_and_writes_nothing,
            a_key_used_for_other_streams_is_refused,
            concurrent_appends_under_one_key_write_once,
            a_refused_append_does_not_consume_its_key,
            an_unknown_key_has_no_outcome,
            positions_are_contiguous_and_in_commit_order,
            versions_of_a_stream_are_contiguous_under_concurrent_appends,
            an_append_acknowledged_before_another_begins_stands_before_it,
            a_reader_never_meets_a_gap,
            recorded_times_never_decrease_along_a_stream,
            replay_hands_over_the_versions_asked_for_in_order,
            replay_ends_with_the_last_event_recorded_by_a_time,
            replay_of_an_unknown_stream_hands_over_nothing,
            streams_with_similar_names_are_distinct,
            text_that_looks_like_a_statement_is_only_text,
            metadata_and_payloads_keep_every_character,
            names_are_kept_up_to_their_limit_and_refused_beyond_it,
            a_visitors_error_ends_the_replay_and_is_returned,
            a_long_stream_arrives_complete_and_in_order,
            a_dropped_replay_leaves_the_store_usable,
            a_snapshot_that_fits_stands_for_the_events_before_it,
            a_snapshot_is_used_only_if_asked_for_by_its_fingerprint,
            a_snapshot_beyond_the_end_asked_for_is_ignored,
            a_snapshot_never_stands_for_the_state_at_a_time,
            an_older_snapshot_does_not_replace_a_newer_one,
            a_snapshot_of_another_fingerprint_replaces_the_old_one,
            pages_cover_the_log_exactly_once,
            a_page_holds_just_what_passes_the_filter,
            filtered_pages_are_full_to_the_last,
            a_page_says_how_far_it_has_looked,
            a_page_of_large_events_ends_when_it_is_full,
            large_events_of_a_stream_are_read_up_to_the_limit,
            a_page_of_any_query_names_its_greatest_position,
            a_stream_is_read_whole_and_in_order,
            at_most_so_many_events_of_a_stream_after_a_version_are_read,
            the_newest_events_of_a_type_come_newest_first,
            events_recorded_after_a_time_come_in_log_order,
            an_empty_log_has_nothing_to_read,
            growth_is_signalled,
            of_fifty_registrations_of_one_value_at_once_one_wins,
            a_released_value_can_be_reserved_by_another,
            a_value_reserved_again_by_its_holder_is_no_conflict,
            a_release_of_what_another_holds_does_nothing,
            values_are_swapped_within_one_append,
            of_several_claims_on_one_value_the_last_counts,
            an_append_whose_value_is_taken_writes_nothing,
            a_taken_value_in_a_shared_commit_fails_no_other_append,
            a_conflict_is_reported_before_a_taken_value,
            an_append_with_a_duplicate_event_id_reserves_nothing,
            a_repeated_append_returns_its_outcome_whoever_holds_the_value_now,
            values_are_compared_byte_by_byte,
            an_append_that_claims_a_value_for_two_streams_is_refused,
            one_append_claims_a_thousand_values,
            appends_that_want_the_same_values_crosswise_are_all_answered,
            in_log_order_a_value_has_one_holder_at_a_time,
        }
    };
    (@cases $fresh:expr; $($case:ident,)*) => {
        $(
            #[::tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let (store, _guard) = $fresh.await;
                let store: $crate::testing::store::Store = ::std::sync::Arc::new(store);
                $crate::testing::store::$case(store.clone()).await;
                store.close().await.expect("a store under test closes");
            }
        )*
    };
}

/// Makes a test of every case of what a relay keeps in a store, as [`store_conformance!`](crate::store_conformance) does.
#[macro_export]
macro_rules! relay_store_conformance {
    ($fresh:expr) => {
        $crate::relay_store_conformance! {
            @cases $fresh;
            a_relays_checkpoint_never_goes_backward,
            a_smaller_fence_cannot_move_the_checkpoint,
            relays_and_leases_have_names_like_all_others,
            a_lease_has_one_holder_and_a_larger_fence_for_the_next,
            a_holder_prolongs_its_lease_under_the_same_fence,
            a_lease_that_has_ended_is_taken_by_another,
            a_lease_given_back_is_free_at_once,
            of_sixteen_that_want_a_lease_at_once_one_gets_it,
        }
    };
    (@cases $fresh:expr; $($case:ident,)*) => {
        $(
            #[::tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let (store, _guard) = $fresh.await;
                $crate::testing::store::$case(::std::sync::Arc::new(store)).await;
            }
        )*
    };
}

/// The store under test, shared with the tasks of a case.
pub type Store = Arc<dyn EventStore>;

/// The longest a case waits for what must happen soon.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stream of aggregates of type `account`.
pub fn stream(id: &str) -> StreamId {
    stream_of("account", id)
}

fn stream_of(aggregate_type: &str, id: &str) -> StreamId {
    StreamId::parse(aggregate_type, id).expect("a test's stream has a valid name")
}

/// An event of type `account.noted` with this payload.
pub fn event(payload: impl Into<Bytes>) -> NewEvent {
    event_of("account.noted", payload)
}

fn event_of(event_type: &str, payload: impl Into<Bytes>) -> NewEvent {
    NewEvent {
        id: EventId::generate(),
        event_type: EventType::new(event_type).expect("a test's event type is valid"),
        schema_version: 1,
        codec: Codec::Json,
        payload: payload.into(),
        metadata: Metadata::default(),
    }
}

/// Events whose payloads are the numbers from 1 to `count`.
pub fn events(count: u64) -> Vec<NewEvent> {
    (1..=count).map(|number| event(number.to_string())).collect()
}

/// The position of an append's last event, as soon as it has one.
pub async fn position_of(store: &dyn EventStore, appended: &Appended) -> Position {
    let poll = async {
        loop {
            match store.position_of(appended.commit).await.expect("the position of a commit can be asked") {
                Some(position) => return position,
                None => sleep(Duration::from_millis(2)).await,
            }
        }
    };
    timeout(PATIENCE, poll).await.expect("a commit gets its position soon")
}

/// The whole log, read in pages.
///
/// # Errors
/// What reading met.
pub async fn whole_log(store: &dyn EventReader) -> Result<Vec<RecordedEvent>> {
    let mut log = Vec::new();
    let mut after = Position::ZERO;
    loop {
        let page = store.read_all(after, 100, &Filter::all()).await?;
        if page.through == after {
            return Ok(log);
        }
        after = page.through;
        log.extend(page.events);
    }
}

/// What a replay handed over.
#[derive(Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// The snapshot, if one came.
    pub snapshot: Option<(Version, Vec<u8>)>,
    /// Versions and payloads.
    pub events: Vec<(Version, Vec<u8>)>,
}

impl Replayed {
    /// Creates what a replay should hand over.
    pub fn new(snapshot: Option<(Version, Vec<u8>)>, events: Vec<(Version, Vec<u8>)>) -> Self {
        Self { snapshot, events }
    }
}

impl Replayed {
    /// The versions alone.
    pub fn versions(&self) -> Vec<u64> {
        self.events.iter().map(|(version, _)| version.get()).collect()
    }
}

impl Visitor for Replayed {
    fn snapshot(&mut self, version: Version, state: &[u8]) -> Result<()> {
        assert!(self.events.is_empty() && self.snapshot.is_none(), "a snapshot comes first, and once");
        self.snapshot = Some((version, state.to_vec()));
        Ok(())
    }

    fn event(&mut self, version: Version, event: StoredEvent<'_>) -> Result<()> {
        self.events.push((version, event.payload.to_vec()));
        Ok(())
    }
}

/// Replays a stream.
///
/// # Errors
/// What reading met.
pub async fn replayed(store: &dyn EventReader, stream: &StreamId, replay: Replay) -> Result<Replayed> {
    let mut seen = Replayed::default();
    store.replay(stream, replay, &mut seen).await?;
    Ok(seen)
}

/// Appends to one stream, whatever its version, and waits for the position.
async fn written(store: &Store, stream: &StreamId, events: Vec<NewEvent>) -> Appended {
    let append = Append::new(stream.clone(), ExpectedVersion::Any, events);
    let appended = store.append(append).await.expect("an append that expects nothing succeeds");
    assert_eq!(appended.outcome, Outcome::Written);
    position_of(&**store, &appended).await;
    appended
}

async fn log_of(store: &Store) -> Vec<RecordedEvent> {
    whole_log(&**store).await.expect("the log can be read")
}

async fn replay_of(store: &Store, stream: &StreamId, replay: Replay) -> Replayed {
    replayed(&**store, stream, replay).await.expect("the stream can be replayed")
}

/// Why an append was refused.
async fn refusal(store: &Store, append: Append) -> ErrorKind {
    store.append(append).await.expect_err("the append is refused").kind().clone()
}

/// Runs all of them at once and returns their outcomes in order.
async fn append_at_once(store: &Store, appends: Vec<Append>) -> Vec<Result<Appended>> {
    let tasks: Vec<_> = appends
        .into_iter()
        .map(|append| {
            let store = store.clone();
            tokio::spawn(async move { store.append(append).await })
        })
        .collect();
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.expect("an append does not panic"));
    }
    for appended in outcomes.iter().flatten() {
        position_of(&**store, appended).await;
    }
    outcomes
}

fn assert_contiguous(log: &[RecordedEvent]) {
    for (event, position) in log.iter().zip(1..) {
        assert_eq!(event.position, Position::new(position), "positions are 1, 2, 3 ..");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_macro_names_every_case() {
        let cases = [
            include_str!("store/append.rs"),
            include_str!("store/claims.rs"),
            include_str!("store/keys.rs"),
            include_str!("store/log.rs"),
            include_str!("store/names.rs"),
            include_str!("store/order.rs"),
            include_str!("store/relays.rs"),
            include_str!("store/replay.rs"),
            include_str!("store/snapshots.rs"),
        ];
        let names: Vec<_> = cases
            .iter()
            .flat_map(|source| source.split("\npub async fn ").skip(1))
            .filter_map(|rest| rest.split('(').next())
            .collect();
        assert!(names.len() > 40, "{names:?}");
        for name in names {
            assert!(include_str!("store.rs").contains(&format!("            {name},\n")), "{name} is in no test");
        }
    }
}
