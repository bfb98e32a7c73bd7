#!/usr/bin/env python3
"""Reads the shop's orders from RabbitMQ, knowing nothing of retell: Python 3 and pika 1.3.

    python3 -m venv venv && venv/bin/pip install "pika>=1.3,<1.4"
    venv/bin/python examples/foreign/consumer.py --broker amqp://guest:guest@localhost:5672/%2f

and beside it, before or after:

    cargo run --release --features rabbitmq --example shop -- --broker amqp://guest:guest@localhost:5672/%2f

Each event is one line: its position in the log, its type, its aggregate with the version, and its payload. An event can come twice, with
the same event_id and position. Ctrl-C ends it, or --count.
"""

import argparse
import json
import sys

import pika

# Whoever declares the channel says the same, or is refused: 7 days, a million messages.
ARGUMENTS = {"x-message-ttl": 604_800_000, "x-max-length": 1_000_000}

# Messages under way before the first is acknowledged.
PREFETCH = 10


class Unreadable(Exception):
    """A message that this program cannot read. It stays in the queue."""


def main():
    arguments = parse()
    connection = pika.BlockingConnection(pika.URLParameters(arguments.broker))
    channel = connection.channel()
    declare(channel, arguments)
    try:
        consume(channel, arguments)
    except Unreadable as problem:
        sys.exit(f"consumer: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        # What was not acknowledged goes back to the queue.
        connection.close()


def parse():
    parser = argparse.ArgumentParser(description="Prints the events of a channel, one a line.")
    parser.add_argument("--broker", metavar="URL", default="amqp://guest:guest@localhost:5672/%2f")
    parser.add_argument("--exchange", metavar="NAME", default="event.exchange")
    parser.add_argument("--queue", metavar="NAME", default="order.events")
    parser.add_argument("--binding", metavar="PATTERN", default="order.*", help="event types, such as order.* or #")
    parser.add_argument("--count", metavar="N", type=int, help="end after so many events")
    return parser.parse_args()


def declare(channel, arguments):
    """The same as the shop does: so it does not matter who comes first."""
    channel.exchange_declare(arguments.exchange, "topic", durable=True)
    channel.queue_declare(arguments.queue, durable=True, arguments=ARGUMENTS)
    channel.queue_bind(arguments.queue, arguments.exchange, arguments.binding)
    channel.basic_qos(prefetch_count=PREFETCH)


def consume(channel, arguments):
    # Told of nothing to read, it would wait for the first message.
    if arguments.count == 0:
        return
    for count, (method, properties, body) in enumerate(channel.consume(arguments.queue), start=1):
        print(line_of(properties, body), flush=True)
        # Only now: a program that ends in between gets it again.
        channel.basic_ack(method.delivery_tag)
        if count == arguments.count:
            return


def line_of(properties, body):
    """The event in a message, on one line."""
    message = f"message {properties.message_id}"
    if properties.content_encoding:
        raise Unreadable(
            f"{message} is compressed (content_encoding: {properties.content_encoding}), which this program does not read: "
            "have events announced uncompressed"
        )
    try:
        event = json.loads(body)
        aggregate = f"{event['aggregate_type']}/{event['aggregate_id']} v{event['version']}"
        payload = json.dumps(event["payload"], ensure_ascii=False)
        return f"{event['position']} {event['event_type']} {aggregate} {payload}"
    except (ValueError, TypeError, KeyError) as problem:
        raise Unreadable(f"{message} is no envelope of an event: {problem!r}") from problem


if __name__ == "__main__":
    main()
