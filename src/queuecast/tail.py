"""The tail: one reader of one queue's log for this whole process, however many follow it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from .brokers.base import Broker, Entry, end_of, verify
from .cursor import Cursor, beginning, cursor_at
from .errors import BrokerError, ResetRequired

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0
"""Seconds before a tail reads again after its broker failed; followers wait meanwhile, nothing is skipped."""


class Listener(Protocol):
    """Who wants to see a queue's log as it grows. Called in the event loop; must not block or raise."""

    def entries(self, entries: list[Entry]) -> None:
        """What came, in order, each once."""

    def restarted(self, reason: str, at: Cursor) -> None:
        """The log cannot be followed from where it was (see `ResetRequired.reason`); it goes on after `at`."""


class Tail:
    """Follows one queue's log and hands what comes to its listeners.

    `backlog` is the number of past events to begin with, so that clients which reconnect after a restart find
    what they missed here and need not all read the log.
    """

    def __init__(self, broker: Broker, queue: str, backlog: int = 0) -> None:
        self.queue = queue
        self.at = beginning(None)
        """The place that the listeners have been told of."""
        self._broker = broker
        self._backlog = backlog
        self._listeners: list[Listener] = []
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Tail {self.queue} at {self.at} for {len(self._listeners)}>"

    async def start(self) -> None:
        """Find the log's end; the reading goes on in the background. Raises `BrokerError`."""
        self.at = await self._begin()
        self._task = asyncio.create_task(self._follow(), name=f"queuecast tail {self.queue}")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell this listener of everything after `self.at`, until the returned function is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def _begin(self) -> Cursor:
        while True:
            start = await self._broker.recent(self.queue, self._backlog)
            bounds = await self._broker.bounds(self.queue)
            if start < bounds.first:
                return beginning(bounds.identity, bounds.first - 1)
            try:
                # With its event, so that the place can be told again from one in another log.
                return cursor_at(bounds.identity, start, await self._broker.at(self.queue, start))
            except ResetRequired:
                continue  # the log was trimmed in between: look again

    async def _follow(self) -> None:
        lost: str | None = None
        sure = True
        while True:
            try:
                if lost is not None:
                    await self._restart(lost)
                elif not sure:
                    await verify(self._broker, self.queue, self.at)
                lost, sure = None, True
                await self._read_on()
            except ResetRequired as reset:
                lost = reset.reason
            except BrokerError as error:
                logger.warning("the log of %s cannot be read, trying again: %s", self.queue, error)
                sure = False  # what comes back may be another log, or one that was restored
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                # A tail that ended would leave its followers with keepalives and never an event again.
                logger.exception("the log of %s cannot be read, trying again", self.queue)
                sure = False
                await asyncio.sleep(RETRY_SECONDS)

    async def _read_on(self) -> None:
        reader = self._broker.read(self.queue, self.at.offset)
        try:
            async for entries in reader:
                last = entries[-1]
                self.at = cursor_at(self.at.identity, last.offset, last.body)
                for listener in tuple(self._listeners):
                    self._tell(listener, entries)
        finally:
            await reader.aclose()

    async def _restart(self, reason: str) -> None:
        self.at = await end_of(self._broker, self.queue)
        logger.warning("the log of %s cannot be followed (%s); going on at %s", self.queue, reason, self.at)
        for listener in tuple(self._listeners):
            self._tell_restarted(listener, reason)

    def _tell(self, listener: Listener, entries: list[Entry]) -> None:
        """A defect of one listener must not end the others' log; it is told that it has missed something."""
        try:
            listener.entries(entries)
        except Exception:
            logger.exception("%r failed on the log of %s", listener, self.queue)
            self._tell_restarted(listener, "diverged")

    def _tell_restarted(self, listener: Listener, reason: str) -> None:
        try:
            listener.restarted(reason, self.at)
        except Exception:
            logger.exception("%r failed on the log of %s", listener, self.queue)
