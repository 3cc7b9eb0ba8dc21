"""Messages whose time has not come: a topic with a partition for each length of waiting.

In a partition all wait equally long, a power of two of seconds, so they become ready in its order and nothing is held
up by what is before it. A message goes from longer waits to shorter ones until its time has come; the last second is
waited for exactly. Whoever consumes anything moves them along, as a member of one group.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from msgspec.structs import replace

from ...errors import BrokerError, InvalidInput
from ..folded.wire import AGAIN, Header, Message
from .headers import to_kafka
from .intake import KafkaHanded, KafkaIntake
from .producer import Letter, Producer

logger = logging.getLogger(__name__)

TOPIC: Final = "_qc.delay"

LEVELS: Final = 24
"""Partitions. In number 0 a message waits less than a second, in number n 2^(n-1) seconds."""

MAX_DELAY_SECONDS: Final = float(2 ** (LEVELS - 1))
"""97 days. A longer delay is refused."""

AT_ONCE: Final = 500
"""Messages that are on their way to their next place at once."""

AGAIN_SECONDS: Final = 1.0
"""Seconds before a message that could not be moved is tried again."""

TO: Final = "qc-delay-to"
DUE: Final = "qc-delay-due"
READY: Final = "qc-delay-ready"
"""Headers: the topic it goes to; the POSIX times when it is due, and when it goes on from where it is."""


def letter_for(topic: str, message: Message, due: float, now: float) -> Letter:
    """To its topic, or to the longest wait that it needs. Raises `InvalidInput` for too long a delay."""
    left = due - now
    if left <= 0:
        return Letter(topic, message.body, to_kafka(message), message.id)
    if left >= MAX_DELAY_SECONDS:
        raise InvalidInput(f"a delay of {left:.0f} s; the limit on Kafka is {MAX_DELAY_SECONDS:.0f} s")
    level = int(left).bit_length()
    ready = due if level == 0 else now + 2 ** (level - 1)
    headers: dict[str, Header] = {**message.headers, TO: topic, DUE: due, READY: ready}
    return Letter(TOPIC, message.body, to_kafka(replace(message, headers=headers)), message.id, level)


def ready_at(message: Message) -> float:
    return _time(message, READY)


def _time(message: Message, header: str) -> float:
    try:
        return float(message.headers.get(header, 0.0))
    except ValueError:
        return 0.0


class Mover:
    """Takes what is ready and puts it in its next place."""

    def __init__(self, producer: Producer, intake: KafkaIntake) -> None:
        self._producer = producer
        self._intake = intake
        self._moving: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._run(), name="queuecast kafka delays")

    async def close(self) -> None:
        self._task.cancel()
        for task in self._moving:
            task.cancel()
        await asyncio.gather(self._task, *self._moving, return_exceptions=True)
        await self._intake.aclose()

    async def _run(self) -> None:
        async for handed in self._intake:
            assert isinstance(handed, KafkaHanded), "a Kafka intake hands out nothing else"
            task = asyncio.create_task(self._move(handed))
            self._moving.add(task)
            task.add_done_callback(self._moving.discard)

    async def _move(self, handed: KafkaHanded) -> None:
        try:
            letter = _next_place(handed)
            if letter is not None:
                await self._producer.put([letter])
            handed.settle()
        except BrokerError as error:
            logger.warning("what is due for %s cannot be moved yet: %s", handed.message.headers.get(TO), error)
            await asyncio.sleep(AGAIN_SECONDS)
            handed.give_back()


def _next_place(handed: KafkaHanded) -> Letter | None:
    """None for a foreign program's message, which says not where it is to go."""
    message = handed.message
    headers = {name: value for name, value in message.headers.items() if name not in (TO, DUE, READY)}
    topic = message.headers.get(TO)
    if not isinstance(topic, str):
        return None
    if handed.again:
        headers[AGAIN] = 1
    return letter_for(topic, replace(message, headers=headers), _time(message, DUE), time.time())
