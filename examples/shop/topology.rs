//! What stands on RabbitMQ: beside the queues of our own consumers one for each kind of event, for consumers that are not ours.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use retell::broker::rabbitmq::topology::{Channel, Topology};

use crate::run::Failure;

/// The shop's channels, and the events that each gets. All are durable, and keep a million messages for 7 days.
const CHANNELS: [(&str, &str); 5] = [
    ("user.events", "user.*"),
    ("order.events", "order.*"),
    ("payment.events", "payment.*"),
    ("inventory.events", "inventory.*"),
    ("all.events", "#"),
];

/// What the file says, or the shop's own.
pub fn read(file: Option<&Path>) -> Result<Topology, Failure> {
    let Some(path) = file else { return Ok(of_the_shop()) };
    let failed = || format!("read the topology in {}", path.display());
    let file = File::open(path).map_err(|error| Failure::of(failed(), error))?;
    serde_json::from_reader(BufReader::new(file)).map_err(|error| Failure::of(failed(), error))
}

/// Single events go to `event.exchange`.
fn of_the_shop() -> Topology {
    let channels = CHANNELS.into_iter().map(|(queue, binding)| Channel::new(queue, [binding]));
    channels.fold(Topology::new(), Topology::with_channel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shops_channels_are_those_that_others_declare_by_hand() {
        let topology = of_the_shop();
        assert_eq!((topology.event_exchange.name.as_str(), topology.check().is_ok()), ("event.exchange", true));
        assert_eq!(topology.channels.len(), CHANNELS.len());
        for (channel, (queue, binding)) in topology.channels.iter().zip(CHANNELS) {
            assert_eq!((channel.queue.as_str(), channel.bindings.as_slice()), (queue, [binding.to_owned()].as_slice()));
            assert_eq!((channel.message_ttl_ms, channel.max_length), (604_800_000, 1_000_000));
        }
    }
}
