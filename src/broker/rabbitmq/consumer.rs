//! Receives messages from the queue of one projection.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicPublishOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use tokio::time::timeout;

use crate::broker::rabbitmq::connection::Link;
use crate::broker::rabbitmq::options::{PERSISTENT, RabbitMqOptions, UNREADABLE_TYPE};
use crate::broker::rabbitmq::publish::Message;
use crate::broker::{Consumer, Delivery, DeliveryTag};
use crate::error::{Error, ErrorKind, Result};

/// The reasons for which RabbitMQ cancels a consumer.
const CANCELED: &str =
    "RabbitMQ has canceled the consumer, because the worker exceeded the consumer timeout or the queue was deleted";

/// A consumer on its own channel. Dropping it closes the channel, and the broker redelivers the unacknowledged messages.
#[derive(Debug)]
pub(super) struct RabbitMqConsumer {
    channel: Channel,
    messages: lapin::Consumer,
    /// Tags that are neither acknowledged nor rejected. The broker closes the channel if it gets an acknowledgement for any other tag.
    unacknowledged: VecDeque<DeliveryTag>,
    /// The error that ended `messages`, until a call returns it. `messages` tells its end only once, and waits without end afterwards.
    ended: Option<Error>,
    queue: String,
    options: Arc<RabbitMqOptions>,
    dead_letters: Arc<Link>,
}

impl RabbitMqConsumer {
    pub(super) fn new(
        channel: Channel,
        messages: lapin::Consumer,
        queue: String,
        options: Arc<RabbitMqOptions>,
        dead_letters: Arc<Link>,
    ) -> Self {
        let (unacknowledged, ended) = (VecDeque::new(), None);
        Self { channel, messages, unacknowledged, ended, queue, options, dead_letters }
    }

    /// Converts a message. `None` means that the broker has canceled the consumer, or that the connection was closed in order.
    fn delivery(&self, message: Option<lapin::Result<lapin::message::Delivery>>) -> Result<Delivery> {
        let attempt = || ErrorKind::Transient(format!("receive from {}", self.queue));
        // Every error is reported as transient: subscribing again shows whether it is permanent.
        let message = message
            .ok_or_else(|| {
                let is_canceled = self.channel.status().connected();
                Error::with_source(attempt(), if is_canceled { CANCELED } else { "the connection was closed" })
            })?
            .map_err(|error| Error::with_source(attempt(), error))?;
        Ok(Delivery::new(DeliveryTag::new(message.delivery_tag), message.data.into()))
    }

    /// Acknowledges. After a failure, returns the error that has closed the channel.
    async fn acknowledge(&mut self, tag: DeliveryTag, options: BasicAckOptions) -> Result<()> {
        let Err(error) = self.channel.basic_ack(tag.get(), options).await else { return Ok(()) };
        if self.ended.is_none() {
            self.ended = timeout(self.options.timeout, self.end()).await.ok();
        }
        Err(self.ended.take().unwrap_or_else(|| Error::with_source(ErrorKind::Transient("acknowledge".into()), error)))
    }

    /// Passes over the remaining messages of a closed channel, which the broker delivers again, and returns the error that has closed it.
    async fn end(&mut self) -> Error {
        loop {
            let message = self.messages.next().await;
            if let Err(error) = self.delivery(message) {
                return error;
            }
        }
    }
}

#[async_trait]
impl Consumer for RabbitMqConsumer {
    async fn next(&mut self, limit: usize) -> Result<Vec<Delivery>> {
        if let Some(error) = self.ended.take() {
            return Err(error);
        }
        let first = self.messages.next().await;
        let mut deliveries = vec![self.delivery(first)?];
        // Takes only messages that are already here. From here on the call does not wait, so it cannot be cancelled half-way.
        while deliveries.len() < limit
            && let Some(message) = self.messages.next().now_or_never()
        {
            match self.delivery(message) {
                Ok(delivery) => deliveries.push(delivery),
                Err(error) => {
                    self.ended = Some(error);
                    break;
                }
            }
        }
        self.unacknowledged.extend(deliveries.iter().map(|delivery| delivery.tag));
        Ok(deliveries)
    }

    async fn ack_through(&mut self, tag: DeliveryTag) -> Result<()> {
        let count = self.unacknowledged.partition_point(|unacknowledged| *unacknowledged <= tag);
        let last = self.unacknowledged.drain(..count).next_back();
        match last {
            Some(last) => self.acknowledge(last, BasicAckOptions { multiple: true }).await,
            None => Ok(()),
        }
    }

    /// Publishes a copy with the reason to the dead-letter exchange and acknowledges the message afterwards. A crash in between duplicates
    /// the dead letter.
    async fn reject(&mut self, delivery: Delivery, reason: &str) -> Result<()> {
        if let Some(exchange) = &self.options.topology.dead_letter_exchange {
            let mut headers = FieldTable::default();
            headers.insert("reason".into(), AMQPValue::LongString(reason.into()));
            headers.insert("queue".into(), AMQPValue::LongString(self.queue.as_str().into()));
            let properties = BasicProperties::default().with_content_type(UNREADABLE_TYPE.into());
            let properties = properties.with_delivery_mode(PERSISTENT).with_headers(headers);
            let options = BasicPublishOptions::default();
            let letter = Message { key: "", body: &delivery.body, properties, options };
            self.dead_letters.deliver(&exchange.name, letter).await?;
        }
        self.unacknowledged.retain(|unacknowledged| *unacknowledged != delivery.tag);
        self.acknowledge(delivery.tag, BasicAckOptions::default()).await
    }
}
