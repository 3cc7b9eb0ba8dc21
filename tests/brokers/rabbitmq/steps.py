"""What the tests of the driver do again and again."""

import asyncio
from contextlib import closing, contextmanager
from itertools import islice

import pika

from queuecast.brokers.folded.driver import Parcel
from queuecast.brokers.folded.wire import Message
from queuecast.cursor import beginning

START = beginning(None)


def message(id, body=b"{}", **more):
    return Message(body=body, id=id, **more)


def parcels(queue, *ids, delay=0.0):
    return [Parcel(queue, message(id), delay) for id in ids]


async def take(intake, count):
    """So many messages, unsettled."""
    return [await anext(intake) for _ in range(count)]


async def read(driver, log, count, after=START):
    """The first so many events after a cursor."""
    entries = []
    reader = driver.read(log, after)
    try:
        while len(entries) < count:
            entries += (await anext(reader)).entries
    finally:
        await reader.aclose()
    return list(islice(entries, count))


def bodies(entries):
    return [entry.body for entry in entries]


async def until(fact, what):
    """Look until it is so; the test's own bound ends it."""
    while not fact():
        await asyncio.sleep(0.01)
    assert fact(), what


@contextmanager
def plain(url):
    """A channel as a plain program has one."""
    with closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        yield connection.channel()


def depth(url, queue):
    """Messages that wait in a queue, as the server counts those that are ready."""
    with plain(url) as channel:
        return channel.queue_declare(queue, passive=True).method.message_count
