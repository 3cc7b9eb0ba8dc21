"""All that must hold once everything has come to rest, whatever was killed before."""

import json
import secrets
import sqlite3
from contextlib import closing, suppress
from urllib.parse import urlsplit

import pika
import pika.exceptions
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from .checker import flaws_of_log, flaws_of_stream, flaws_of_witness
from .client import request, whole_log
from .workload import QUEUES

PREFETCH = 100

SECONDS = 20
"""A failure bound for the next entry of a stream."""


async def pronounce(machine, load, port, *, kills, refusals=()):
    """The log is read anew through this gateway, and once more past queuecast. `kills`: of workers, or of what hands
    them their tasks. `refusals`: the problems that a submission may have met.
    """
    logs = {queue: await whole_log(port, queue) for queue in QUEUES}
    log = [event for reader in logs.values() for event in reader.events]
    accepted = load.submitter.accepted
    assert {answer.body["type"].rpartition(":")[2] for answer in load.submitter.refusals} <= set(refusals)
    assert flaws_of_log(log, accepted) == []
    assert flaws_of_witness(machine.witnessed(), accepted, kills=kills) == []
    if machine.judged.startswith("sqlite:"):
        assert in_the_file(machine.judged) == log
    else:
        for queue, reader in logs.items():
            assert is_within(reader.events, on_the_server(machine.judged, queue))
    for reader in load.readers:
        assert flaws_of_stream(reader.events, [event for event in log if event["queue"] in reader.queues]) == [], reader
        assert reader.resets == []
        assert len(set(reader.ids)) == len(reader.ids)
        if len(reader.queues) == 1:
            assert reader.ids == logs[reader.queues[0]].ids
    assert await counted(port) == {"succeeded": len(accepted)}


def in_the_file(broker):
    """The log as SQLite has it, queue by queue."""
    with closing(sqlite3.connect(f"file:{urlsplit(broker).path[1:]}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT queue, body FROM events ORDER BY offset").fetchall()
    return [json.loads(body) for queue in QUEUES for name, body in rows if name == queue]


def on_the_server(broker, queue):
    """The log as the server has it, with what was written twice and what every reader refuses."""
    bodies = in_the_topic if broker.startswith("kafka:") else in_the_stream
    return [json.loads(line) for body in bodies(broker, f"_qc.events.{queue}") for line in body.splitlines()]


def in_the_topic(broker, topic):
    """The values of its one partition."""
    settings = {"bootstrap.servers": urlsplit(broker).netloc, "group.id": "judge", "enable.auto.commit": False}
    with closing(Consumer(settings)) as consumer:
        partition = TopicPartition(topic, 0, OFFSET_BEGINNING)
        _, end = consumer.get_watermark_offsets(partition, timeout=SECONDS)
        consumer.assign([partition])
        read = []
        while len(read) < end:
            message = consumer.poll(SECONDS)
            assert message is not None, f"{topic} has {end} records, and only {len(read)} of them come"
            assert message.error() is None, message.error()
            read.append(message.value())
    return read


def in_the_stream(broker, stream):
    """The entries of it, up to one of our own."""
    connection = pika.BlockingConnection(pika.URLParameters(broker))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=PREFETCH)
    read = []

    def take(channel, method, properties, body):
        channel.basic_ack(method.delivery_tag)
        read.append((properties.message_id, body))

    end = secrets.token_hex(8)
    channel.basic_consume(stream, take, arguments={"x-stream-offset": "first"})
    channel.basic_publish("", stream, b"", pika.BasicProperties(message_id=end), mandatory=True)
    while end not in (id for id, _ in read):
        connection.process_data_events(SECONDS)
    with suppress(pika.exceptions.AMQPError):  # it gives back what came behind, and a stream does not take that
        connection.close()
    return [body for _, body in read]


def is_within(wanted, events):
    """All of it, in this order, whatever else there is."""
    rest = iter(events)
    return all(event in rest for event in wanted)


async def counted(port):
    """How many tasks the overview counts in each state, in all queues."""
    total = {}
    for queue in (await request(port, "GET", "/queues")).body["queues"]:
        for state, number in queue["counts"].items():
            total[state] = total.get(state, 0) + number
    return total
