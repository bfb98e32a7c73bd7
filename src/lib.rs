//! Event-sourced domains: state is *retold* from ordered, versioned events.

pub mod aggregate;
pub mod codec;
pub mod error;
pub mod event;
pub mod id;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;

#[doc(hidden)]
pub mod __private;

pub use aggregate::{Aggregate, Apply, Handle, SnapshotPolicy};
pub use codec::Codec;
pub use error::{BoxError, Error, ErrorKind, Result};
pub use event::{Envelope, Event};
#[cfg(feature = "macros")]
pub use retell_macros::{Aggregate, Event, EventUnion};
