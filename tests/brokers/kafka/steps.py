"""What the tests of the driver do again and again."""

import asyncio

from confluent_kafka import TopicPartition

from queuecast.brokers.folded.driver import Parcel
from queuecast.brokers.folded.wire import Message


def message(id, body=b"{}", **fields):
    return Message(body=body, id=id, **fields)


def parcels(queue, *ids, delay=0.0):
    return [Parcel(queue, message(id), delay) for id in ids]


async def take(intake, count):
    """So many, in the order in which they come."""
    return [await anext(intake) for _ in range(count)]


def ids(handed):
    return [each.message.id for each in handed]


def trim(admin, topic, before):
    """Delete what lies before this offset of its first partition."""
    for trimmed in admin.delete_records([TopicPartition(topic, 0, before)]).values():
        trimmed.result()


async def until(fact):
    """Wait for it; the test's own bound ends that."""
    while not fact():
        await asyncio.sleep(0.01)
