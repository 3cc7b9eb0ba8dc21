"""Hears cancel requests in the control log: for tasks that run here, and for those that come later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import Final

from ..brokers import CONTROL, Broker
from ..brokers.base import Entry
from ..control import CLOCK_SLACK, CancelRequested, decode_control
from ..cursor import Cursor
from ..errors import BrokerUnavailable
from ..tail import Tail
from ..task import Task

logger = logging.getLogger(__name__)

MAX_REMEMBERED: Final = 100_000
"""Cancel requests kept in mind; beyond that the oldest are forgotten, and such a task may begin before it ends."""

CATCH_UP_SECONDS: Final = 30.0
"""Seconds for what was asked before to be read. Then `BrokerUnavailable`: nothing is run that may be cancelled."""


class Cancels:
    """Knows every task that was asked to be cancelled since the control log's beginning."""

    def __init__(self, broker: Broker, on_cancel: Callable[[str, str], None]) -> None:
        self._broker = broker
        self._on_cancel = on_cancel
        self._asked: dict[tuple[str, str], float] = {}
        self._tail = Tail(broker, CONTROL, backlog=MAX_REMEMBERED)

    def asked(self, task: Task) -> bool:
        """Whether it was asked for this very task: its id may have been another's before, by an idempotency key."""
        return self._asked.get((task.queue, task.id), -inf) >= task.submitted_at - CLOCK_SLACK

    async def start(self) -> None:
        """Returns when everything that was asked before is known. Raises `BrokerError`."""
        await self._broker.declare(CONTROL)
        end = (await self._broker.bounds(CONTROL)).last
        caught_up = _CaughtUp(end)
        await self._tail.start()
        self._tail.listen(self)
        forget = self._tail.listen(caught_up)
        if self._tail.at.offset < end:
            try:
                async with asyncio.timeout(CATCH_UP_SECONDS):
                    await caught_up.event.wait()
            except TimeoutError:
                raise BrokerUnavailable("which tasks are to be cancelled cannot be read") from None
        forget()

    async def stop(self) -> None:
        await self._tail.stop()

    def entries(self, entries: list[Entry]) -> None:
        for entry in entries:
            message = decode_control(entry.body)
            if isinstance(message, CancelRequested):
                self._asked[message.queue, message.id] = message.time
                self._on_cancel(message.queue, message.id)
        while len(self._asked) > MAX_REMEMBERED:
            del self._asked[next(iter(self._asked))]

    def restarted(self, reason: str, at: Cursor) -> None:
        logger.warning("cancel requests were missed (%s); tasks that they asked for run on", reason)


class _CaughtUp:
    """Listens for one offset."""

    def __init__(self, end: int) -> None:
        self.event = asyncio.Event()
        self._end = end

    def entries(self, entries: list[Entry]) -> None:
        if entries[-1].offset >= self._end:
            self.event.set()

    def restarted(self, reason: str, at: Cursor) -> None:
        self.event.set()
