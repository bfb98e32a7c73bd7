//! Receives from the queue of one projection.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicPublishOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};

use crate::broker::rabbitmq::connection::Link;
use crate::broker::rabbitmq::options::{PERSISTENT, RabbitMqOptions};
use crate::broker::rabbitmq::publish::Message;
use crate::broker::{Consumer, Delivery, DeliveryTag};
use crate::error::{Error, ErrorKind, Result};

/// Dropping it closes its channel, and the broker delivers again what was not acknowledged.
#[derive(Debug)]
pub(super) struct RabbitMqConsumer {
    channel: Channel,
    messages: lapin::Consumer,
    /// Delivered, and neither acknowledged nor rejected. The broker closes the channel over a tag that it does not wait for.
    open: VecDeque<DeliveryTag>,
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
        Self { channel, messages, open: VecDeque::new(), queue, options, dead_letters }
    }

    /// A message, an error, or the end: the broker has taken the queue away, or ended the connection in order.
    fn delivery(&self, message: Option<lapin::Result<lapin::message::Delivery>>) -> Result<Delivery> {
        let attempt = || format!("receive from {}", self.queue);
        let message = message.ok_or_else(|| Error::new(ErrorKind::Transient(attempt())))?;
        // Whatever it is, subscribing again tells whether it stays.
        let transient = |error| Error::with_source(ErrorKind::Transient(attempt()), error);
        let message = message.map_err(transient)?;
        Ok(Delivery::new(DeliveryTag::new(message.delivery_tag), message.data.into()))
    }

    async fn acknowledge(&self, tag: DeliveryTag, options: BasicAckOptions) -> Result<()> {
        let acknowledged = self.channel.basic_ack(tag.get(), options).await;
        acknowledged.map_err(|error| Error::with_source(ErrorKind::Transient("acknowledge".into()), error))
    }
}

#[async_trait]
impl Consumer for RabbitMqConsumer {
    async fn next(&mut self, limit: usize) -> Result<Vec<Delivery>> {
        let first = self.messages.next().await;
        let mut deliveries = vec![self.delivery(first)?];
        // What is here already, without waiting: from here on the call cannot be dropped.
        while deliveries.len() < limit
            && let Some(message) = self.messages.next().now_or_never()
        {
            match self.delivery(message) {
                Ok(delivery) => deliveries.push(delivery),
                // The next call meets it again.
                Err(_) => break,
            }
        }
        self.open.extend(deliveries.iter().map(|delivery| delivery.tag));
        Ok(deliveries)
    }

    async fn ack_through(&mut self, tag: DeliveryTag) -> Result<()> {
        let count = self.open.partition_point(|open| *open <= tag);
        let last = self.open.drain(..count).next_back();
        match last {
            Some(last) => self.acknowledge(last, BasicAckOptions { multiple: true }).await,
            None => Ok(()),
        }
    }

    /// A copy goes to the dead letters with the reason, and only then is the message acknowledged: so it may arrive there twice.
    async fn reject(&mut self, delivery: Delivery, reason: &str) -> Result<()> {
        if let Some(exchange) = &self.options.topology.dead_letter_exchange {
            let mut headers = FieldTable::default();
            headers.insert("reason".into(), AMQPValue::LongString(reason.into()));
            headers.insert("queue".into(), AMQPValue::LongString(self.queue.as_str().into()));
            let properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers);
            let options = BasicPublishOptions::default();
            let letter = Message { key: "", body: &delivery.body, properties, options };
            self.dead_letters.send(&exchange.name, [letter].into_iter()).await?.confirmed().await?;
        }
        self.open.retain(|open| *open != delivery.tag);
        self.acknowledge(delivery.tag, BasicAckOptions::default()).await
    }
}
