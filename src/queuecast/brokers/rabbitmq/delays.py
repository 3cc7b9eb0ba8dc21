"""A ladder of queues in which a message waits until it is due, with nobody's help.

A queue's messages expire in its order, so one queue can only hold messages that wait equally long. There is one for
each power of two of a unit. A message climbs down through those whose powers make up its delay: its routing key says
which, bit by bit from the highest, and ends with the queue that it is for. Every step is at-least-once.
"""

from __future__ import annotations

import math
from typing import Any, Final
from urllib.parse import quote

from ...errors import InvalidInput
from .adoption import not_permitted
from .faults import Refused
from .line import Channel, Line
from .link import Link

UNIT_MS: Final = 100
"""Milliseconds of the lowest step: a message comes at most so much late, and never early."""

LEVELS: Final = 26
"""Steps. RabbitMQ waits for at most 2^32 ms, which is the 26th."""

MAX_DELAY_SECONDS: Final = (2**LEVELS - 1) * UNIT_MS / 1_000
"""77 days. A longer delay is refused."""

DUE: Final = "_qc.due"
"""The exchange behind the lowest step: it gives a message to its queue."""


def step(level: int) -> str:
    """The name of an exchange and of the queue beside it."""
    return f"_qc.delay.{level}"


def entrance(queue: str, delay: float) -> tuple[int, str]:
    """The highest step that a message needs, and its routing key. Raises `InvalidInput` for too long a delay."""
    units = max(1, math.ceil(delay * 1_000 / UNIT_MS))
    if units >= 1 << LEVELS:
        raise InvalidInput(f"a delay of {delay:.0f} s; the limit on RabbitMQ is {MAX_DELAY_SECONDS:.0f} s")
    return units.bit_length() - 1, f"{'.'.join(f'{units:0{LEVELS}b}')}.{_word(queue)}"


def _word(queue: str) -> str:
    """One word of a routing key, whatever the name."""
    return quote(queue, safe="").replace(".", "%2E")


def _when(level: int, bit: int) -> str:
    return "*." * (LEVELS - 1 - level) + f"{bit}.#"


class Ladder:
    """Declares what is needed of it, once for each connection."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._line: Line | None = None
        self._steps = 0
        self._queues: set[str] = set()

    def forget(self) -> None:
        """Look again next time: something of it may have been deleted."""
        self._line = None

    async def lead_to(self, queue: str) -> None:
        """What waits on it already finds this queue, which may be a new one. Raises `BrokerUnavailable`."""
        channel = await self._link.channel()
        try:
            await _declare_due(channel, queue)
        except Refused as refusal:
            raise not_permitted(refusal) from None
        finally:
            await channel.close()

    async def reach(self, level: int, queue: str) -> None:
        """Make sure that this step is there and leads to this queue. Raises `BrokerUnavailable`."""
        line = await self._link.line()
        if line is not self._line:
            self._line, self._steps, self._queues = line, 0, set()
        if level < self._steps and queue in self._queues:
            return
        channel = await line.channel()
        try:
            await _declare_due(channel, queue)
            for lower in range(self._steps, level + 1):
                await _declare_step(channel, lower)
        except Refused as refusal:
            raise not_permitted(refusal) from None
        finally:
            await channel.close()
        if line is self._line:
            self._steps = max(self._steps, level + 1)
            self._queues.add(queue)


async def _declare_due(channel: Channel, queue: str) -> None:
    ask, raw = channel.ask, channel.raw
    await ask(raw.exchange_declare, exchange=DUE, exchange_type="topic", durable=True)
    await ask(raw.queue_bind, queue=queue, exchange=DUE, routing_key="*." * LEVELS + _word(queue))


async def _declare_step(channel: Channel, level: int) -> None:
    ask, raw, name = channel.ask, channel.raw, step(level)
    below = step(level - 1) if level else DUE
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-message-ttl": UNIT_MS << level,
        "x-overflow": "reject-publish",
        "x-dead-letter-strategy": "at-least-once",
        "x-dead-letter-exchange": below,
    }
    await ask(raw.exchange_declare, exchange=name, exchange_type="topic", durable=True)
    await ask(raw.queue_declare, queue=name, durable=True, arguments=arguments)
    await ask(raw.queue_bind, queue=name, exchange=name, routing_key=_when(level, 1))
    await ask(raw.exchange_bind, destination=below, source=name, routing_key=_when(level, 0))
