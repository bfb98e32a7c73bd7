#!/usr/bin/env python3
"""Reads the shop's orders from RabbitMQ without using retell. Needs Python 3 and pika 1.3.

    python3 -m venv venv && venv/bin/pip install "pika>=1.3,<1.4"
    venv/bin/python examples/foreign/consumer.py --broker amqp://guest:guest@localhost:5672/%2f

Run the shop as well, before or after starting this program:

    cargo run --release --features rabbitmq --example shop -- --broker amqp://guest:guest@localhost:5672/%2f

Each event is one line: its position in the log, its type, its aggregate with the version, and its payload. An event can arrive twice,
with the same event_id and position. The program ends on Ctrl-C, or after --count events.
"""

import argparse
import json
import sys

import pika

# Every declaration of the channel must have the same arguments, or RabbitMQ refuses it: 7 days, a million messages.
ARGUMENTS = {"x-message-ttl": 604_800_000, "x-max-length": 1_000_000}

# Maximum number of unacknowledged messages.
PREFETCH = 10


class Unreadable(Exception):
    """Raised for a message that this program cannot read. The message stays in the queue."""


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
        # RabbitMQ returns unacknowledged messages to the queue.
        connection.close()


def parse():
    parser = argparse.ArgumentParser(description="Prints the events of a channel, one per line.")
    parser.add_argument("--broker", metavar="URL", default="amqp://guest:guest@localhost:5672/%2f")
    parser.add_argument("--exchange", metavar="NAME", default="event.exchange")
    parser.add_argument("--queue", metavar="NAME", default="order.events")
    parser.add_argument("--binding", metavar="PATTERN", default="order.*", help="event types, such as order.* or #")
    parser.add_argument("--count", metavar="N", type=int, help="stop after N events")
    return parser.parse_args()


def declare(channel, arguments):
    """Declares the same objects as the shop, so that either program may start first."""
    channel.exchange_declare(arguments.exchange, "topic", durable=True)
    channel.queue_declare(arguments.queue, durable=True, arguments=ARGUMENTS)
    channel.queue_bind(arguments.queue, arguments.exchange, arguments.binding)
    channel.basic_qos(prefetch_count=PREFETCH)


def consume(channel, arguments):
    # With a count of 0, consume() would still wait for the first message.
    if arguments.count == 0:
        return
    for count, (method, properties, body) in enumerate(channel.consume(arguments.queue), start=1):
        print(line_of(properties, body), flush=True)
        # Acknowledge after printing: if the program dies in between, the message is delivered again.
        channel.basic_ack(method.delivery_tag)
        if count == arguments.count:
            return


def line_of(properties, body):
    """Returns the event of a message as one line."""
    message = f"message {properties.message_id}"
    if properties.content_encoding:
        raise Unreadable(
            f"{message} is compressed (content_encoding: {properties.content_encoding}), which this program cannot read: "
            "configure the shop to send uncompressed envelopes"
        )
    try:
        event = json.loads(body)
        aggregate = f"{event['aggregate_type']}/{event['aggregate_id']} v{event['version']}"
        payload = json.dumps(event["payload"], ensure_ascii=False)
        return f"{event['position']} {event['event_type']} {aggregate} {payload}"
    except (ValueError, TypeError, KeyError) as problem:
        raise Unreadable(f"{message} is not an event envelope: {problem!r}") from problem


if __name__ == "__main__":
    main()
