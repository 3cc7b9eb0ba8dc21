"""One handing-over by a server, and the orders of writes by which it is settled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from ...codec import encode_event
from ...errors import BrokerUnavailable, QueuecastError
from ...event import ErrorInfo, Event, ResultEvent, ended
from ...lifecycle import Record, apply
from ..base import EXPIRED, Delivery
from ..futures import done, failed, seen
from .admission import Admitted, is_expired
from .driver import Handed, Parcel
from .lease import Lease, is_long
from .wire import answer_to, pack_again
from .writing import Writing


class FoldedDelivery(Delivery):
    """Folds its own run, so that a result which every reader would refuse does not settle it."""

    def __init__(
        self,
        writing: Writing,
        handed: Handed,
        admitted: Admitted,
        settled: Callable[[FoldedDelivery], None],
    ) -> None:
        self.task = admitted.task
        self.attempt = admitted.attempt
        self.suspect = admitted.suspect
        self.losses = admitted.losses
        self.handed = handed
        self.gone = False
        """It was given back, or its connection or lease is lost: others are handed it."""
        self.lease: Lease | None = None
        """Once it has been handed over."""
        self._writing = writing
        self._taken_at = time.monotonic()
        self._is_settled = False
        self._settled = settled
        self._record: Record | None = None
        """Of this delivery's run alone."""

    def __repr__(self) -> str:
        return f"<FoldedDelivery of {self.task.queue}.{self.task.name} {self.task.id}>"

    async def begin(self, event: Event) -> Awaitable[object]:
        if self.lease is not None and event.run is not None:
            await self.lease.renew(event.run)  # a copy of the run before is dropped once this one has begun
        begun = self.append(event)
        await self._writing.driver.flushed()
        return begun

    def append(self, *events: Event) -> Awaitable[object]:
        return self._written(events)

    def ack(self, *events: Event) -> Awaitable[object]:
        return self._do(self._end(events, self._written(events)))

    def retry(self, delay: float, *events: Event) -> Awaitable[object]:
        return self._do(self._again(self.attempt + 1, delay, events))

    def reject(self, reason: str, *events: Event) -> Awaitable[object]:
        return self._do(self._reject(reason, events))

    def release(self, *events: Event) -> Awaitable[object]:
        if self.lease is not None and events:
            return self._do(self._again(self.attempt, 0.0, events))
        return self._do(self._release(self._written(events)))

    # Tasks of hours

    @property
    def is_long(self) -> bool:
        """It is time to hand it over."""
        return self.lease is None and self._run is not None and is_long(self._taken_at, self.handed.hold)

    async def hand_over(self) -> None:
        """Settle it behind a lease; see `lease`. Raises `BrokerError`."""
        run = self._run
        assert run is not None, "only what runs is long"
        lease = Lease(self._writing, self.task, self.attempt, run)
        await lease.renew(run)
        while self._run not in (None, lease.run):
            await lease.renew(self._run)
        if self.gone:
            await lease.give_back()
        elif self._is_settled:
            await lease.end()
        else:
            self.lease = lease
            self.handed.settle()

    async def renew(self) -> None:
        """The lease. Raises `BrokerError`."""
        if self.lease is not None:
            await self.lease.renew(self._run or self.lease.run)

    @property
    def _run(self) -> str | None:
        """The one that it is in."""
        return None if self._record is None or self._record.state != "running" else self._record.run

    # The orders of writes: what must be durable, then the settling

    async def _end(self, events: Sequence[Event], written: Awaitable[object]) -> None:
        await written
        last = events[-1] if events else None
        if isinstance(last, ResultEvent) and self._is_over(last):
            await self._answer(last)
            await self._finish()
        else:
            await self._give_back()  # It ended nothing, so the task is delivered again rather than stuck.

    async def _again(self, attempt: int, delay: float, events: Sequence[Event]) -> None:
        """By a copy, which is durable before the log says so."""
        bodies = _encoded(events)
        if self.gone:
            raise BrokerUnavailable("this delivery was handed to somebody else: what comes after it is theirs")
        await self._writing.driver.put([Parcel(self.task.queue, pack_again(self.task, attempt), delay)])
        self._fold(events)
        await self._writing.append(self.task.queue, bodies)
        await self._finish()

    async def _reject(self, reason: str, events: Sequence[Event]) -> None:
        bodies = _encoded(events)
        last = events[-1] if events else None
        error = last.error if isinstance(last, ResultEvent) and last.error else ErrorInfo(reason)
        await self._writing.dead.bury(self.task, error)
        self._fold(events)
        await self._writing.append(self.task.queue, bodies)
        if isinstance(last, ResultEvent):
            await self._answer(last)
        await self._finish()

    async def _release(self, written: Awaitable[object]) -> None:
        await written
        now = time.time()
        if self._record is None and self.attempt == 1 and is_expired(self.task, now):
            ending = ended(self.task, "failed", now, error=EXPIRED)
            await self._writing.dead.bury(self.task, EXPIRED)
            await self._written([ending])
            await self._answer(ending)
            await self._finish()
        else:
            await self._give_back()

    # Its steps

    def _written(self, events: Sequence[Event]) -> Awaitable[object]:
        """On its way when this returns, durable when it is awaited."""
        try:
            bodies = _encoded(events)
            self._fold(events)
            return self._writing.append(self.task.queue, bodies) if bodies else done()
        except QueuecastError as error:
            return failed(error)

    def _fold(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.run is not None:
                self._record = apply(self._record, event) or self._record

    def _is_over(self, last: ResultEvent) -> bool:
        return last.run is None or (self._record is not None and self._record.final)

    async def _answer(self, ending: ResultEvent) -> None:
        """To a foreign producer, who asked for it by `reply_to`."""
        if self.task.reply_to:
            await self._writing.driver.reply(self.task.reply_to, answer_to(self.task, ending))

    async def _finish(self) -> None:
        """What came of it is written, so nobody needs it any more."""
        if self.lease is None:
            self.handed.settle()
        else:
            await self.lease.end()
        self._end_holding()

    async def _give_back(self) -> None:
        if self.lease is None:
            self.handed.give_back()
        else:
            await self.lease.give_back()
        self._end_holding()

    def _end_holding(self) -> None:
        self._is_settled = True
        self._settled(self)

    def _do(self, steps: Coroutine[Any, Any, None]) -> Awaitable[object]:
        task = asyncio.ensure_future(steps)
        task.add_done_callback(seen)
        return task


def _encoded(events: Sequence[Event]) -> list[bytes]:
    """Raises `TooLarge`, before anything is written."""
    return [encode_event(event) for event in events]
