//! Publishes a message that reaches no queue, to see whether the broker takes messages of ordinary size.

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection};
use tokio::time::{sleep, timeout};

use crate::broker::rabbitmq::connection::{ASK_EVERY, BLOCKED, size_limit};
use crate::broker::rabbitmq::options::RabbitMqOptions;
use crate::finding::{Finding, Severity};

/// The size of the message: four frames of the default size, which is room for events that fill a frame alone.
const BYTES: usize = 1024 * 1024;

/// The key of no queue.
const NOWHERE: &str = "retell.doctor.no-queue-has-this-name";

pub(super) async fn findings(connection: &Connection, options: &RabbitMqOptions) -> Option<Finding> {
    let published = async {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let (body, properties) = (vec![0; BYTES], BasicProperties::default());
        // The default exchange knows each queue by its name, and drops a message for any other.
        let publish =
            channel.basic_publish("".into(), NOWHERE.into(), BasicPublishOptions::default(), &body, properties);
        publish.await?.await?;
        channel.close(200, "done".into()).await
    };
    // The broker says so once a connection has published, and does not confirm.
    let blocked = async {
        while !connection.status().blocked() {
            sleep(ASK_EVERY).await;
        }
    };
    let answer = async {
        tokio::select! {
            published = published => Some(published),
            () = blocked => None,
        }
    };
    match timeout(options.timeout, answer).await {
        Ok(Some(Ok(()))) => None,
        Ok(Some(Err(error))) => Some(refused(&error)),
        Ok(None) => Some(
            Finding::new("publishers-blocked", Severity::Risk, "RabbitMQ has an alarm and reads no messages")
                .breaks("workers find new events by polling, and consumers outside this library wait")
                .remedy(BLOCKED),
        ),
        Err(_) => Some(Finding::unknown("largest message", format_args!("no confirm within {:?}", options.timeout))),
    }
}

fn refused(error: &lapin::Error) -> Finding {
    let Some(limit) = size_limit(error) else { return Finding::unknown("largest message", error) };
    Finding::new("message-size-small", Severity::Risk, format!("max_message_size is {limit} bytes"))
        .breaks("a larger event is announced without its payload, and workers read it from the store")
        .remedy("raise max_message_size in rabbitmq.conf")
}
