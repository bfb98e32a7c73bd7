//! The events a worker waits for: broker messages, the log's signal, and time.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, pending};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::frame::received::ReceivedFrame;
use crate::broker::{Broker, Consumer, Delivery, DeliveryTag, SubscriptionMode};
use crate::error::{Error, Result, reason};
use crate::id::{Position, ProjectionName};
use crate::status::{Reporter, Wait};
use crate::trace::span;
use crate::worker::options::WorkerOptions;

/// A worker's way to the broker, which may be unreachable at any time.
pub(super) struct Feed {
    broker: Option<Arc<dyn Broker>>,
    projection: ProjectionName,
    mode: SubscriptionMode,
    options: WorkerOptions,
    /// The attempt to subscribe. It runs concurrently with everything else: a broker that does not answer must not hold up the store.
    subscribing: Option<Subscribing>,
    consumer: Option<Box<dyn Consumer>>,
    /// Whether there ever was a consumer.
    has_consumed: bool,
    /// Whether the messages are left to other processes.
    is_away: bool,
    grown: watch::Receiver<Position>,
    reporter: Reporter,
    stop: CancellationToken,
}

type Subscribing = BoxFuture<'static, Result<Box<dyn Consumer>>>;

/// The next action of a worker.
pub(super) enum Next {
    Messages(Vec<Delivery>),
    /// The log has grown, or has what was missed while there was no broker, or it is time to look.
    ReadLog,
    Nothing,
}

impl Feed {
    pub(super) fn new(
        broker: Option<Arc<dyn Broker>>,
        projection: ProjectionName,
        mode: SubscriptionMode,
        options: WorkerOptions,
        grown: watch::Receiver<Position>,
        reporter: Reporter,
        stop: CancellationToken,
    ) -> Self {
        let (subscribing, consumer, has_consumed, is_away) = (None, None, false, false);
        Self { broker, projection, mode, options, subscribing, consumer, has_consumed, is_away, grown, reporter, stop }
    }

    /// Begins to subscribe, unless there is a consumer or one is on its way.
    pub(super) fn subscribe(&mut self) {
        if let Some(broker) = self.broker.clone()
            && self.consumer.is_none()
            && self.subscribing.is_none()
            && !self.is_away
        {
            let (projection, mode) = (self.projection.clone(), self.mode);
            self.subscribing = Some(async move { broker.subscribe(&projection, mode).await }.boxed());
        }
    }

    /// Waits for a batch of messages, the log's signal or `rest` to pass, whichever comes first.
    pub(super) async fn next(&mut self, rest: Duration) -> Result<Next> {
        let (has_broker, limit) = (self.consumer.is_some(), self.room(0));
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Ok(Next::Nothing),
            received = next(self.consumer.as_mut(), limit), if has_broker => {
                match received {
                    Ok(deliveries) => {
                        let deliveries = self.gather(deliveries).await;
                        span::received(self.projection.as_str(), deliveries.len());
                        Ok(Next::Messages(deliveries))
                    }
                    Err(error) => {
                        // The broker is gone; the store is not. Until it is back, every sweep tries again.
                        self.lose(&error);
                        Ok(Next::ReadLog)
                    }
                }
            }
            subscribed = subscribed(self.subscribing.as_mut()) => {
                self.subscribing = None;
                match subscribed {
                    Ok(consumer) => {
                        (self.consumer, self.has_consumed) = (Some(consumer), true);
                        self.reporter.done(Wait::Broker);
                        // Read events that were published before the queue existed.
                        Ok(Next::ReadLog)
                    }
                    // A set-up that is refused from the start is a mistake. Later, whatever is wrong with the broker must not stop the
                    // projection.
                    Err(error) if !error.is_transient() && !self.has_consumed => Err(error),
                    Err(error) => {
                        self.lose(&error);
                        Ok(Next::Nothing)
                    }
                }
            }
            Ok(()) = self.grown.changed(), if !has_broker => {
                self.subscribe();
                Ok(Next::ReadLog)
            }
            () = tokio::time::sleep(rest) => {
                self.subscribe();
                Ok(Next::ReadLog)
            }
        }
    }

    /// Adds the messages that arrive within the time to gather: one transaction for many small messages.
    async fn gather(&mut self, mut deliveries: Vec<Delivery>) -> Vec<Delivery> {
        let end = Instant::now() + self.options.gather;
        let (mut counted, mut events) = (0, 0);
        loop {
            if self.mode == SubscriptionMode::Competing {
                events += deliveries[counted..].iter().map(events_in).sum::<u64>();
                counted = deliveries.len();
            }
            let room = self.room(deliveries.len());
            // A batch is full at this number of events: the rest is for the other workers.
            if room == 0 || events >= self.options.batch_events as u64 {
                return deliveries;
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return deliveries,
                more = next(self.consumer.as_mut(), room) => {
                    match more {
                        Ok(more) => deliveries.extend(more),
                        Err(error) => {
                            self.lose(&error);
                            return deliveries;
                        }
                    }
                }
                () = tokio::time::sleep_until(end) => return deliveries,
            }
        }
    }

    /// Returns how many messages to take next into a batch of `taken` messages: one at a time from a queue that several workers share.
    fn room(&self, taken: usize) -> usize {
        let left = self.options.messages.saturating_sub(taken);
        if self.mode == SubscriptionMode::Competing { left.min(1) } else { left }
    }

    pub(super) async fn reject(&mut self, delivery: Delivery, junk: &Error) {
        self.reporter.saw(junk);
        if let Some(consumer) = &mut self.consumer
            && let Err(error) = consumer.reject(delivery, &format!("{junk:#}")).await
        {
            self.lose(&error);
        }
    }

    /// Acknowledges everything up to a message. If the acknowledgement is lost, the messages arrive again and are dropped.
    pub(super) async fn acknowledge(&mut self, tag: DeliveryTag) {
        if let Some(consumer) = &mut self.consumer
            && let Err(error) = consumer.ack_through(tag).await
        {
            self.lose(&error);
        }
    }

    /// Drops the consumer, if there is one, after the broker has failed. The next sweep subscribes again.
    fn lose(&mut self, error: &Error) {
        self.consumer = None;
        self.reporter.waits_after(Wait::Broker, reason(error));
    }

    /// Returns whether this worker may hold messages that are not acknowledged.
    pub(super) fn has_consumer(&self) -> bool {
        self.consumer.is_some()
    }

    /// Returns messages that are not acknowledged to the queue. The next sweep subscribes again.
    pub(super) fn leave(&mut self) {
        self.consumer = None;
    }

    /// Leaves the messages to other processes until [`come_back`](Self::come_back).
    pub(super) fn go_away(&mut self) {
        (self.consumer, self.subscribing, self.is_away) = (None, None, true);
    }

    /// Subscribes again, if the messages were left to other processes.
    pub(super) fn come_back(&mut self) {
        if std::mem::take(&mut self.is_away) {
            self.subscribe();
        }
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

fn events_in(delivery: &Delivery) -> u64 {
    ReceivedFrame::parse(delivery.body.clone()).map_or(0, |frame| frame.last().since(frame.first()) + 1)
}
