//! Publishes messages, and waits for their confirms.

use std::sync::Arc;

use futures::FutureExt;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use tokio::time::{Instant, timeout_at};

use crate::broker::rabbitmq::connection::{Link, failed};
use crate::error::{Error, ErrorKind, Result};

/// Bytes handed to a connection before they are written, and a message. It keeps a copy of them, and sends them even if nobody waits for
/// it any more: so not a whole page.
const UNWRITTEN_BYTES: usize = 256 * 1024;

/// A message on its way out.
pub(super) struct Message<'m> {
    pub(super) key: &'m str,
    pub(super) body: &'m [u8],
    pub(super) properties: BasicProperties,
    pub(super) options: BasicPublishOptions,
}

impl Link {
    /// Sends messages, one behind the other.
    pub(super) async fn send<'m>(
        self: &Arc<Self>,
        exchange: &str,
        messages: impl Iterator<Item = Message<'m>> + Send,
    ) -> Result<Sent> {
        let channel = self.channel().await?;
        match self.within("publish", send(&channel, exchange, messages)).await {
            Ok(confirms) => Ok(Sent { link: self.clone(), confirms, until: Instant::now() + self.timeout() }),
            Err(error) => {
                self.forget().await;
                Err(error)
            }
        }
    }
}

/// Messages on their way to the broker.
#[must_use = "nothing is safe before the broker has confirmed it"]
pub(super) struct Sent {
    link: Arc<Link>,
    confirms: Vec<PublisherConfirm>,
    until: Instant,
}

impl Sent {
    /// Waits for the broker's confirm of each. Returns how many went to no queue.
    pub(super) async fn confirmed(self) -> Result<u64> {
        let confirmed = timeout_at(self.until, confirmed(self.confirms)).await;
        let confirmed = match confirmed {
            Ok(Ok(Confirmed { refused: 0, unroutable })) => return Ok(unroutable),
            Ok(Ok(Confirmed { refused, .. })) => ErrorKind::Transient(format!("publish: {refused} refused")).into(),
            Ok(Err(error)) => failed(error, "publish"),
            Err(elapsed) => Error::with_source(ErrorKind::Transient("publish".into()), elapsed),
        };
        self.link.forget().await;
        Err(confirmed)
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
        // The first poll hands the message to the connection's thread, so their order is ours. To wait until it is written is a turn of
        // that thread, and a packet: not for each message. They are written in order, so one that is says the same of those before.
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

/// The broker's confirms of one call's messages.
#[derive(Debug, Default)]
struct Confirmed {
    refused: u64,
    unroutable: u64,
}

async fn confirmed(confirms: Vec<PublisherConfirm>) -> lapin::Result<Confirmed> {
    let mut confirmed = Confirmed::default();
    for confirm in confirms {
        match confirm.await? {
            Confirmation::Ack(returned) => confirmed.unroutable += u64::from(returned.is_some()),
            _ => confirmed.refused += 1,
        }
    }
    Ok(confirmed)
}
