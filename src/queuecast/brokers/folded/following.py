"""A queue that this process follows: its projection, and what any process that has one does for everybody.

It ends tasks that no worker is going to end, and brings the answers of foreign workers into the log. Several processes
may do so at the same moment; the fold takes the first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Final

from ...codec import encode_event
from ...errors import BrokerError, TooLarge
from ...event import ErrorInfo, Event, ResultEvent, ended
from ...task import timestamp
from ..base import External, Status
from .driver import Driver, Handed
from .projection import Projection
from .wire import result_of

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
"""How often the tasks that may have to be ended are looked at, though none is due; one that is, is looked at then."""

AGAIN_SECONDS: Final = 1.0
"""Seconds before what a server did not take is tried again."""

KNOWN_SECONDS: Final = 5.0
"""Seconds in which the task of an answer must become known. Then the answer is dropped, with a warning."""


class Following:
    """Runs from `start` to `stop`."""

    def __init__(self, driver: Driver, projection: Projection, queue: str, external: External | None) -> None:
        self.projection = projection
        self._driver = driver
        self._queue = queue
        self._external = external
        self._tasks: list[asyncio.Task[None]] = []
        self._writing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Following {self._queue}>"

    async def start(self) -> None:
        """Returns when the projection is up to date. Raises `BrokerError`."""
        await self.projection.start()
        await self.projection.caught_up()
        self._tasks.append(asyncio.create_task(self._end_what_is_due(), name=f"queuecast deputy {self._queue}"))
        if self._external is not None:
            self._tasks.append(asyncio.create_task(self._take_replies(), name=f"queuecast replies {self._queue}"))

    async def stop(self) -> None:
        for task in (*self._tasks, *self._writing):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._writing, return_exceptions=True)
        await self.projection.stop()

    # Tasks that no worker ends

    async def _end_what_is_due(self) -> None:
        while True:
            try:
                await self._end_some()
            except BrokerError as error:
                logger.warning("what is due on %s cannot be ended yet: %s", self._queue, error)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _end_some(self) -> None:
        now = time.time()
        due = self.projection.ends_due(now)
        if due:
            events = [ended(each, "failed", now, attempt=each.attempt, error=each.error) for each in due]
            number = await self._driver.append(self._queue, [encode_event(event) for event in events])
            await self.projection.includes(number)
            return
        wait = min(LOOK_SECONDS, self.projection.next_end() - now)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, wait)):
                await self.projection.submitted_to()

    # Foreign workers' answers

    async def _take_replies(self) -> None:
        while True:
            intake = self._driver.replies(self._queue)
            try:
                async for handed in intake:
                    task = asyncio.create_task(self._take_reply(handed))
                    self._writing.add(task)
                    task.add_done_callback(self._writing.discard)
            except BrokerError as error:
                logger.warning("answers to %s cannot be taken, trying again: %s", self._queue, error)
            finally:
                with suppress(BrokerError):
                    await intake.aclose()
            await asyncio.sleep(AGAIN_SECONDS)

    async def _take_reply(self, handed: Handed) -> None:
        """In the log and confirmed, then settled: a gateway that dies in between leaves it to another."""
        # Kept until it is, because what is given back again and again may be dropped.
        while handed.is_held:
            try:
                event = await self._result(handed)
                if event is not None:
                    await self._driver.append(self._queue, [encode_event(event)])
                handed.settle()
            except BrokerError as error:
                logger.warning("an answer to %s is not in the log yet: %s", self._queue, error)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _result(self, handed: Handed) -> Event | None:
        id = handed.message.correlation_id
        status = None if id is None else await self._known(id)
        if status is None:
            logger.warning("an answer on %s belongs to no task known here: correlation id %r", self._queue, id)
            return None
        result, error = result_of(handed.message)
        now = time.time()
        if error is not None:
            return ended(status, "failed", now, attempt=status.attempt, error=error)
        event = ResultEvent(
            id=status.id,
            queue=self._queue,
            attempt=status.attempt,
            time=timestamp(now),
            owner=status.owner,
            state="succeeded",
            result=result,
        )
        try:
            encode_event(event)
        except TooLarge as flaw:
            too_large = ErrorInfo("result-too-large", str(flaw))
            return ended(status, "failed", now, attempt=status.attempt, error=too_large)
        return event

    async def _known(self, id: str) -> Status | None:
        """A foreign worker may be quicker than the first event of its task."""
        with suppress(TimeoutError):
            async with asyncio.timeout(KNOWN_SECONDS):
                while (status := await self.projection.status(id)) is None:
                    await self.projection.submitted_to()
                return status
        return await self.projection.status(id)
