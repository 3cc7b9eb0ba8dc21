"""What a worker takes from a server's queue."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from ...errors import BrokerError
from ..base import Consumer, Delivery, OnLost
from .admission import Admission, Admitted
from .delivery import FoldedDelivery
from .driver import Handed, Intake
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
        self._closing: set[asyncio.Future[None]] = set()
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
            self._intake.on_lost = partial(self._taken_away, self._intake)
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
        if delivery not in self._held:
            return  # It was taken away before.
        self._held.discard(delivery)
        if delivery.lease is None:
            self._let_go_of(intake)
        else:
            self._resize()

    def _let_go_of(self, intake: Intake) -> None:
        self._unsettled[intake] -= 1
        if not self._unsettled[intake] and intake is not self._intake:
            self._close(intake)

    def _close(self, intake: Intake) -> None:
        del self._unsettled[intake]
        closing = asyncio.ensure_future(intake.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

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
                self._close(intake)
        self._room.set()

    # Ending

    def _taken_away(self, intake: Intake, handed: Handed) -> None:
        """By the server, for somebody else; what has a lease was settled before."""
        for delivery in tuple(self._held):
            if delivery.handed is handed:
                delivery.gone = True
                self._settled(intake, delivery)
                self._on_lost(delivery)

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
        await asyncio.gather(*self._closing, return_exceptions=True)
