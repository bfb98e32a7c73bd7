//! The unique values of a stream.

use crate::claim::HeldValue;
use crate::error::Result;
use crate::id::StreamId;
use crate::operate::report::List;
use crate::operate::stream::MAX_ROWS;
use crate::store::log::inspect::Inspect;

/// Returns the unique values that `stream` holds, at most `limit` and up to [`MAX_ROWS`], in the order of scope and value. Returns `None` if the
/// store does not list them.
///
/// # Examples
/// ```
/// use retell::operate;
/// use retell::prelude::*;
/// use retell::{Append, Claim, event::NewEvent};
///
/// #[derive(Debug, Event)]
/// #[event("user.registered")]
/// struct Registered;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (log, user) = (MemoryStore::new(), StreamId::parse("user", "1")?);
/// let append = Append::new(user.clone(), ExpectedVersion::NoStream, vec![NewEvent::new(&Registered)?]);
/// log.append(append.with_claims([Claim::reserve("user.email", "ada@example.org")?])).await?;
///
/// let held = operate::held_values(&log, &user, 100).await?.expect("this store lists them");
/// assert_eq!(held.items[0].value.as_str(), "ada@example.org");
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// A [read error](crate::Error#read-errors). A stream that holds nothing has an empty list.
pub async fn held_values<L>(log: &L, stream: &StreamId, limit: usize) -> Result<Option<List<HeldValue>>>
where
    L: Inspect + ?Sized,
{
    let limit = limit.min(MAX_ROWS);
    let held = log.held_values(stream, limit + 1).await?;
    Ok(held.map(|held| List::first(held, limit)))
}
