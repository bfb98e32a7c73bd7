//! The exchanges and queues on RabbitMQ: the queues of the shop's consumers, and one for each kind of event, for consumers outside the
//! shop.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use retell::broker::rabbitmq::topology::{Channel, Topology};

use crate::run::Failure;

/// The shop's channels, and the events that each gets. All are durable and keep a million messages for 7 days.
const CHANNELS: [(&str, &str); 5] = [
    ("user.events", "user.*"),
    ("order.events", "order.*"),
    ("payment.events", "payment.*"),
    ("inventory.events", "inventory.*"),
    ("all.events", "#"),
];

/// Reads the topology from `file`, or returns the shop's own.
pub fn read(file: Option<&Path>) -> Result<Topology, Failure> {
    let Some(path) = file else { return Ok(shop_topology()) };
    let failed = || format!("read the topology in {}", path.display());
    let file = File::open(path).map_err(|error| Failure::of(failed(), error))?;
    serde_json::from_reader(BufReader::new(file)).map_err(|error| Failure::of(failed(), error))
}

/// Returns the shop's own topology. Single events go to `event.exchange`.
fn shop_topology() -> Topology {
    let channels = CHANNELS.into_iter().map(|(queue, binding)| Channel::new(queue, [binding]));
    channels.fold(Topology::new(), Topology::with_channel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_match_those_that_consumers_declare() {
        let topology = shop_topology();
        assert_eq!((topology.event_exchange.name.as_str(), topology.check().is_ok()), ("event.exchange", true));
        assert_eq!(topology.channels.len(), CHANNELS.len());
        for (channel, (queue, binding)) in topology.channels.iter().zip(CHANNELS) {
            assert_eq!((channel.queue.as_str(), channel.bindings.as_slice()), (queue, [binding.to_owned()].as_slice()));
            assert_eq!((channel.message_ttl_ms, channel.max_length), (604_800_000, 1_000_000));
        }
    }
}
