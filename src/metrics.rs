//! The metrics of a program, through the [`metrics`](https://docs.rs/metrics) facade: the program chooses the recorder.
//!
//! Without a recorder, a metric costs a test of a pointer. With one, it costs what the recorder needs: each handle is taken once, when a
//! store is opened, a repository or a broker is created, a relay or a worker starts, or an observer sees a processor for the first time.
//!
//! **Install the recorder before you open a store.** A handle that is taken before a recorder is installed never records anything.
//! Install it first in `main`, then call [`describe`], and start everything else after it. A relay and a worker take new handles at each
//! start.
//!
//! The gauges about the log, the processors and the relays come from an [`Observer`](crate::operate::Observer), which reads the same numbers
//! as [`operate::status`](crate::operate::status()). [`App::with_observer`](crate::App::with_observer) runs it as a task. If several processes
//! observe one log, each has the same gauges: take the maximum.
//!
//! # Labels
//! Labels have few values: names of processors, relays, aggregate types and event types, which are in the code, and never ids.
//!
//! | label | values |
//! |---|---|
//! | `store` | `memory`, `sqlite`, `postgres`, `mysql`, or the name that a store of your own [gives](crate::store::GroupCommit::with_name) |
//! | `outcome` of appends | `ok`, `conflict`, `taken`, `duplicate` (its idempotency key was used before), `refused`, `transient` |
//! | `outcome` of snapshots | `saved`, `failed`, `skipped` (too many were being written), `unreadable` |
//! | `outcome` of events | `ok`, `failed`: the events of a transaction whose handler failed, for each attempt |
//! | `outcome` of connections and observations | `ok`, `failed` |
//! | `source` | `cache` (only newer events were read), `snapshot`, `replay` |
//! | `reason` of parked aggregates | `handler`, `undecodable`, `state` (a stored state cannot be read) |
//! | `reason` of dropped messages | `known`, `unreadable` |
//! | `state` | a [state](crate::store::ProjectionState), or `history_changed`: the log does not have the event at the checkpoint |
//! | `connection` | `publishing`, `announcing`, `dead_letters`, `consuming` |
//! | `relay` | the relay's name; `local` if it has none |
//! | `log` | the name that the observer [gives](crate::operate::ObserverOptions::with_log) the log, `main` by default |
//!
//! Appends in a transaction of the caller (`append_in`, `append_with`) are not counted.
//!
//! # Metrics
//! | metric | kind | unit | labels | question |
//! |---|---|---|---|---|
//! | `retell_append_seconds` | histogram | seconds | `store` | How long does an append take, from the call to its outcome? |
//! | `retell_appends_total` | counter | appends | `store`, `outcome` | How do appends end: do writers conflict, is the database in trouble? |
//! | `retell_commit_appends` | histogram | appends | `store` | How many appends share a commit? |
//! | `retell_commit_events` | histogram | events | `store` | How many events do the appends of a commit have? |
//! | `retell_load_seconds` | histogram | seconds | `aggregate_type`, `source` | How long does it take to read an aggregate from the store? |
//! | `retell_load_events` | histogram | events | `aggregate_type`, `source` | How many events does a load replay: are there enough snapshots? |
//! | `retell_cache_hits_total` | counter | commands | `aggregate_type` | How many commands found their aggregate in memory? |
//! | `retell_snapshots_total` | counter | snapshots | `aggregate_type`, `outcome` | Are snapshots written, and can they be read? |
//! | `retell_schema_upcasts_total` | counter | events | `event_type`, `from` | Which older schema versions are still read? |
//! | `retell_apply_seconds` | histogram | seconds | `processor` | How long does the handler take for a batch? |
//! | `retell_applied_total` | counter | events | `processor`, `outcome` | How many events does a processor apply, and how many fail? |
//! | `retell_parkings_total` | counter | aggregates | `processor`, `reason` | Why are aggregates parked? |
//! | `retell_gate_drops_total` | counter | messages | `processor`, `reason` | How many messages of the broker bring nothing? |
//! | `retell_holes_healed_total` | counter | holes | `processor` | How often does the broker lose or reorder messages, so that a worker reads the store? |
//! | `retell_behind_deploy` | gauge | 0 or 1 | `processor` | Does the worker wait, because only a newer release can apply the next event? |
//! | `retell_frames_total` | counter | frames | `relay` | How many frames does a relay send? |
//! | `retell_frame_bytes` | histogram | bytes | `relay` | How large are the frames? |
//! | `retell_relayed_events_total` | counter | events | `relay` | How many events does a relay send, repetitions included? |
//! | `retell_unconfirmed` | gauge | pages | `relay` | Does the broker confirm as fast as the relay sends? |
//! | `retell_unroutable_total` | counter | events | `relay` | How many announced events did no queue receive? |
//! | `retell_reconnects_total` | counter | attempts | `connection`, `outcome` | Is the broker reachable? |
//! | `retell_task_failures_total` | counter | failures | `task` | Does a relay or a worker fail and restart? |
//! | `retell_head` | gauge | position | `log` | How many events does the log have? |
//! | `retell_unsequenced_commits` | gauge | commits | `log` | How many commits wait for their position? |
//! | `retell_unsequenced_age_seconds` | gauge | seconds | `log` | For how long has no commit got its position: does a transaction block all readers? |
//! | `retell_keys_rows` | gauge | rows | `log` | How many idempotency keys are kept: is it time to prune them? |
//! | `retell_inbox_rows` | gauge | rows | `log` | How many handled events do reactions remember? |
//! | `retell_lag_events` | gauge | events | `processor` | How many events is a processor behind the head? |
//! | `retell_lag_seconds` | gauge | seconds | `processor` | How old is what readers of the processor see? |
//! | `retell_parked` | gauge | aggregates | `processor` | How many aggregates are parked and retried? |
//! | `retell_dead` | gauge | aggregates | `processor` | How many aggregates wait for an operator? |
//! | `retell_parked_oldest_seconds` | gauge | seconds | `processor` | How old is the oldest event that could not be applied? |
//! | `retell_processor_state` | gauge | 0 or 1 | `processor`, `state` | Does the processor run, or was it paused and forgotten? |
//! | `retell_deadlines_due` | gauge | deadlines | `processor` | How many deadlines have passed without their step? |
//! | `retell_relay_lag_events` | gauge | events | `relay` | How many events has the broker not confirmed? |
//! | `retell_relay_lag_seconds` | gauge | seconds | `relay` | How old is the first event that the broker has not confirmed? |
//! | `retell_relay_leader` | gauge | 0 or 1 | `relay` | Does any process publish for the relay? |
//! | `retell_observations_total` | counter | observations | `log`, `outcome` | Can the gauges be trusted: do observations succeed? |
//! | `retell_observed_timestamp_seconds` | gauge | seconds since 1970 | `log` | When were the gauges read from the store? |

pub(crate) mod append;
#[cfg(feature = "rabbitmq")]
pub(crate) mod broker;
pub(crate) mod handles;
pub(crate) mod load;
pub(crate) mod names;
pub(crate) mod relay;
pub(crate) mod upcasts;
pub(crate) mod worker;

pub use handles::describe;
pub use names::*;
