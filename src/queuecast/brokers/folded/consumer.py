"""A worker's side: what it takes from a server's queue, and how it settles that."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from ...codec import encode_event
from ...errors import BrokerError, BrokerUnavailable, QueuecastError
from ...event import ErrorInfo, Event, ResultEvent, ended
from ...lifecycle import Record, apply
from ..base import Consumer, Delivery, OnLost
from .admission import EXPIRED, Admission, Admitted, is_expired
from .driver import Handed, Intake, Parcel
from .wire import answer_to, pack
from .writing import Writing

logger = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 1.0
"""Seconds before a queue is taken from again after its server failed, and before a message is looked at again."""


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
        self._held: set[FoldedDelivery] = set()
        self._stopped = False

    async def __anext__(self) -> Delivery:
        while not self._stopped:
            self._check()
            try:
                if self._intake is None:
                    self._intake = self._writing.driver.consume(self._queue, self._concurrency)
                handed = await anext(self._intake)
                admitted = await self._admit(handed)
            except StopAsyncIteration:
                break
            except BrokerError as error:
                await self._lose(error)
                continue
            if admitted is not None:
                return self._deliver(handed, admitted)
        raise StopAsyncIteration

    async def _admit(self, handed: Handed) -> Admitted | None:
        try:
            return await self._admission.admit(self._queue, handed)
        except BrokerError as error:
            logger.warning("a message of %s cannot be looked at yet: %s", self._queue, error)
            handed.give_back()
            await asyncio.sleep(AGAIN_SECONDS)
            return None

    def _deliver(self, handed: Handed, admitted: Admitted) -> FoldedDelivery:
        delivery = FoldedDelivery(self._writing, handed, admitted, self._held.discard)
        self._held.add(delivery)
        return delivery

    async def _lose(self, error: BrokerError) -> None:
        """The server hands out again what was held here."""
        self._check()
        logger.warning("queue %s cannot be consumed, trying again: %s", self._queue, error)
        for delivery in self._let_go():
            self._on_lost(delivery)
        await self._close_intake()
        await asyncio.sleep(AGAIN_SECONDS)

    def stop(self) -> None:
        self._stopped = True
        if self._intake is not None:
            self._intake.stop()

    async def aclose(self) -> None:
        self._stopped = True
        self._let_go()
        await self._close_intake()

    def _let_go(self) -> set[FoldedDelivery]:
        held, self._held = self._held, set()
        for delivery in held:
            delivery.gone = True
        return held

    async def _close_intake(self) -> None:
        intake, self._intake = self._intake, None
        if intake is not None:
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
        self._writing = writing
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
        return self._do(self._retry(delay, events))

    def reject(self, reason: str, *events: Event) -> Awaitable[object]:
        return self._do(self._reject(reason, events))

    def release(self, *events: Event) -> Awaitable[object]:
        return self._do(self._release(self._written(events)))

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

    async def _retry(self, delay: float, events: Sequence[Event]) -> None:
        bodies = _encoded(events)
        if self.gone:
            raise BrokerUnavailable("this delivery was handed to somebody else: its retry is theirs")
        await self._writing.driver.put([Parcel(self.task.queue, pack(self.task, self.attempt + 1), delay)])
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
