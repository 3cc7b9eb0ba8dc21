"""A worker's side: what it takes from a server's queue, and how it settles that."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from ...codec import encode_event
from ...errors import BrokerError, BrokerUnavailable, QueuecastError
from ...event import ErrorInfo, Event, ResultEvent, ended
from ...lifecycle import Record, apply
from ..base import Consumer, Delivery, OnLost
from .admission import EXPIRED, Admission, Admitted, is_expired
from .driver import Handed, Intake, Parcel
from .lease import HAND_OVER, Lease
from .wire import answer_to, pack
from .writing import Writing

logger = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 1.0
"""Seconds before a queue is taken from again after its server failed, and before a message is looked at again."""


LOOK_SECONDS: Final = 15.0
"""How often leases are looked at: how exact their times are."""


class FoldedConsumer(Consumer):
    """Goes on by itself when the connection was lost; what it held then is handed out again by the server."""

    def __init__(
        self,
        writing: Writing,
        admission: Admission,
        queue: str,
        concurrency: int,
        *,
        on_lost: OnLost,
        check: Callable[[], None],
    ) -> None:
        """`check` raises `BrokerUnavailable` once the broker is closed."""
        self._writing = writing
        self._admission = admission
        self._queue = queue
        self._concurrency = concurrency
        self._on_lost = on_lost
        self._check = check
        self._intake: Intake | None = None
        self._unsettled: Counter[Intake] = Counter()
        self._held: set[FoldedDelivery] = set()
        self._room = asyncio.Event()
        self._leasing: asyncio.Task[None] | None = None
        self._stopped = False

    async def __anext__(self) -> Delivery:
        while not self._stopped:
            self._check()
            try:
                handed = await self._next_handed()
                admitted = await self._admit(handed)
            except StopAsyncIteration:
                continue  # It was stopped, or replaced by one of another size.
            except BrokerError as error:
                await self._lose(error)
                continue
            if admitted is not None:
                return self._deliver(handed, admitted)
        raise StopAsyncIteration

    async def _next_handed(self) -> Handed:
        while self._intake is None and (size := self._concurrency - self._leased()) <= 0:
            self._room.clear()
            await self._room.wait()
        if self._intake is None:
            self._intake = self._writing.driver.consume(self._queue, size)
        return await anext(self._intake)

    async def _admit(self, handed: Handed) -> Admitted | None:
        try:
            return await self._admission.admit(self._queue, handed)
        except BrokerError as error:
            logger.warning("a message of %s cannot be looked at yet: %s", self._queue, error)
            handed.give_back()
            await asyncio.sleep(AGAIN_SECONDS)
            return None

    def _deliver(self, handed: Handed, admitted: Admitted) -> FoldedDelivery:
        assert self._intake is not None, "it has just handed this out"
        intake = self._intake
        delivery = FoldedDelivery(self._writing, handed, admitted, partial(self._settled, intake))
        self._held.add(delivery)
        self._unsettled[intake] += 1
        if self._leasing is None:
            self._leasing = asyncio.create_task(self._keep_leases(), name=f"queuecast leases {self._queue}")
        return delivery

    def _settled(self, intake: Intake, delivery: FoldedDelivery) -> None:
        self._held.discard(delivery)
        if delivery.lease is None:
            self._let_go_of(intake)
        else:
            self._resize()

    def _let_go_of(self, intake: Intake) -> None:
        self._unsettled[intake] -= 1
        if not self._unsettled[intake] and intake is not self._intake:
            del self._unsettled[intake]
            asyncio.ensure_future(intake.aclose())

    # Tasks of hours

    def _leased(self) -> int:
        return sum(delivery.lease is not None for delivery in self._held)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for delivery in tuple(self._held):
                try:
                    if delivery.lease is None and delivery.is_long:
                        await delivery.hand_over()
                        self._resize()
                    elif delivery.lease is not None and delivery.lease.is_due:
                        await delivery.lease.renew()
                except BrokerError as error:
                    logger.warning("the lease of %r is not renewed yet: %s", delivery, error)

    def _resize(self) -> None:
        """A server counts only what it has handed out and is not settled: so an intake takes as many fewer."""
        intake, self._intake = self._intake, None
        if intake is not None:
            intake.stop()
            if not self._unsettled[intake]:
                del self._unsettled[intake]
                asyncio.ensure_future(intake.aclose())
        self._room.set()

    # Ending

    async def _lose(self, error: BrokerError) -> None:
        """The server hands out again what was held here; what has a lease goes on."""
        self._check()
        logger.warning("queue %s cannot be consumed, trying again: %s", self._queue, error)
        for delivery in self._give_up():
            self._on_lost(delivery)
        await self._close_intakes()
        await asyncio.sleep(AGAIN_SECONDS)

    def stop(self) -> None:
        self._stopped = True
        self._room.set()
        if self._intake is not None:
            self._intake.stop()

    async def aclose(self) -> None:
        self._stopped = True
        self._give_up()
        if self._leasing is not None:
            self._leasing.cancel()
        await self._close_intakes()

    def _give_up(self) -> list[FoldedDelivery]:
        lost = [delivery for delivery in self._held if delivery.lease is None]
        for delivery in lost:
            delivery.gone = True
            self._held.discard(delivery)
        return lost

    async def _close_intakes(self) -> None:
        intakes = {*self._unsettled} | ({self._intake} if self._intake is not None else set())
        self._intake = None
        self._unsettled.clear()
        for intake in intakes:
            with suppress(BrokerError):
                await intake.aclose()


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
        self.gone = False
        """It was given back, or its connection is lost: the server hands it to others."""
        self.lease: Lease | None = None
        """Once it has been handed over."""
        self._writing = writing
        self._taken_at = time.monotonic()
        self._handed = handed
        self._settled = settled
        self._record: Record | None = None
        """Of this delivery's run alone."""

    def __repr__(self) -> str:
        return f"<FoldedDelivery of {self.task.queue}.{self.task.name} {self.task.id}>"

    async def begin(self, event: Event) -> Awaitable[object]:
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
        if self.lease is not None:
            return self._do(self._again(self.attempt, 0.0, events))
        return self._do(self._release(self._written(events)))

    @property
    def is_long(self) -> bool:
        """It is time to hand it over."""
        return self.lease is None and self._record is not None and time.monotonic() >= self._taken_at + HAND_OVER

    async def hand_over(self) -> None:
        """Settle it behind a lease; see `lease`. Raises `BrokerError`."""
        run = self._record.run if self._record is not None else None
        assert run is not None, "only what runs is long"
        lease = Lease(self._writing, self.task, self.attempt, run)
        await lease.renew()
        self.lease = lease
        self._handed.settle()

    # The orders of writes: what must be durable, then the settling

    async def _end(self, events: Sequence[Event], written: Awaitable[object]) -> None:
        await written
        last = events[-1] if events else None
        if isinstance(last, ResultEvent) and self._is_over(last):
            await self._answer(last)
            self._settle(self._handed.settle)
        else:
            # It ended nothing, so the task is delivered again rather than stuck.
            self._settle(self._handed.give_back)

    async def _again(self, attempt: int, delay: float, events: Sequence[Event]) -> None:
        """By a copy, which is durable before the log says so."""
        bodies = _encoded(events)
        if self.gone:
            raise BrokerUnavailable("this delivery was handed to somebody else: what comes after it is theirs")
        await self._writing.driver.put([Parcel(self.task.queue, pack(self.task, attempt), delay)])
        self._fold(events)
        await self._writing.append(self.task.queue, bodies)
        self._settle(self._handed.settle)

    async def _reject(self, reason: str, events: Sequence[Event]) -> None:
        bodies = _encoded(events)
        last = events[-1] if events else None
        error = last.error if isinstance(last, ResultEvent) and last.error else ErrorInfo(reason)
        await self._writing.dead.bury(self.task, error)
        self._fold(events)
        await self._writing.append(self.task.queue, bodies)
        if isinstance(last, ResultEvent):
            await self._answer(last)
        self._settle(self._handed.settle)

    async def _release(self, written: Awaitable[object]) -> None:
        await written
        now = time.time()
        if self._record is None and self.attempt == 1 and is_expired(self.task, now):
            await self._writing.dead.bury(self.task, EXPIRED)
            await self._written([ended(self.task, "failed", now, error=EXPIRED)])
            self._settle(self._handed.settle)
        else:
            self._settle(self._handed.give_back)

    # Its steps

    def _written(self, events: Sequence[Event]) -> Awaitable[object]:
        """On its way when this returns, durable when it is awaited."""
        try:
            bodies = _encoded(events)
            self._fold(events)
            return self._writing.append(self.task.queue, bodies) if bodies else _done()
        except QueuecastError as error:
            return _failed(error)

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

    def _settle(self, verb: Callable[[], None]) -> None:
        verb()
        self._settled(self)

    def _do(self, steps: Coroutine[Any, Any, None]) -> Awaitable[object]:
        task = asyncio.ensure_future(steps)
        task.add_done_callback(_seen)
        return task


def _encoded(events: Sequence[Event]) -> list[bytes]:
    """Raises `TooLarge`, before anything is written."""
    return [encode_event(event) for event in events]


def _done() -> Awaitable[object]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


def _failed(error: Exception) -> Awaitable[object]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    future.exception()  # looked at, so that nobody calls it unseen where it is never awaited
    return future


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
