#![doc = include_str!("../README.md")]
//!
//! # Dependencies in the public API
//!
//! sqlx, rusqlite, chrono, uuid, bytes, futures, tokio and tokio-util appear in signatures. The root re-exports the parts that a program
//! needs ([`DateTime`], [`Uuid`], [`Bytes`], [`BoxFuture`], [`watch`], [`CancellationToken`], and the database libraries as a whole), so that
//! it can name a type without a dependency whose version must match. An incompatible release of one of them leads to an incompatible
//! release of this crate.
//!
//! # Types that can grow
//!
//! A minor release may add fields to structs and variants to enums, so they are `non_exhaustive`: a constructor makes a value, and a
//! pattern ends with `..`. The exceptions are enums whose every variant a store, a broker or a codec must handle, such as
//! [`ExpectedVersion`], [`UpTo`], [`Claim`] or [`ParkingChange`](store::ParkingChange). A new variant of these comes with a major release,
//! and the compiler shows each place that has to handle it.
#![cfg_attr(docsrs, feature(doc_cfg))]

// The derives write `::retell::..`, also in this crate's own examples and tests.
extern crate self as retell;

pub mod aggregate;
pub mod app;
mod backoff;
pub mod broker;
pub mod claim;
pub mod codec;
pub mod command;
pub mod error;
pub mod event;
mod finding;
mod grace;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "rabbitmq"))]
mod hosts;
pub mod id;
pub mod inline;
pub mod lifecycle;
pub mod metrics;
pub mod notice;
pub mod operate;
mod panics;
pub mod process;
pub mod projection;
mod pulse;
pub mod reaction;
pub mod rebuild;
pub mod registry;
pub mod relay;
pub mod repository;
pub mod shape;
pub mod shutdown;
pub mod status;
pub mod store;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
pub mod trace;
pub mod view;
pub mod worker;

#[doc(hidden)]
pub mod __private;

/// Documents one page of `src/docs`. A link in a page names a target such as `[0006]`. The page defines it as a relative path, for readers on
/// GitHub. `links.md` comes first and defines it as an item, for rustdoc: in Markdown the first definition counts.
macro_rules! page {
    ($name:ident, $file:literal) => {
        #[doc = include_str!("docs/links.md")]
        #[doc = include_str!($file)]
        pub mod $name {}
    };
}

/// Guides, guarantees, benchmarks, architecture, protocols and decision records.
pub mod docs {
    page!(architecture, "docs/architecture.md");
    page!(benchmarks, "docs/benchmarks.md");
    page!(guarantees, "docs/guarantees.md");

    /// Step-by-step guides, one for each task.
    pub mod guide {
        page!(getting_started, "docs/guide/getting-started.md");
        page!(events, "docs/guide/events.md");
        page!(evolution, "docs/guide/evolution.md");
        page!(commands, "docs/guide/commands.md");
        page!(projections_and_views, "docs/guide/projections-and-views.md");
        page!(reactions_and_processes, "docs/guide/reactions-and-processes.md");
        page!(unique_values, "docs/guide/unique-values.md");
        page!(testing, "docs/guide/testing.md");
        page!(operations, "docs/guide/operations.md");
        page!(rabbitmq, "docs/guide/rabbitmq.md");
        page!(writing_a_store, "docs/guide/writing-a-store.md");
    }

    /// How each database and RabbitMQ is used: locks, isolation levels, and what a reader may rely on.
    pub mod protocol {
        page!(mysql, "docs/protocol/mysql.md");
        page!(postgres, "docs/protocol/postgres.md");
        page!(rabbitmq, "docs/protocol/rabbitmq.md");
        page!(sqlite, "docs/protocol/sqlite.md");
    }

    /// Decision records: why things are as they are.
    pub mod decisions {
        page!(d0001_ids, "docs/decisions/0001-id-module.md");
        page!(d0002_sqlite, "docs/decisions/0002-sqlite-through-rusqlite.md");
        page!(d0003_upcasters, "docs/decisions/0003-upcasters-are-functions.md");
        page!(d0004_frames, "docs/decisions/0004-frames.md");
        page!(d0005_turns, "docs/decisions/0005-commands-take-turns.md");
        page!(d0006_lanes, "docs/decisions/0006-lanes-and-a-sequencer.md");
        page!(d0007_rabbitmq, "docs/decisions/0007-rabbitmq.md");
        page!(d0008_parking, "docs/decisions/0008-parked-aggregates.md");
        page!(d0009_order, "docs/decisions/0009-order-per-aggregate.md");
        page!(d0010_views, "docs/decisions/0010-views.md");
        page!(d0011_unique, "docs/decisions/0011-unique-values.md");
        page!(d0012_rebuild, "docs/decisions/0012-rebuild.md");
        page!(d0013_reactions, "docs/decisions/0013-reactions-and-inline.md");
        page!(d0014_processes, "docs/decisions/0014-processes.md");
        page!(d0015_connections, "docs/decisions/0015-connection-reuse.md");
        page!(d0016_less_work_per_event, "docs/decisions/0016-less-work-per-event.md");
        page!(d0017_one_schema, "docs/decisions/0017-one-schema.md");
        page!(d0018_panics, "docs/decisions/0018-panics-and-time-budgets.md");
        page!(d0019_connections, "docs/decisions/0019-connections.md");
        page!(d0020_self_test, "docs/decisions/0020-self-test.md");
        page!(d0021_history, "docs/decisions/0021-identity-of-history.md");
        page!(d0022_fingerprints, "docs/decisions/0022-fingerprints-of-requests.md");
        page!(d0023_limits, "docs/decisions/0023-limits-of-the-broker.md");
        page!(d0024_types, "docs/decisions/0024-code-without-types.md");
        page!(d0025_failover, "docs/decisions/0025-failover.md");
        page!(d0026_shapes, "docs/decisions/0026-shapes.md");
        page!(d0027_deploys, "docs/decisions/0027-deploys.md");
        page!(d0028_export, "docs/decisions/0028-export.md");
        page!(d0029_golden_payloads, "docs/decisions/0029-golden-payloads.md");
        page!(d0030_names_and_splits, "docs/decisions/0030-names-and-splits.md");
        page!(d0031_processors, "docs/decisions/0031-processors.md");
        page!(d0032_traces, "docs/decisions/0032-traces.md");
        page!(d0033_metrics, "docs/decisions/0033-metrics.md");
        page!(d0034_command_line, "docs/decisions/0034-command-line.md");
        page!(d0035_doctor_and_verify, "docs/decisions/0035-doctor-and-verify.md");
        page!(d0036_pause_and_skip, "docs/decisions/0036-pause-and-skip.md");
        page!(d0037_chains, "docs/decisions/0037-chains.md");
        page!(d0038_export_and_import, "docs/decisions/0038-export-and-import.md");
        page!(d0039_prune, "docs/decisions/0039-prune.md");
        page!(d0040_health_and_audit, "docs/decisions/0040-health-and-audit.md");
    }
}

pub use aggregate::{Aggregate, Apply, Handle, SnapshotPolicy};
pub use app::{App, Role, Running};
pub use claim::{Claim, HeldValue};
pub use codec::Codec;
pub use command::{CommandError, Context, Executed};
pub use error::{BoxError, Error, ErrorKind, Result};
pub use event::{AnyEvent, Envelope, Event, Metadata, NewEvent, RecordedEvent};
pub use id::mark::Mark;
pub use id::{
    AggregateId, AggregateType, ClaimScope, ClaimValue, CommitId, CorrelationId, EventId, EventType, ExpectedVersion,
    Fence, Generation, IdempotencyKey, InvalidName, Place, Position, ProjectionName, StreamId, Version, ViewKey,
};
pub use process::{CommandFailure, Effects, Process, ProcessManager};
pub use projection::Projection;
pub use reaction::{Reaction, StartFrom};
pub use rebuild::{Rebuild, RebuildOptions};
pub use relay::{Relay, RelayOptions};
pub use repository::{Loaded, Repository, RepositoryOptions, RetryPolicy};
#[cfg(feature = "macros")]
#[cfg_attr(docsrs, doc(cfg(feature = "macros")))]
pub use retell_macros::{Aggregate, Event, EventUnion, Shape, Value};
pub use shape::Shape;
pub use view::{Paging, RowPage, View, ViewProjection, Views};
pub use worker::{CaughtUp, ParkingOptions, Worker, WorkerOptions};

pub use broker::memory::MemoryBroker;
#[cfg(feature = "rabbitmq")]
#[cfg_attr(docsrs, doc(cfg(feature = "rabbitmq")))]
pub use broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
pub use broker::{Announcer, Broker, DeadLetters};
pub use store::memory::{MemoryReadModel, MemoryStore};
#[cfg(feature = "mysql")]
#[cfg_attr(docsrs, doc(cfg(feature = "mysql")))]
pub use store::mysql::{MySqlOptions, MySqlReadModel, MySqlStore};
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use store::postgres::{PostgresOptions, PostgresReadModel, PostgresStore};
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use store::sqlite::{SqliteOptions, SqliteReadModel, SqliteStore};
pub use store::{
    Append, Appended, DeadlineStore, EventReader, EventReaderExt, EventStore, EventStoreExt, Fields, Filter,
    InlineStore, Inspect, Outcome, Page, Parked, ParkedState, Parking, Query, ReadModel, RelayStore, Replay, Switch,
    Token, UpTo, ViewStore,
};

// Types of other crates that this crate's signatures name. Each is re-exported, so that an application can name it without a dependency of
// its own. An incompatible release of such a crate leads to an incompatible release of this one.
pub use async_trait::async_trait;
pub use bytes::Bytes;
pub use chrono::{DateTime, Utc};
pub use futures::future::BoxFuture;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use rusqlite;
#[cfg(any(feature = "postgres", feature = "mysql"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "mysql"))))]
pub use sqlx;
pub use tokio::sync::watch;
pub use tokio_util::sync::CancellationToken;
pub use tracing;
pub use uuid::Uuid;

/// The names that most programs need: `use retell::prelude::*;`.
///
/// It holds the traits to implement, the derives, the stores and what runs them. `Result` and `Error` are left out, so that they keep
/// their meaning in your module.
pub mod prelude {
    pub use crate::inline::inline;
    pub use crate::store::{Append, EventReader, EventReaderExt, EventStore, EventStoreExt, Fields, Filter};
    pub use crate::{
        Aggregate, AggregateId, AnyEvent, App, Apply, BoxError, BoxFuture, CancellationToken, Claim, CommandError,
        CommandFailure, Context, Effects, Envelope, Event, ExpectedVersion, Handle, InvalidName, MemoryBroker,
        MemoryReadModel, MemoryStore, Metadata, NewEvent, Paging, Position, Process, ProcessManager, Projection,
        Reaction, Rebuild, Relay, Repository, Shape, StartFrom, StreamId, Version, View, ViewProjection, Views, Worker,
        async_trait,
    };

    #[cfg(feature = "rabbitmq")]
    pub use crate::RabbitMqBroker;
    #[cfg(feature = "macros")]
    pub use crate::{EventUnion, Value};
    #[cfg(feature = "mysql")]
    pub use crate::{MySqlReadModel, MySqlStore};
    #[cfg(feature = "postgres")]
    pub use crate::{PostgresReadModel, PostgresStore};
    #[cfg(feature = "sqlite")]
    pub use crate::{SqliteReadModel, SqliteStore};
}
