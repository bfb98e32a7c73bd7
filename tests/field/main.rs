//! Faults that users of event stores, brokers and drivers have reported. Each module tests one of them on every store that it concerns.
//! `src/docs/guarantees.md` names the tests below what they show.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::large_futures, reason = "a test may hold many workers in its future")]
#![allow(clippy::option_option, reason = "JSON cannot tell `None` from `Some(None)`, which is tested")]

#[path = "../support/mod.rs"]
mod counter;
mod counting;
#[path = "../support/databases.rs"]
mod databases;
mod notes;
#[path = "../support/pgbouncer.rs"]
mod pgbouncer;
#[path = "../support/programs.rs"]
mod programs;
mod proxy;
#[path = "../support/server.rs"]
mod server;
#[path = "../history/server.rs"]
mod servers;
mod sites;
mod stores;
mod unfit;

mod a1_panics;
mod a2_slow_handlers;
mod a3_stop;
mod a4_shared_connections;
mod a5_bare_workers;
mod a6_long_processes;
mod a7_changed_states;
mod audit;
mod b1_unencodable;
mod b2_equal;
mod b3_names;
mod b5_encoding;
mod b6_clock;
mod b6_retries;
mod blockers;
#[cfg(unix)]
mod c10_replaced_files;
mod c11_server_gone;
mod c12_time_travel;
mod c13_names_twice;
mod c1_history;
mod c2_silent_connections;
mod c3_ended_sessions;
mod c3_restarts;
mod c4_demoted;
mod c5_jit;
mod c6_pgbouncer;
mod c7_privileges;
mod c8_self_test;
mod c9_fatal_full;
mod d1_keys;
mod d2_generations;
mod d3_builder_order;
mod d4_logs;
mod d5_error_text;
mod deploys;
mod filters;
mod first_starts;
mod i5_watchdog;
mod paused;
