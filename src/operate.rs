//! Answers for operators, without the types of the domain: what is behind, what is parked, and what happened to one event.
//!
//! The functions read a log and read models through their ports, so a tool needs only the URL of the store. Those of the first table change
//! nothing, except for [`seal`](seal()), [`import`](import()) and [`set_back`].
//!
//! | function | answers |
//! |---|---|
//! | [`status`] | how far relays and processors are, who blocks commits, what they have parked, which generations are live, which deadlines are due |
//! | [`blocked`] | who blocks commits, also while the end of the log cannot be read |
//! | [`why`], [`why_each`] | why an event is in a read model, or is not |
//! | [`sizes`](sizes()) | how many rows each table has, and how many bytes |
//! | [`Observer`] | the numbers of `status`, as metrics |
//! | [`stream`](stream()) | the rows of a stream, with payloads as JSON |
//! | [`held_values`] | the unique values that a stream holds |
//! | [`chain`](chain()) | the events that followed from one request, as a tree of causes |
//! | [`audit`], [`audit_with_log`] | what operators and programs have changed, when and why |
//! | [`doctor`](doctor()) | what in the settings and the state of a server, a file or a broker would break a promise |
//! | [`verify`](verify()) | whether the log is whole; since the first [`seal`](seal()), also whether it is unchanged |
//! | [`export`](export()), [`import`](import()) | a copy of the log in a file, and from it into an empty log |
//! | [`after_restore`], [`set_back`] | which processors and relays are ahead of a restored log |
//!
//! | function | changes |
//! |---|---|
//! | [`pause`], [`retire`], [`resume`] | whether the workers of a processor apply anything, and whether it needs attention |
//! | [`skip_parked`], [`withdraw_skip`] | whether a processor applies one event that it fails on |
//! | [`retry_parked`] | when a parked aggregate is retried |
//! | [`forget_processor`] | which releases of a processor are registered |
//! | [`prune`](prune()) | deletes old rows of tables that only grow |
//!
//! Each change takes the operator and a reason, and writes its record in the same transaction.
//!
//! # Bounds
//! Each query finds its rows by an index and reads a limited number of them. The limits are [`MAX_BLOCKERS`], [`MAX_RELAYS`], [`MAX_PROCESSORS`], [`MAX_RELEASES`], [`MAX_PARKED`], [`MAX_SKIPPED`], [`MAX_DUE`], [`MAX_ENTRIES`] and [`MAX_ROWS`]. A list
//! beyond its limit is [`truncated`](List::truncated), and a number beyond its limit is [`at_least`](Count::at_least) the limit. The
//! registered releases of a processor and the registered shapes of a log are read whole: deploys add them, not events. So are the commits
//! without a position counted: there are none for long, unless a transaction blocks them.
//!
//! An answer is made of several reads, not of one snapshot: the log may grow between them.
//!
//! # JSON
//! Every answer serializes to JSON whose form is stable: names in `snake_case`, times in RFC 3339 and UTC, positions and versions as numbers,
//! and `null` for what is unknown. A minor release may add entries.

mod archive;
mod chain;
mod change;
mod doctor;
mod held;
pub(crate) mod observer;
mod places;
mod prune;
mod report;
mod rows;
mod seal;
mod sizes;
mod status;
mod stream;
mod verify;
mod why;

pub use crate::finding::{Examine, Finding, Severity};
pub use crate::store::log::fault::{Fault, FaultId};
pub use crate::store::size::{RowCount, StoreSize, TableSize};
pub use archive::counted::ArchivedRows;
pub use archive::{ArchiveOptions, Exported, Imported, export, import};
pub use chain::{Chain, ChainRef, Link, chain};
pub use change::{
    MAX_ENTRIES, audit, audit_with_log, forget_processor, pause, resume, retire, retry_parked, skip_parked,
    withdraw_skip,
};
pub use doctor::{Diagnosis, Examined, doctor};
pub use held::held_values;
pub use observer::{Observer, ObserverOptions};
pub use places::{Follower, JudgedPlace, Places, Verdict, after_restore, set_back};
pub use prune::pruned::{Holder, PruneOptions, PruneTarget, Pruned, PrunedPart};
pub use prune::{MIN_KEY_AGE, prunable, prune};
pub use report::{
    Blocked, Count, Deadlines, DueDeadline, Generations, Head, Lag, List, MAX_BLOCKERS, MAX_DUE, MAX_PARKED,
    MAX_PROCESSORS, MAX_REASON_BYTES, MAX_RELAYS, MAX_RELEASES, MAX_SKIPPED, Order, ParkedAggregate, ParkedCounts,
    Processor, RelayPlace, Report, ViewGeneration,
};
pub use seal::{SealOptions, Sealed, seal};
pub use sizes::{Sizes, sizes};
pub use status::{blocked, status};
pub use stream::{MAX_ROWS, Row, Rows, stream};
pub use verify::{CheckedSeals, Verified, VerifyOptions, verify};
pub use why::{Answer, EventRef, Located, Why, why, why_each};
