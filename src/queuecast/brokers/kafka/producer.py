"""What this process writes: one idempotent producer, whose reports come to the event loop in batches."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as Client

from ...errors import BrokerError, BrokerUnavailable, OutcomeUnknown
from ..folded.driver import APPEND_SECONDS
from . import faults
from .headers import Headers

logger = logging.getLogger(__name__)

PUT_SECONDS: Final = 10.0
"""Seconds until a message must be confirmed. Then `OutcomeUnknown`."""

POLL_SECONDS: Final = 0.1
"""How long the thread waits for reports before it looks whether it should end."""

NAMED_SECONDS: Final = 5.0
"""Seconds for which a topic that the cluster does not know is asked for again, as it may just have been made."""

AGAIN_SECONDS: Final = 0.5
"""Seconds before a client that has failed is replaced: for what every new one of them might meet."""

LINGER_MS: Final = 0.5
"""Milliseconds that a record waits for others: without it, tasks spread over partitions travel nearly one by one."""


UNSURE: Final = frozenset({KafkaError._MSG_TIMED_OUT, KafkaError._PURGE_INFLIGHT, KafkaError._FATAL})
"""Errors of a record that may have been written all the same."""


class Letter(NamedTuple):
    """A record to be written."""

    topic: str
    value: bytes
    headers: Headers | None = None
    key: str | None = None
    partition: int = -1
    """-1 for one that its key decides."""


class Sending:
    """Some records that were written together."""

    def __init__(self, count: int) -> None:
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The offset of the last one, which is Kafka's plus one."""
        self._left = count
        self._failed = 0
        self._error: KafkaError | None = None
        self._may_be_there = False
        self._count = count

    def report(self, error: KafkaError | None, offset: int) -> None:
        self._left -= 1
        if error is not None:
            self._failed += 1
            self._error = self._error or error
            self._may_be_there = self._may_be_there or error.code() in UNSURE
        if self._left or self.done.done():
            return
        if self._error is None:
            self.done.set_result(offset + 1)
        else:
            self.give_up(self._reason(self._error))

    def give_up(self, reason: BrokerError) -> None:
        if not self.done.done():
            self.done.set_exception(reason)
            self.done.exception()  # looked at, so that nobody calls it unseen where it is never awaited

    def _reason(self, error: KafkaError) -> BrokerError:
        if self._failed < self._count or self._may_be_there:
            return OutcomeUnknown(f"some of it may have been taken: {error.str()}")
        return NoTopic(f"Kafka: {error.str()}") if faults.is_no_topic(error) else faults.unavailable(error)


class NoTopic(BrokerUnavailable):
    """Nothing was written, since there is no such topic."""


class _Report(NamedTuple):
    sending: Sending
    error: KafkaError | None
    offset: int


class Producer:
    """Belongs to the event loop it was made in."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = {
            **settings,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": LINGER_MS,
            "partitioner": "murmur2_random",  # as Java's, so that equal keys meet
            "message.timeout.ms": int(APPEND_SECONDS * 1_000),
            "topic.metadata.propagation.max.ms": int(NAMED_SECONDS * 1_000),
            "allow.auto.create.topics": False,
            "error_cb": self._look_at,
            "logger": logger,
        }
        self._loop = asyncio.get_running_loop()
        self._client = Client(self._settings)
        self._reports: list[_Report] = []
        self._waiting: deque[tuple[Sending, Letter]] = deque()
        """What the client has no room for yet."""
        self._under_way: set[Sending] = set()
        self._closing = False
        self._is_broken = False
        """The client will take nothing more."""
        self._thread = threading.Thread(target=self._run, name="queuecast kafka producer", daemon=True)
        self._thread.start()

    def send(self, letters: Sequence[Letter]) -> Sending:
        """In the order of the calls, for each partition. Fails with `BrokerError`."""
        sending = Sending(len(letters))
        if self._closing:
            sending.give_up(BrokerUnavailable("the broker is closed"))
        elif letters:
            self._under_way.add(sending)
            sending.done.add_done_callback(lambda _: self._under_way.discard(sending))
            self._waiting.extend((sending, letter) for letter in letters)
            self._go_on()
        else:
            sending.done.set_result(0)
        return sending

    async def put(self, letters: Sequence[Letter]) -> None:
        """Returns once all of them are durable. Raises `BrokerUnavailable` where none is, else `OutcomeUnknown`."""
        try:
            async with asyncio.timeout(PUT_SECONDS):
                await self.send(letters).done
        except TimeoutError:
            raise OutcomeUnknown(f"Kafka did not confirm within {PUT_SECONDS:.0f} s") from None

    async def finish(self, seconds: float) -> None:
        """Returns once what was handed over is confirmed, or after so many seconds."""
        pending = [sending.done for sending in self._under_way]
        if pending:
            await asyncio.wait(pending, timeout=seconds)

    async def close(self) -> None:
        """Let go, and give up what is not confirmed."""
        self._closing = True
        await asyncio.to_thread(self._thread.join)
        self._give_up(OutcomeUnknown("the broker was closed before Kafka had confirmed"))

    def _give_up(self, reason: OutcomeUnknown) -> None:
        for sending in tuple(self._under_way):
            sending.give_up(reason)

    def _go_on(self) -> None:
        """Hand over what there is room for."""
        while self._waiting and not self._closing:
            sending, (topic, value, headers, key, partition) = self._waiting[0]
            try:
                self._client.produce(
                    topic,
                    value,
                    key=key,
                    partition=partition,
                    headers=headers,
                    on_delivery=partial(self._reported, sending),
                )
            except BufferError:
                return  # The next reports make room.
            except KafkaException as error:
                self._loop.call_soon(sending.report, faults.error_in(error), 0)
            self._waiting.popleft()

    # In the thread

    def _run(self) -> None:
        while not self._closing:
            try:
                self._report()
            except Exception as error:  # whatever it is: without this thread nothing would be confirmed ever again
                logger.exception("the producer has failed and is replaced")
                self._is_broken = True
                self._call(self._give_up, OutcomeUnknown(f"it may have been taken: {faults.why(error)}"))
                time.sleep(AGAIN_SECONDS)
        self._client.purge()
        del self._client  # Here, as it waits for threads of its own; the garbage collector would let anybody wait.

    def _report(self) -> None:
        if self._is_broken:
            self._replace_client()
        self._client.poll(POLL_SECONDS)
        if self._reports:
            reports, self._reports = self._reports, []
            self._call(self._take, reports)

    def _reported(self, sending: Sending, error: KafkaError | None, message: Message) -> None:
        self._reports.append(_Report(sending, error, message.offset() or 0))

    def _look_at(self, error: KafkaError) -> None:
        """At what concerns the client as a whole. It connects again by itself, for ever."""
        self._is_broken = self._is_broken or error.fatal()
        logger.log(logging.ERROR if error.fatal() else logging.DEBUG, "the producer is told: %s", error)

    def _replace_client(self) -> None:
        """What the old one has is reported as failed."""
        old, self._client = self._client, Client(self._settings)
        self._is_broken = False
        old.purge()
        while len(old) and not self._closing:
            old.flush(POLL_SECONDS)

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        with suppress(RuntimeError):  # The event loop has ended, and everybody in it.
            self._loop.call_soon_threadsafe(function, *arguments)

    # In the event loop again

    def _take(self, reports: list[_Report]) -> None:
        for sending, error, offset in reports:
            sending.report(error, offset)
        self._go_on()
