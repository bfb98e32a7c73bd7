//! Fault injection: a broker that loses, duplicates and reorders messages, read models whose transactions fail before or after their
//! commit, and [`assert_survives`], which runs your projection between them.

pub(crate) mod models;
mod script;
mod survival;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{ready, try_join_all};
use futures::{FutureExt, TryFutureExt};

use crate::broker::frame::Frame;
use crate::broker::{Broker, Confirm, Consumer, Publisher, SubscriptionMode};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Position, ProjectionName};
use crate::testing::faulty::script::seeded;

pub use models::{CommitFault, FaultyModels};
pub use survival::assert_survives;

/// The fault that [`FaultyBroker`] applies to one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// No fault: the frame arrives.
    Deliver,
    /// The frame is confirmed but never arrives.
    Drop,
    /// The frame arrives twice.
    Double,
    /// The frame is held back and arrives after the next frame that is delivered.
    Late,
    /// A message that is not a frame arrives before the frame.
    Junk,
    /// The frame arrives, but its confirm is lost: the publisher gets a transient error.
    LoseConfirm,
    /// The connection breaks before the frame is sent: the frame does not arrive, and the publisher gets a transient error.
    Refuse,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 7] =
        [Self::Deliver, Self::Drop, Self::Double, Self::Late, Self::Junk, Self::LoseConfirm, Self::Refuse];

    /// Returns `count` random faults. The same seed always gives the same faults.
    pub fn seeded(seed: u64, count: usize) -> Vec<Self> {
        seeded(&Self::ALL, seed, count)
    }
}

/// A broker that applies a script of faults, one per frame. Frames beyond the end of the script arrive. Clones share the script.
///
/// # Examples
/// A worker applies each event once, although the broker loses, duplicates and reorders frames.
/// ```
/// # use retell::store::Append;
/// # use retell::testing::store::{events, stream};
/// # use retell::{AnyEvent, BoxError, CancellationToken, Envelope, EventStore, ExpectedVersion, Projection, async_trait};
/// # use retell::{MemoryBroker, MemoryReadModel, MemoryStore, Relay, Worker};
/// # struct Count;
/// # #[async_trait]
/// # impl Projection for Count {
/// #     const NAME: &'static str = "count";
/// #     type Event = AnyEvent;
/// #     type Tx = u64;
/// #     async fn apply(&self, count: &mut u64, _: Envelope<AnyEvent>) -> Result<(), BoxError> { *count += 1; Ok(()) }
/// # }
/// use retell::testing::faulty::{Fault, FaultyBroker};
///
/// # #[tokio::main]
/// # async fn main() -> retell::Result<()> {
/// # let (log, models, stop) = (MemoryStore::new(), MemoryReadModel::with_value(0), CancellationToken::new());
/// # log.append(Append::new(stream("a"), ExpectedVersion::Any, events(5))).await?;
/// let broker = FaultyBroker::new(MemoryBroker::new(), Fault::seeded(7, 100));
/// let worker = Worker::new(Count, log.clone(), models.clone()).with_broker(broker.clone());
/// let relay = Relay::new(log, broker);
/// let mut applied = worker.applied();
/// let (ran, relayed, ()) = tokio::join!(worker.run(stop.clone()), relay.run(stop.clone()), async {
///     applied.wait_for(|position| position.get() == 5).await.map(drop).ok();
///     stop.cancel();
/// });
/// ran.and(relayed)?;
/// assert_eq!(*models.value(), 5);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FaultyBroker<B> {
    inner: B,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    script: VecDeque<Fault>,
    held_back: Vec<Frame>,
}

impl<B: Broker> FaultyBroker<B> {
    /// Wraps `inner` and applies the faults of `script` to its frames.
    pub fn new(inner: B, script: impl IntoIterator<Item = Fault>) -> Self {
        let state = State { script: script.into_iter().collect(), held_back: Vec::new() };
        Self { inner, state: Arc::new(Mutex::new(state)) }
    }

    fn apply_next_fault(&self, frame: &Frame) -> (Vec<Frame>, Result<()>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = || Err(Error::new(ErrorKind::Transient("receive the broker's confirm".into())));
        let fault = state.script.pop_front().unwrap_or(Fault::Deliver);
        let (mut frames, confirm) = match fault {
            Fault::Deliver => (vec![frame.clone()], Ok(())),
            Fault::Drop => (Vec::new(), Ok(())),
            Fault::Double => (vec![frame.clone(), frame.clone()], Ok(())),
            Fault::Late => {
                state.held_back.push(frame.clone());
                return (Vec::new(), Ok(()));
            }
            Fault::Junk => (vec![junk(), frame.clone()], Ok(())),
            Fault::LoseConfirm => (vec![frame.clone()], lost()),
            Fault::Refuse => (Vec::new(), lost()),
        };
        frames.append(&mut state.held_back);
        (frames, confirm)
    }
}

fn junk() -> Frame {
    Frame::unchecked(Position::ZERO, Bytes::from_static(b"{\"hello\":\"world\"}"))
}

#[async_trait]
impl<B: Broker> Publisher for FaultyBroker<B> {
    async fn publish(&self, frames: &[Frame]) -> Result<Confirm> {
        let mut confirms = Vec::with_capacity(frames.len());
        for frame in frames {
            let (arriving, confirm) = self.apply_next_fault(frame);
            confirms.push(self.inner.publish(&arriving).await?);
            confirms.push(ready(confirm).boxed());
        }
        Ok(try_join_all(confirms).map_ok(drop).boxed())
    }

    async fn publishing_blocked(&self) -> Option<String> {
        self.inner.publishing_blocked().await
    }
}

#[async_trait]
impl<B: Broker> Broker for FaultyBroker<B> {
    async fn subscribe(&self, projection: &ProjectionName, mode: SubscriptionMode) -> Result<Box<dyn Consumer>> {
        self.inner.subscribe(projection, mode).await
    }
}
