"""This process as a member of a share group (KIP-932), in which Kafka hands out records one by one. A preview.

A record is locked for whom it was handed to. What is not begun in time is given back, and what runs for long is put
behind a lease (see `folded.lease`), so a lock ends with its holder alone. Kafka throws away what it has handed out too
often: so it is written anew before.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from confluent_kafka import AcknowledgeType, IllegalStateException, KafkaException, ShareConsumer
from confluent_kafka import Message as KafkaMessage

from ...errors import BrokerError, QueuecastError
from ..folded.wire import AGAIN
from . import faults
from .headers import from_kafka
from .intake import KafkaHanded, Source
from .member import AGAIN_SECONDS, in_loop
from .producer import Letter, Producer
from .topics import Topics

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.1
"""How long the thread waits for records before it looks what else there is to do."""

LOCK_SECONDS: Final = 60.0
"""For which a record is locked: what brokers allow by default at most."""

BEGIN_SECONDS: Final = 10.0
"""Seconds after which what still waits here is given back: others may have room for it."""

HOLD_SECONDS: Final = 20.0
"""Seconds after which a task is put behind a lease; that is looked at every 15 s, and takes its time as well."""

MANY_DELIVERIES: Final = 4
"""What was handed out so often is written anew: Kafka throws away what was handed out five times, by default."""

SETTLE_SECONDS: Final = 20.0
"""Seconds for the cluster to take a group's settings."""

GROUPS: Final = "queuecast-share."
"""Before the topic's name: a group is of one kind for ever."""

GROUP_SETTINGS: Final = {
    "share.auto.offset.reset": "earliest",  # otherwise what was submitted before the first worker came is passed over
    "share.record.lock.duration.ms": str(int(LOCK_SECONDS * 1_000)),
}
"""Of every share group; whoever joins it must be allowed to make them so (AlterConfigs)."""


class Sharer(Source):
    """Belongs to one event loop.

    The client hands out nothing more before everything of the last time is acknowledged.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        producer: Producer,
        topics: Topics,
        topic: str,
        on_left: Callable[[], object],
    ) -> None:
        super().__init__(on_left)
        self._settings = {
            **settings,
            "group.id": f"{GROUPS}{topic}",
            "share.acknowledgement.mode": "explicit",
            "max.poll.records": 1,  # As few as may be: of what was written together all comes together.
            "logger": logger,
        }
        self._producer = producer
        self._topics = topics
        self._topic = topic
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Condition()
        self._waiting: deque[KafkaMessage] = deque()
        self._held: set[KafkaHanded] = set()
        self._done: list[tuple[KafkaMessage, AcknowledgeType]] = []
        """What the thread is to acknowledge."""
        self._open = 0
        """Records that are not acknowledged."""
        self._copying: set[asyncio.Task[None]] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"queuecast kafka {topic}", daemon=True)
        self._thread.start()

    # Those who take

    async def _leave_group(self) -> None:
        for task in self._copying:
            task.cancel()
        self._closing = True
        with self._lock:
            self._lock.notify_all()
        await asyncio.to_thread(self._thread.join)

    def settle(self, handed: KafkaHanded) -> None:
        self._end(handed, AcknowledgeType.ACCEPT)

    def give_back(self, handed: KafkaHanded) -> None:
        self._end(handed, AcknowledgeType.RELEASE)

    def _end(self, handed: KafkaHanded, how: AcknowledgeType) -> None:
        with self._lock:
            if handed in self._held:
                self._held.remove(handed)
                self._acknowledge(handed.origin, how)
        self._deal()

    def _acknowledge(self, message: KafkaMessage, how: AcknowledgeType) -> None:
        with self._lock:
            self._done.append((message, how))
            self._lock.notify_all()

    # Handing out

    def _deal(self) -> None:
        with self._lock:
            while self._waiting and (intake := next((each for each in self._intakes if each.has_room), None)):
                message = self._waiting.popleft()
                if (message.delivery_count() or 0) >= MANY_DELIVERIES:
                    task = asyncio.ensure_future(self._write_anew(message))
                    self._copying.add(task)
                    task.add_done_callback(self._copying.discard)
                    continue
                # Whether somebody was handed it before is not certain: Kafka does not keep it when a leader goes.
                handed = KafkaHanded(intake, self, from_kafka(message.value(), message.headers()), True, message)
                handed.hold = HOLD_SECONDS
                self._held.add(handed)
                self._intakes.append(self._intakes.pop(self._intakes.index(intake)))  # in turn
                intake.arrive(handed)

    async def _write_anew(self, message: KafkaMessage) -> None:
        headers = [*(message.headers() or ()), (AGAIN, "1")]
        key = message.key()
        letter = Letter(self._topic, message.value() or b"", headers, key.decode() if isinstance(key, bytes) else key)
        try:
            await self._producer.put([letter])
        except BrokerError as error:
            logger.warning("what was handed out often of %s is not written anew: %s", self._topic, error)
            self._acknowledge(message, AcknowledgeType.RELEASE)
        else:
            self._acknowledge(message, AcknowledgeType.ACCEPT)

    def _lose(self, some: set[KafkaHanded]) -> None:
        for handed in some:
            handed.lose()

    # In the thread

    def _run(self) -> None:
        while not self._closing:
            consumer = None
            try:
                settling = self._topics.settle_group(f"{GROUPS}{self._topic}", GROUP_SETTINGS)
                in_loop(self._loop, settling, SETTLE_SECONDS, lambda: self._closing)
                consumer = ShareConsumer(self._settings)
                consumer.subscribe([self._topic])
                self._poll(consumer)
            except Exception as error:  # whatever it is: without this thread nothing would be taken ever again
                expected = isinstance(error, KafkaException | QueuecastError)
                why = faults.why(error)
                logger.warning("%s cannot be consumed, trying again: %s", self._topic, why, exc_info=not expected)
                time.sleep(AGAIN_SECONDS)
            finally:
                self._give_up()
                if consumer is not None:
                    with suppress(KafkaException, IllegalStateException):
                        consumer.close()  # with what was acknowledged, and all else is handed out again

    def _poll(self, consumer: ShareConsumer) -> None:
        while not self._closing:
            messages = list(consumer.poll(POLL_SECONDS))
            taken_at = time.monotonic()
            with self._lock:
                self._open = len(messages)
                for message in messages:
                    if (error := message.error()) is None:
                        self._waiting.append(message)
                        continue
                    self._open -= 1
                    if faults.is_forbidden(error):
                        raise KafkaException(error)
                    logger.warning("a consumer of %s is told: %s", self._topic, error.str())
            if messages:
                self._call(self._deal)
                self._see_to_the_end(consumer, taken_at)

    def _see_to_the_end(self, consumer: ShareConsumer, taken_at: float) -> None:
        """Of everything that was handed out last: acknowledge it, when it is dealt with or its time is over."""
        while self._open:
            with self._lock:
                self._lock.wait_for(lambda: self._done or self._closing, POLL_SECONDS)
                passed = time.monotonic() - taken_at
                if self._closing or passed > BEGIN_SECONDS:
                    self._done += [(message, AcknowledgeType.RELEASE) for message in self._waiting]
                    self._waiting.clear()
                if self._closing or passed > LOCK_SECONDS:
                    self._done += [(handed.origin, AcknowledgeType.RELEASE) for handed in self._held]
                    self._call(self._lose, self._held)
                    self._held = set()
                done, self._done = self._done, []
                self._open -= len(done)
            for message, how in done:
                consumer.acknowledge(message, how)
            if done:
                consumer.commit_async()
            if self._closing:
                break

    def _give_up(self) -> None:
        with self._lock:
            self._waiting.clear()
            self._done.clear()
            self._open = 0
            self._call(self._lose, self._held)
            self._held = set()

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        with suppress(RuntimeError):  # The event loop has ended, and everybody in it.
            self._loop.call_soon_threadsafe(function, *arguments)
