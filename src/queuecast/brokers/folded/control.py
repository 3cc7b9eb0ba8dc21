"""The control log, as this process has read it: what was posted, and which tasks ended before they ran."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from math import inf
from typing import Final

from ...control import CLOCK_SLACK, LeaseRenewed, TaskEnded, decode_control
from ...cursor import Cursor, beginning, cursor_at
from ...errors import BrokerError, BrokerUnavailable, ResetRequired
from ...task import Task
from ..base import CONTROL, Bounds, Entry
from .driver import Driver, Page
from .wire import LeaseMark

logger = logging.getLogger(__name__)

MAX_KEPT: Final = 100_000
"""Messages kept in memory. The oldest are let go; a reader that still wanted them is told `trimmed`."""

START_SECONDS: Final = 20.0
"""How long reading what was posted before may take; then whoever needs it is told that the broker is unavailable."""

AGAIN_SECONDS: Final = 1.0
"""Seconds before a log is read again after its server failed."""


class ControlLog:
    """Read from its first message on by one reader, and told to everybody in this process from memory."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._at: Cursor | None = None
        """Where reading goes on; None where the log is another one than before, or was never looked at."""
        self._identity: str | None = None
        self._kept: list[Entry] = []
        self._before = 0
        """The offset before the first message that is kept."""
        self._upto = -1
        """Everything up to this offset has been read."""
        self._own = 0
        self._end = 0
        self._ended: dict[tuple[str, str], float] = {}
        self._leases: dict[tuple[str, str], LeaseMark] = {}
        self._epoch = 0
        """Counts the logs that were here one after the other; a reader belongs to one of them."""
        self._changed = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    def __repr__(self) -> str:
        return f"<ControlLog of {len(self._kept)} to {self._at}>"

    @property
    def followed(self) -> bool:
        return self._reading is not None

    async def start(self) -> None:
        """Returns when everything that was posted before is known. Raises `BrokerError`."""
        async with self._starting:
            if self._reading is None:
                bounds = await self._driver.bounds(CONTROL)
                self._end = bounds.last
                self._begin(bounds)
                self._reading = asyncio.create_task(self._follow(), name="queuecast control log")
        await self._until(lambda: self._upto >= self._end)

    async def caught_up(self) -> None:
        """Returns when everything that was posted before this call is known. Raises `BrokerError`."""
        await self.start()
        bounds = await self._driver.bounds(CONTROL)
        await self._until(lambda: self._upto >= bounds.last and self._identity == bounds.identity)

    async def stop(self) -> None:
        self._closed = True
        self._wake()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def includes(self, own: int) -> None:
        """Returns when it has read this process's own post of this number. Raises `BrokerError`."""
        epoch = self._epoch
        await self._until(lambda: self._own >= own or epoch != self._epoch)
        if epoch != self._epoch:
            await self.caught_up()  # it went with the log that it was posted to, or is read with the new one

    def ended(self, task: Task) -> bool:
        """Whether this very task ended before anybody ran it; its id may have been another's, by an idempotency key."""
        return self._ended.get((task.queue, task.id), -inf) >= task.submitted_at - CLOCK_SLACK

    def has_newer(self, task: Task, mark: LeaseMark) -> bool:
        """Whether the lease of this run has been renewed since."""
        newest = self._leases.get((task.queue, task.id))
        return newest is not None and newest.run == mark.run and newest.number > mark.number

    # As a log

    def bounds(self) -> Bounds:
        last = self._kept[-1].offset if self._kept else self._before
        return Bounds(self._kept[0].offset if self._kept else last + 1, last, self._identity)

    async def at(self, offset: int) -> bytes:
        """Raises `ResetRequired` ("trimmed")."""
        place = bisect_left(self._kept, offset, key=_offset)
        if place < len(self._kept) and self._kept[place].offset == offset:
            return self._kept[place].body
        raise ResetRequired("trimmed")

    def recent(self, count: int) -> int:
        """The offset before, or of, the message after which so many lie."""
        place = len(self._kept) - count - 1
        return self._kept[place].offset if place >= 0 else self._before

    async def read(self, after: int) -> AsyncGenerator[list[Entry], None]:
        epoch = self._epoch
        if after > self.bounds().last:
            raise ResetRequired("ahead")
        while True:
            if self._closed:
                raise BrokerUnavailable("the broker is closed")
            if epoch != self._epoch:
                raise ResetRequired("diverged")
            if after < self._before:
                raise ResetRequired("trimmed")
            entries = self._kept[bisect_right(self._kept, after, key=_offset) :]
            if entries:
                after = entries[-1].offset
                yield entries
            else:
                await self._changed.wait()

    # Reading it

    async def _follow(self) -> None:
        while True:
            try:
                if self._at is None:
                    self._begin(await self._driver.bounds(CONTROL))
                await self._read_on()
            except ResetRequired as reset:
                logger.warning("the control log is another one than before (%s)", reset.reason)
                self._forget()
            except BrokerError as error:
                logger.warning("the control log cannot be read, trying again: %s", error)
            await asyncio.sleep(AGAIN_SECONDS)

    def _begin(self, bounds: Bounds) -> None:
        self._identity, self._before = bounds.identity, bounds.first - 1
        self._at = beginning(bounds.identity, self._before)

    async def _read_on(self) -> None:
        assert self._at is not None, "it has begun"
        async with aclosing(self._driver.read(CONTROL, self._at)) as pages:
            async for page in pages:
                self._take(page)

    def _take(self, page: Page) -> None:
        self._upto, self._own = page.upto, max(self._own, page.own)
        for entry in page.entries:
            message = decode_control(entry.body)
            if isinstance(message, TaskEnded):
                self._ended[message.queue, message.id] = message.time
            elif isinstance(message, LeaseRenewed):
                self._leases.pop((message.queue, message.id), None)  # so that the oldest to be let go is the quietest
                self._leases[message.queue, message.id] = LeaseMark(message.run, message.number)
        if page.entries:
            self._kept += page.entries
            self._at = cursor_at(self._identity, *page.entries[-1])
        surplus = len(self._kept) - MAX_KEPT
        if surplus > 0:
            self._before = self._kept[surplus - 1].offset
            del self._kept[:surplus]
        for table in (self._ended, self._leases):
            while len(table) > MAX_KEPT:
                del table[next(iter(table))]
        self._wake()

    def _forget(self) -> None:
        """What was cancelled stays cancelled; the rest begins anew."""
        self._kept.clear()
        self._at = None
        self._upto, self._end = -1, 0
        self._epoch += 1
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, enough: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                while not enough():
                    if self._closed:
                        raise BrokerUnavailable("the broker is closed")
                    await self._changed.wait()
        except TimeoutError as error:
            raise BrokerUnavailable("the control log cannot be read") from error


def _offset(entry: Entry) -> int:
    return entry.offset
