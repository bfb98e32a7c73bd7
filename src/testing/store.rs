//! The conformance suites of [`EventStore`] and [`RelayStore`](crate::store::RelayStore): one function per case, each on a fresh and empty
//! store.
//!
//! [`store_conformance!`](crate::store_conformance) and [`relay_store_conformance!`](crate::relay_store_conformance) expand to one test per
//! case. The cases rely only on what the ports document: a store may assign positions some time after an append has returned.
//!
//! # Panics
//! Every case panics if the store breaks the rule in the case's name.
#![expect(clippy::missing_panics_doc, reason = "documented once, above: every case may panic")]

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
mod history;
mod keys;
mod log;
mod names;
mod order;
mod relays;
mod replay;
mod shapes;
mod snapshots;

pub use append::*;
pub use claims::*;
pub use history::*;
pub use keys::*;
pub use log::*;
pub use names::*;
pub use order::*;
pub use relays::*;
pub use replay::*;
pub use shapes::*;
pub use snapshots::*;

/// Expands to one test per case, named after the case.
///
/// Awaiting the expression returns a fresh empty store and a guard that must live as long as it, such as a temporary directory.
/// The tests run on tokio: the calling crate depends on it with the features `macros` and `rt-multi-thread`.
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
            an_append_conflicts_exactly_when_its_expectation_fails,
            an_append_to_several_streams_returns_a_version_for_each,
            a_conflict_in_the_second_stream_writes_nothing,
            a_conflict_in_a_shared_commit_fails_no_other_append,
            one_of_racing_appends_at_one_version_wins,
            an_append_without_events_is_refused,
            an_append_that_names_a_stream_twice_is_refused,
            an_event_over_the_size_limit_is_refused,
            a_reserved_metadata_entry_is_refused,
            an_event_id_is_accepted_once,
            a_duplicate_event_in_a_shared_commit_fails_no_other_append,
            a_dropped_append_leaves_the_store_usable,
            a_closed_store_refuses_appends,
            a_repeated_key_returns_the_first_outcome_and_writes_nothing,
            a_key_used_for_other_streams_is_refused,
            a_key_used_for_another_request_is_refused,
            concurrent_appends_under_one_key_write_once,
            a_refused_append_does_not_consume_its_key,
            an_unknown_key_has_no_outcome,
            positions_are_contiguous_and_in_commit_order,
            versions_of_a_stream_are_contiguous_under_concurrent_appends,
            an_acknowledged_append_precedes_every_later_append,
            a_reader_never_sees_a_gap,
            recorded_times_never_decrease_along_a_stream,
            replay_returns_the_requested_versions_in_order,
            replay_up_to_a_time_includes_events_of_that_time,
            replay_of_an_unknown_stream_returns_nothing,
            streams_with_similar_names_are_distinct,
            text_that_looks_like_sql_is_stored_as_text,
            metadata_and_payloads_keep_every_character,
            names_are_kept_up_to_their_limit_and_refused_beyond_it,
            a_visitors_error_ends_the_replay_and_is_returned,
            a_long_stream_arrives_complete_and_in_order,
            a_dropped_replay_leaves_the_store_usable,
            a_matching_snapshot_replaces_the_events_up_to_it,
            a_snapshot_is_used_only_with_its_fingerprint,
            a_snapshot_beyond_the_requested_end_is_ignored,
            a_replay_up_to_a_time_uses_no_later_snapshot,
            an_older_snapshot_does_not_replace_a_newer_one,
            a_snapshot_of_another_fingerprint_replaces_the_old_one,
            an_append_requires_the_last_event_of_each_stream,
            an_append_to_another_history_fails_no_other_append,
            a_replay_after_another_event_is_refused,
            a_replay_passes_the_id_of_each_event,
            a_snapshot_of_an_event_not_in_the_log_is_ignored,
            a_token_of_another_event_has_no_position,
            pages_cover_the_log_exactly_once,
            a_page_has_exactly_the_events_that_pass_the_filter,
            only_the_last_filtered_page_may_be_short,
            a_page_reports_how_far_it_has_read,
            a_mark_of_another_history_is_refused,
            a_page_of_large_events_ends_when_it_is_full,
            large_events_of_a_stream_are_read_up_to_the_limit,
            a_page_of_any_query_reports_its_greatest_position,
            a_stream_is_read_whole_and_in_order,
            read_stream_returns_at_most_limit_events_after_a_version,
            the_newest_events_of_a_type_come_newest_first,
            each_event_type_of_the_log_is_found_once,
            events_recorded_after_a_time_come_in_log_order,
            an_event_is_found_by_its_id_and_by_its_position,
            a_chain_has_the_events_of_one_request,
            a_chain_is_read_in_pages_and_in_log_order,
            an_empty_log_has_nothing_to_read,
            new_events_are_signaled,
            one_of_fifty_concurrent_reservations_wins,
            a_released_value_can_be_reserved_by_another,
            a_holder_can_reserve_its_value_again,
            releasing_another_streams_value_does_nothing,
            values_are_swapped_within_one_append,
            the_last_of_several_claims_on_one_value_wins,
            an_append_whose_value_is_taken_writes_nothing,
            a_taken_value_in_a_shared_commit_fails_no_other_append,
            a_conflict_is_reported_before_a_taken_value,
            an_append_with_a_duplicate_event_id_reserves_nothing,
            a_repeated_append_ignores_the_current_holder_of_its_value,
            values_are_compared_byte_by_byte,
            an_append_that_claims_a_value_for_two_streams_is_refused,
            one_append_claims_a_thousand_values,
            appends_that_claim_overlapping_values_do_not_deadlock,
            a_value_has_one_holder_at_a_time_in_log_order,
            a_registered_shape_is_kept_as_it_was_first,
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

/// Expands to one test per case of the relay suite, named after the case. The expression is that of
/// [`store_conformance!`](crate::store_conformance).
///
/// # Examples
/// ```
/// use retell::store::memory::MemoryStore;
///
/// retell::relay_store_conformance!(async { (MemoryStore::new(), ()) });
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! relay_store_conformance {
    ($fresh:expr) => {
        $crate::relay_store_conformance! {
            @cases $fresh;
            a_relays_checkpoint_never_goes_backward,
            a_smaller_fence_cannot_move_the_checkpoint,
            a_relay_never_moves_to_a_lost_event,
            a_reset_relay_is_at_the_given_place_and_has_no_leader,
            a_relay_that_never_ran_is_an_error,
            a_listed_relay_has_its_place_and_its_leader,
            relay_and_lease_names_follow_the_rules_of_names,
            each_new_holder_of_a_lease_gets_a_greater_fence,
            a_holder_renews_its_lease_under_the_same_fence,
            an_expired_lease_can_be_acquired_by_another_holder,
            a_released_lease_is_free_immediately,
            one_of_sixteen_contenders_gets_the_lease,
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

/// Time limit for an operation that should complete soon.
const TIMEOUT: Duration = Duration::from_mins(5);

/// Returns the stream of the aggregate `id` of type `account`.
pub fn stream(id: &str) -> StreamId {
    stream_of("account", id)
}

fn stream_of(aggregate_type: &str, id: &str) -> StreamId {
    StreamId::parse(aggregate_type, id).expect("a test's stream has a valid name")
}

/// Returns a new event of type `account.noted` with `payload`.
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
        declared: None,
    }
}

/// Returns new events whose payloads are the numbers from 1 to `count`.
pub fn events(count: u64) -> Vec<NewEvent> {
    (1..=count).map(|number| event(number.to_string())).collect()
}

/// Waits until an append has a position, and returns the position of its last event.
pub async fn position_of(store: &dyn EventStore, appended: &Appended) -> Position {
    let poll = async {
        loop {
            match store.position_of(appended.token()).await.expect("the position of a commit can be read") {
                Some(position) => return position,
                None => sleep(Duration::from_millis(2)).await,
            }
        }
    };
    timeout(TIMEOUT, poll).await.expect("a commit gets its position soon")
}

/// Reads the whole log, page by page.
///
/// # Errors
/// A [read error](crate::Error#read-errors).
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

/// The snapshot and the events that a replay passed to its visitor.
#[derive(Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// The snapshot, if the replay used one.
    pub snapshot: Option<(Version, Vec<u8>)>,
    /// Version and payload of each event.
    pub events: Vec<(Version, Vec<u8>)>,
}

impl Replayed {
    /// Creates an expected result of a replay.
    pub fn new(snapshot: Option<(Version, Vec<u8>)>, events: Vec<(Version, Vec<u8>)>) -> Self {
        Self { snapshot, events }
    }
}

impl Replayed {
    /// Returns the versions of the events.
    pub fn versions(&self) -> Vec<u64> {
        self.events.iter().map(|(version, _)| version.get()).collect()
    }
}

impl Visitor for Replayed {
    fn snapshot(&mut self, version: Version, _: EventId, state: &[u8]) -> Result<()> {
        assert!(
            self.events.is_empty() && self.snapshot.is_none(),
            "a replay passes at most one snapshot, before its events"
        );
        self.snapshot = Some((version, state.to_vec()));
        Ok(())
    }

    fn event(&mut self, version: Version, _: EventId, event: StoredEvent<'_>) -> Result<()> {
        self.events.push((version, event.payload.to_vec()));
        Ok(())
    }
}

/// Replays a stream and returns everything that the visitor received.
///
/// # Errors
/// A [read error](crate::Error#read-errors).
pub async fn replayed(store: &dyn EventReader, stream: &StreamId, replay: Replay) -> Result<Replayed> {
    let mut seen = Replayed::default();
    store.replay(stream, replay, &mut seen).await?;
    Ok(seen)
}

/// Appends to one stream at any version, and waits for the position.
async fn written(store: &Store, stream: &StreamId, events: Vec<NewEvent>) -> Appended {
    let append = Append::new(stream.clone(), ExpectedVersion::Any, events);
    let appended = store.append(append).await.expect("an append that expects no version succeeds");
    assert_eq!(appended.outcome, Outcome::Written);
    position_of(&**store, &appended).await;
    appended
}

/// Returns the id of the event of `stream` at `version`.
pub async fn event_at(store: &dyn EventReader, stream: &StreamId, version: u64) -> EventId {
    let before = Version::new(version - 1);
    let events = store.read_stream(stream, before, 1).await.expect("the stream can be read");
    events.first().expect("the stream has this version").event.id
}

async fn log_of(store: &Store) -> Vec<RecordedEvent> {
    whole_log(&**store).await.expect("the log can be read")
}

async fn replay_of(store: &Store, stream: &StreamId, replay: Replay) -> Replayed {
    replayed(&**store, stream, replay).await.expect("the stream can be replayed")
}

/// Returns the kind of error with which the store refuses an append.
async fn refusal(store: &Store, append: Append) -> ErrorKind {
    store.append(append).await.expect_err("the append is refused").kind().clone()
}

/// Runs the appends concurrently and returns their results in the order of `appends`.
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
            include_str!("store/history.rs"),
            include_str!("store/keys.rs"),
            include_str!("store/log.rs"),
            include_str!("store/names.rs"),
            include_str!("store/order.rs"),
            include_str!("store/relays.rs"),
            include_str!("store/replay.rs"),
            include_str!("store/shapes.rs"),
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
