//! The storage ports and their drivers. The store is the source of truth: an event that is not in the store has not happened.

pub mod driver;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod held;
pub(crate) mod log;
pub mod memory;
pub(crate) mod model;
#[cfg(feature = "mysql")]
#[cfg_attr(docsrs, doc(cfg(feature = "mysql")))]
pub mod mysql;
mod pointer;
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub mod postgres;
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) mod server;
pub(crate) mod size;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub mod sqlite;

pub use log::append::{Append, Appended, KeyedOutcome, Outcome, StreamAppend};
pub use log::archive::{Archive, ArchivedClaim, ArchivedCommit, ArchivedEvent, ArchivedKey, ClaimVisitor, Part, Parts};

pub use log::blocker::{Blocker, Hold};
pub use log::event_store::{EventStore, EventStoreExt, MAX_PAYLOAD_BYTES, Snapshot};
pub use log::fingerprint::Fingerprint;
pub use log::group_commit::{BatchAppend, GroupCommit};
pub use log::inline::{Inline, InlineStore};
pub use log::inspect::{Cursor, Inspect, LogRow};
pub use log::keys::KeyRow;
pub use log::query::{Filter, PAGE_BYTES, Page, Query, Select};
pub use log::reader::{EventReader, EventReaderExt, Replay, UpTo, Visitor};
pub use log::relay::{Leader, RelayStatus, RelayStore};
pub use log::seal::{Seal, SealDigest};
pub use log::shapes::RegisteredShape;
pub use log::stored_row::StoredRow;
pub use log::token::Token;
pub use model::checkpoint::{ProjectionState, ProjectionStatus};
pub use model::deadlines::{Deadline, DeadlineChange, DeadlineStore};
pub use model::interventions::{Action, AuditEntry, By, Intervention, Pause};
pub use model::listing::{HandledEvent, ProgressRow};
pub use model::parking::{Parked, ParkedState, Parking, ParkingChange, Step};
pub use model::processors::{ProcessorKind, RegisteredProcessor};
pub use model::progress::{Progress, Seen, Turn};
pub use model::pruning::{InboxPruning, ReactionStart};
pub use model::read_model::{ReadModel, Work};
pub use model::skipped::{SkipState, Skipped};
pub use model::views::{Fields, Switch, ViewId, ViewPage, ViewRow, ViewStore};
#[cfg(any(feature = "postgres", feature = "mysql"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "mysql"))))]
pub use server::health::{Health, OpenTransaction, OpenTransactions};
pub use size::{RowCount, StoreSize, TableSize};
