//! What a worker waits for: messages of the broker's, the log's signal, and time.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, pending};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Consumer, Consumption, Delivery, DeliveryTag};
use crate::error::{Error, Result};
use crate::id::{Position, ProjectionName};

/// A worker's way to the broker, which may be away at any time.
pub(super) struct Feed {
    broker: Option<Arc<dyn Broker>>,
    projection: ProjectionName,
    consumption: Consumption,
    gather: Duration,
    /// On the way to a consumer. It runs beside everything else: a broker that does not answer must not hold up the store.
    subscribing: Option<Subscribing>,
    consumer: Option<Box<dyn Consumer>>,
    /// Whether there ever was one.
    has_consumed: bool,
    grown: watch::Receiver<Position>,
    stop: CancellationToken,
}

type Subscribing = BoxFuture<'static, Result<Box<dyn Consumer>>>;

/// What a worker has to do next.
pub(super) enum Next {
    Messages(Vec<Delivery>),
    /// The broker has come or gone: the store knows what was missed.
    CatchUp,
    Sweep,
    Nothing,
}

impl Feed {
    pub(super) fn new(
        broker: Option<Arc<dyn Broker>>,
        projection: ProjectionName,
        consumption: Consumption,
        gather: Duration,
        grown: watch::Receiver<Position>,
        stop: CancellationToken,
    ) -> Self {
        let (subscribing, consumer, has_consumed) = (None, None, false);
        Self { broker, projection, consumption, gather, subscribing, consumer, has_consumed, grown, stop }
    }

    /// Sets out for the broker, unless it is there or on its way.
    pub(super) fn subscribe(&mut self) {
        if let Some(broker) = self.broker.clone()
            && self.consumer.is_none()
            && self.subscribing.is_none()
        {
            let (projection, consumption) = (self.projection.clone(), self.consumption);
            self.subscribing = Some(async move { broker.subscribe(&projection, consumption).await }.boxed());
        }
    }

    /// Waits for whatever comes first; at most so many messages, and no longer than `rest`.
    pub(super) async fn next(&mut self, limit: usize, rest: Duration) -> Result<Next> {
        let has_broker = self.consumer.is_some();
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Ok(Next::Nothing),
            received = next(self.consumer.as_mut(), limit), if has_broker => {
                let Ok(deliveries) = received else {
                    // The broker is gone; the store is not. Until it is back, every sweep tries again.
                    self.consumer = None;
                    return Ok(Next::CatchUp);
                };
                Ok(Next::Messages(deliveries))
            }
            subscribed = subscribed(self.subscribing.as_mut()) => {
                self.subscribing = None;
                match subscribed {
                    Ok(consumer) => {
                        (self.consumer, self.has_consumed) = (Some(consumer), true);
                        // What was published before there was a queue.
                        Ok(Next::CatchUp)
                    }
                    // A set-up that is refused from the start is a mistake. Later, whatever is wrong with the broker must not stop the
                    // projection.
                    Err(error) if !error.is_transient() && !self.has_consumed => Err(error),
                    Err(_) => Ok(Next::Nothing),
                }
            }
            Ok(()) = self.grown.changed(), if !has_broker => {
                self.subscribe();
                Ok(Next::Sweep)
            }
            () = tokio::time::sleep(rest) => {
                self.subscribe();
                Ok(Next::Sweep)
            }
        }
    }

    /// Adds what else comes within a moment: one transaction for many small messages. `room` says of what has come how many more may.
    pub(super) async fn gather(
        &mut self,
        mut deliveries: Vec<Delivery>,
        mut room: impl FnMut(&[Delivery]) -> usize,
    ) -> Vec<Delivery> {
        let end = Instant::now() + self.gather;
        let mut left = room(&deliveries);
        while left > 0 {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                more = next(self.consumer.as_mut(), left) => {
                    let Ok(more) = more else {
                        self.consumer = None;
                        break;
                    };
                    left = room(&more);
                    deliveries.extend(more);
                }
                () = tokio::time::sleep_until(end) => break,
            }
        }
        deliveries
    }

    pub(super) async fn reject(&mut self, delivery: Delivery, junk: &Error) {
        if let Some(consumer) = &mut self.consumer
            && consumer.reject(delivery, &junk.to_string()).await.is_err()
        {
            self.consumer = None;
        }
    }

    /// A lost acknowledgement brings the messages again, and they are dropped.
    pub(super) async fn acknowledge(&mut self, tag: DeliveryTag) {
        if let Some(consumer) = &mut self.consumer
            && consumer.ack_through(tag).await.is_err()
        {
            self.consumer = None;
        }
    }

    /// Gives back what is not acknowledged. The next sweep subscribes again.
    pub(super) fn leave(&mut self) {
        self.consumer = None;
    }
}

async fn subscribed(subscribing: Option<&mut Subscribing>) -> Result<Box<dyn Consumer>> {
    match subscribing {
        Some(subscribing) => subscribing.await,
        None => pending().await,
    }
}

async fn next(consumer: Option<&mut Box<dyn Consumer>>, limit: usize) -> Result<Vec<Delivery>> {
    match consumer {
        Some(consumer) => consumer.next(limit).await,
        None => pending().await,
    }
}
