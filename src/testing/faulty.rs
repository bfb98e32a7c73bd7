//! What goes wrong, on purpose: a broker that breaks every promise a broker gives, read models whose transactions fail before or after
//! their commit, and a projection of yours between them.

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
use crate::broker::{Broker, Confirm, Consumer, Consumption, Publisher};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Position, ProjectionName};
use crate::testing::faulty::script::seeded;

pub use models::{CommitFault, FaultyModels};
pub use survival::assert_survives;

/// What happens to one frame on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing: it arrives.
    Deliver,
    /// It is confirmed and never arrives.
    Drop,
    /// It arrives twice.
    Double,
    /// It is held back, and arrives after the next frame that is not.
    Late,
    /// Something that is not a frame arrives in front of it.
    Junk,
    /// The confirm is lost: the publisher is told to try again, although it arrives.
    LoseConfirm,
    /// The connection is cut before it is sent, which shows in the confirm.
    Refuse,
}

impl Fault {
    /// Each of them.
    pub const ALL: [Self; 7] =
        [Self::Deliver, Self::Drop, Self::Double, Self::Late, Self::Junk, Self::LoseConfirm, Self::Refuse];

    /// So many of them at random, the same each time for the same seed.
    pub fn seeded(seed: u64, count: usize) -> Vec<Self> {
        seeded(&Self::ALL, seed, count)
    }
}

/// Does to each frame in turn what a script says; what comes after the script arrives. Cloning gives another handle.
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
    /// Breaks a broker by script.
    pub fn new(inner: B, script: impl IntoIterator<Item = Fault>) -> Self {
        let state = State { script: script.into_iter().collect(), held_back: Vec::new() };
        Self { inner, state: Arc::new(Mutex::new(state)) }
    }

    fn disturb(&self, frame: &Frame) -> (Vec<Frame>, Result<()>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = || Err(Error::new(ErrorKind::Transient("hear the broker's confirm".into())));
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
            let (arriving, confirm) = self.disturb(frame);
            confirms.push(self.inner.publish(&arriving).await?);
            confirms.push(ready(confirm).boxed());
        }
        Ok(try_join_all(confirms).map_ok(drop).boxed())
    }
}

#[async_trait]
impl<B: Broker> Broker for FaultyBroker<B> {
    async fn subscribe(&self, projection: &ProjectionName, consumption: Consumption) -> Result<Box<dyn Consumer>> {
        self.inner.subscribe(projection, consumption).await
    }
}
