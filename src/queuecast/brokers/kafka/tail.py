"""Reading logs: one consumer for all that this process follows, outside any group.

A consumer can be at one place of a topic only. So whoever reads a log that is being read already gets another consumer
for it; there are as many as there are readers of the busiest log.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from ...errors import BrokerUnavailable
from ..base import Entry
from . import faults

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.02
"""How long the thread waits for records before it looks what else it should do: how late a reading may begin."""

MAX_POLL_MS: Final = 300_000
"""The default, whatever members of groups have: it must not be less than the default session."""

BATCH: Final = 2_000
"""Records that are taken from the client at once."""

MANY: Final = 20_000
FEW: Final = 4_000
"""Records that wait for a reader: at so many its topic is paused, and at so few it goes on."""

BUFFER_KB: Final = 8_192
"""Kilobytes that a client fetches ahead of what was taken from it."""

IDLE: Final = 2
"""Consumers without anything to read that are kept for the next reader."""


class Feed:
    """One reading of one topic, from a place on. `take` gives what has arrived; an offset is Kafka's plus one."""

    def __init__(self, tail: Tail, topic: str, identity: str) -> None:
        self.topic = topic
        self.identity = identity
        """Of the topic as it was when the reading began."""
        self._tail = tail
        self._arrived: deque[list[Entry]] = deque()
        self._count = 0
        self._paused = False
        self._failure: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None

    async def take(self) -> list[Entry]:
        """Some, once there are any. Raises why there will be no more."""
        while not self._arrived:
            if self._failure is not None:
                raise self._failure
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        entries = self._arrived.popleft()
        self._count -= len(entries)
        if self._paused and self._count < FEW:
            self._paused = False
            self._tail.resume(self.topic)
        return entries

    def close(self) -> None:
        self._tail.leave(self)

    def arrive(self, entries: list[Entry]) -> None:
        self._arrived.append(entries)
        self._count += len(entries)
        if not self._paused and self._count >= MANY:
            self._paused = True
            self._tail.pause(self.topic)
        self._wake()

    def fail(self, reason: Exception) -> None:
        """After what has arrived, say so."""
        self._failure = self._failure or reason
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Tails:
    """The consumers of this process. Belongs to one event loop."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = {
            **settings,
            "group.id": "queuecast",  # wanted by the client; nobody joins it
            "max.poll.interval.ms": MAX_POLL_MS,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 500,
            "fetch.queue.backoff.ms": 10,
            "queued.max.messages.kbytes": BUFFER_KB,
            "allow.auto.create.topics": False,
            "logger": logger,
        }
        self._tails: list[Tail] = []
        self._ending: set[asyncio.Future[None]] = set()

    @property
    def feeds(self) -> list[Feed]:
        return [feed for tail in self._tails for feed in tail.feeds.values()]

    def open(self, topic: str, offset: int, identity: str) -> Feed:
        """Read from the record with this offset of Kafka's on. Raises `BrokerUnavailable`."""
        self._let_go()
        for tail in self._tails:
            if tail.can_take(topic):
                return tail.join(topic, offset, identity)
        try:
            tail = Tail(self._settings)
        except KafkaException as error:
            raise faults.unavailable(error) from error
        self._tails.append(tail)
        return tail.join(topic, offset, identity)

    def _let_go(self) -> None:
        idle = [tail for tail in self._tails if not tail.feeds]
        spare = [tail for tail in idle if not tail.has_failed][:IDLE]
        for tail in idle:
            if tail in spare:
                continue
            self._tails.remove(tail)
            ending = asyncio.ensure_future(tail.close())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        for feed in self.feeds:
            feed.fail(BrokerUnavailable("the broker is closed"))
        tails, self._tails = self._tails, []
        await asyncio.gather(*(tail.close() for tail in tails), *self._ending)


class Tail:
    """One consumer with its thread, in which alone it is spoken to: a call from another one can block for ever."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.feeds: dict[str, Feed] = {}
        self._loop = asyncio.get_running_loop()
        self._consumer = Consumer({**settings})
        self._orders: deque[Callable[[], object]] = deque()
        self._assigned: dict[str, Feed] = {}
        """What the consumer reads: the feeds, as the thread has got to know of them."""
        self.has_failed = False
        """Its thread has ended, and nothing will come of it any more."""
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="queuecast kafka tail", daemon=True)
        self._thread.start()

    def can_take(self, topic: str) -> bool:
        return not self.has_failed and topic not in self.feeds

    def join(self, topic: str, offset: int, identity: str) -> Feed:
        feed = self.feeds[topic] = Feed(self, topic, identity)
        self._orders.append(partial(self._assign, feed, offset))
        return feed

    def leave(self, feed: Feed) -> None:
        if self.feeds.get(feed.topic) is feed:
            del self.feeds[feed.topic]
            self._orders.append(partial(self._unassign, feed))

    def pause(self, topic: str) -> None:
        self._orders.append(partial(self._consumer.pause, [TopicPartition(topic, 0)]))

    def resume(self, topic: str) -> None:
        self._orders.append(partial(self._consumer.resume, [TopicPartition(topic, 0)]))

    async def close(self) -> None:
        self._closing = True
        await asyncio.to_thread(self._thread.join)

    def _fail_all(self, reason: BrokerUnavailable) -> None:
        self.has_failed = True
        for feed in self.feeds.values():
            feed.fail(reason)

    # In the thread

    def _run(self) -> None:
        try:
            self._read()
        except Exception as error:  # whatever it is: without this thread its readers would wait for ever
            logger.exception("a consumer of logs has failed; whoever read by it goes on with another one")
            self._call(self._fail_all, faults.unavailable(error))
        finally:
            with suppress(KafkaException, RuntimeError):
                self._consumer.close()

    def _read(self) -> None:
        while not self._closing:
            while self._orders:
                with suppress(KafkaException):  # It was to be paused, or resumed, when it was left already.
                    self._orders.popleft()()
            first = self._consumer.poll(POLL_SECONDS)
            if first is not None:
                # Not all at once: `consume` waits for as many as it was asked for.
                self._sort([first, *self._consumer.consume(BATCH, 0)])

    def _assign(self, feed: Feed, offset: int) -> None:
        try:
            self._consumer.incremental_assign([TopicPartition(feed.topic, 0, offset)])
        except KafkaException as error:
            self._call(feed.fail, faults.unavailable(error))
        else:
            self._assigned[feed.topic] = feed

    def _unassign(self, feed: Feed) -> None:
        if self._assigned.get(feed.topic) is feed:
            del self._assigned[feed.topic]
            self._consumer.incremental_unassign([TopicPartition(feed.topic, 0)])

    def _sort(self, messages: list[Message]) -> None:
        arrived: dict[Feed, list[Entry]] = {}
        for message in messages:
            feed = self._assigned.get(message.topic() or "")
            error = message.error()
            if error is not None:
                self._fail(feed, error)
            elif feed is not None:
                entry = Entry((message.offset() or 0) + 1, message.value() or b"")
                arrived.setdefault(feed, []).append(entry)
        if arrived:
            self._call(_hand_over, arrived)

    def _fail(self, feed: Feed | None, error: KafkaError) -> None:
        if feed is not None:
            self._call(feed.fail, faults.unavailable(error))
        else:
            logger.debug("a consumer of logs is told: %s", error)

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        with suppress(RuntimeError):  # The event loop has ended, and everybody in it.
            self._loop.call_soon_threadsafe(function, *arguments)


def _hand_over(arrived: dict[Feed, list[Entry]]) -> None:
    for feed, entries in arrived.items():
        feed.arrive(entries)
