//! Publishes messages and waits for their confirms.

use std::pin::pin;
use std::sync::Arc;

use futures::FutureExt;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use tokio::time::timeout;

use crate::broker::rabbitmq::connection::Link;
use crate::error::{Error, ErrorKind, Result};

/// Bytes that may be handed to a connection before the caller waits for them to be written. The connection copies them and sends them even
/// if the caller is gone, so this bounds how much it can hold.
const UNWRITTEN_BYTES: usize = 256 * 1024;

/// A message to be published.
pub(super) struct Message<'m> {
    pub(super) key: &'m str,
    pub(super) body: &'m [u8],
    pub(super) properties: BasicProperties,
    pub(super) options: BasicPublishOptions,
}

impl Link {
    /// Sends `messages` to `exchange`, in order.
    pub(super) async fn send<'m>(
        self: &Arc<Self>,
        exchange: &str,
        messages: impl Iterator<Item = Message<'m>> + Send,
    ) -> Result<Sent> {
        let channel = self.channel().await?;
        let sent = self.answered(exchange, send(&channel, exchange, messages)).await;
        let sent = self.forget_after(sent).await;
        sent.map(|confirms| Sent { link: self.clone(), exchange: exchange.to_owned(), confirms })
    }

    /// Sends `message` to `exchange` and waits until the broker has confirmed it. Returns an error if the broker blocks publishers. It takes the
    /// message when it unblocks them, so the message may arrive twice.
    pub(super) async fn deliver(self: &Arc<Self>, exchange: &str, message: Message<'_>) -> Result<()> {
        tokio::select! {
            confirmed = async { self.send(exchange, [message].into_iter()).await?.confirmed(|_| "the dead letter".into()).await } => {
                confirmed.map(drop)
            }
            blocked = self.until_blocked() => Err(blocked),
        }
    }

    /// Waits for the broker. A broker that is low on memory or disk tells its publishers to wait; that is no failure, and a new connection
    /// would only send everything again.
    async fn answered<T>(&self, exchange: &str, answer: impl Future<Output = lapin::Result<T>>) -> Result<T> {
        let mut answer = pin!(answer);
        loop {
            match timeout(self.timeout(), answer.as_mut()).await {
                Ok(answer) => return answer.map_err(|error| self.failed_to_publish(exchange, error)),
                Err(_) if self.is_blocked() => {}
                Err(elapsed) => {
                    let attempt = format!(
                        "publish to exchange {exchange}: RabbitMQ did not answer within {:?}; look for a queue without a leader",
                        self.timeout()
                    );
                    return Err(Error::with_source(ErrorKind::Transient(attempt), elapsed));
                }
            }
        }
    }

    /// Drops the connection after a failure.
    async fn forget_after<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.forget().await;
        }
        result
    }
}

/// Messages that the broker has not confirmed yet.
#[must_use = "a message is safe only after the broker has confirmed it"]
pub(super) struct Sent {
    link: Arc<Link>,
    exchange: String,
    confirms: Vec<PublisherConfirm>,
}

impl Sent {
    /// Waits until the broker has confirmed every message. Returns how many of them reached no queue. `place` names a message by its number.
    pub(super) async fn confirmed(self, place: impl FnOnce(usize) -> String + Send) -> Result<u64> {
        let exchange = self.exchange.clone();
        let Confirmed { refused, first_refused, unroutable } = self.answered().await?;
        let Some(first) = first_refused else { return Ok(unroutable) };
        let problem = format!(
            "publish to exchange {exchange}: RabbitMQ refused {refused} messages, the first of them {}: a queue that it is routed to is full \
             (overflow reject-publish) or has lost its replicas; consume from the queue, raise its max-length, or unbind it",
            place(first)
        );
        Err(ErrorKind::Transient(problem).into())
    }

    /// Waits for the broker's answer to every message. Returns how many of them a queue has refused, as a full queue with
    /// `overflow: reject-publish` does.
    pub(super) async fn refused(self) -> Result<u64> {
        self.answered().await.map(|confirmed| confirmed.refused)
    }

    async fn answered(self) -> Result<Confirmed> {
        let answered = self.link.answered(&self.exchange, confirmed(self.confirms)).await;
        self.link.forget_after(answered).await
    }
}

async fn send<'m>(
    channel: &Channel,
    exchange: &str,
    messages: impl Iterator<Item = Message<'m>>,
) -> lapin::Result<Vec<PublisherConfirm>> {
    let (mut confirms, mut handed_over, mut unwritten) = (Vec::new(), Vec::new(), 0);
    for Message { key, body, properties, options } in messages {
        let mut publish = Box::pin(channel.basic_publish(exchange.into(), key.into(), options, body, properties));
        unwritten += body.len();
        // The first poll hands the message to the connection's thread, which fixes the order. Waiting until a message is written costs a
        // turn of that thread and a packet, so it is not done for each message. Messages are written in order: once one is written, so are
        // all before it.
        let written =
            if unwritten < UNWRITTEN_BYTES { publish.as_mut().now_or_never() } else { Some(publish.as_mut().await) };
        let Some(confirm) = written else {
            handed_over.push(publish);
            continue;
        };
        for publish in handed_over.drain(..) {
            confirms.push(publish.await?);
        }
        confirms.push(confirm?);
        unwritten = 0;
    }
    for publish in handed_over {
        confirms.push(publish.await?);
    }
    Ok(confirms)
}

/// The broker's answers to a batch of messages.
#[derive(Debug, Default)]
struct Confirmed {
    /// Messages that a queue did not take, although other queues may have them.
    refused: u64,
    /// The number of the first of them, counted from 0.
    first_refused: Option<usize>,
    unroutable: u64,
}

async fn confirmed(confirms: Vec<PublisherConfirm>) -> lapin::Result<Confirmed> {
    let mut confirmed = Confirmed::default();
    for (number, confirm) in confirms.into_iter().enumerate() {
        if let Confirmation::Ack(returned) = confirm.await? {
            confirmed.unroutable += u64::from(returned.is_some());
        } else {
            confirmed.refused += 1;
            confirmed.first_refused.get_or_insert(number);
        }
    }
    Ok(confirmed)
}
