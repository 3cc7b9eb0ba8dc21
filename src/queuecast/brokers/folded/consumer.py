"""What a worker takes from a server's queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
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

CLOSE_SECONDS: Final = 5.0
"""How long closing may take to give back what has a lease; what is not then comes back when its lease is over."""


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
        self._size = concurrency
        """How many the intake takes, or the next one."""
        self._held: dict[Handed, Intake] = {}
        """What the server knows to be here, and where it came from: this intake, or one that has taken its last."""
        self._deliveries: set[FoldedDelivery] = set()
        self._leased: set[FoldedDelivery] = set()
        """Those of them that the server takes for settled."""
        self._closing: set[asyncio.Future[None]] = set()
        self._changed = asyncio.Event()
        self._leasing: asyncio.Task[None] | None = None
        self._stopped = False

    async def __anext__(self) -> Delivery:
        while not self._stopped:
            self._check()
            try:
                delivery = await self._admit(await self._next_handed())
            except StopAsyncIteration:
                continue  # It was stopped, or gives way to one of another size.
            except BrokerError as error:
                await self._lose(error)
                continue
            if delivery is not None:
                return delivery
        raise StopAsyncIteration

    async def _next_handed(self) -> Handed:
        while self._intake is None and self._size <= 0:
            await self._change()
            self._size = self._wanted
        if self._intake is None:
            self._intake = self._writing.driver.consume(self._queue, self._size)
            self._intake.on_lost = self._taken_away
        intake = self._intake
        handed = await anext(intake)
        self._held[handed] = intake
        while len(self._held) + len(self._leased) > self._concurrency:
            if intake is not self._intake:
                handed.give_back()
                self._let_go(handed)
                raise StopAsyncIteration
            await self._change()
        return handed

    async def _change(self) -> None:
        """Returns when there may be more room, or it may be another's turn."""
        self._changed.clear()
        await self._changed.wait()
        if self._stopped:
            raise StopAsyncIteration

    async def _admit(self, handed: Handed) -> FoldedDelivery | None:
        admitted = await self._examined(handed)
        if admitted is None or not handed.is_held:  # It is not to run, or was taken away meanwhile.
            self._let_go(handed)
            return None
        delivery = FoldedDelivery(self._writing, handed, admitted, self._settled)
        self._deliveries.add(delivery)
        if self._leasing is None:
            self._leasing = asyncio.create_task(self._keep_leases(), name=f"queuecast leases {self._queue}")
        return delivery

    async def _examined(self, handed: Handed) -> Admitted | None:
        """It is kept until it can be looked at: some servers drop what was given back too often."""
        while handed.is_held and not self._stopped:
            self._check()
            try:
                return await self._admission.admit(self._queue, handed)
            except BrokerError as error:
                logger.warning("a message of %s cannot be looked at yet: %s", self._queue, error)
            await asyncio.sleep(AGAIN_SECONDS)
        handed.give_back()
        return None

    def _settled(self, delivery: FoldedDelivery) -> None:
        self._deliveries.discard(delivery)
        self._leased.discard(delivery)
        self._let_go(delivery.handed)

    # Room. A server counts what is not settled; what has a lease is, and what an earlier intake took it counts there.

    @property
    def _wanted(self) -> int:
        """How many the intake should take. What it holds itself may be more than there is room for, for a while."""
        earlier = sum(intake is not self._intake for intake in self._held.values())
        return self._concurrency - len(self._leased) - earlier

    def _fit(self) -> None:
        """Replace the intake by one that takes as many as it should."""
        wanted = self._wanted
        if wanted != self._size:
            self._end_intake()
            self._size = wanted

    def _let_go(self, handed: Handed) -> None:
        """The server does not count it any more."""
        intake = self._held.pop(handed, None)
        if intake is not None and intake is not self._intake and intake not in self._held.values():
            self._close(intake)
        self._changed.set()

    def _end_intake(self) -> None:
        """It takes no more; what it has handed out stays so."""
        intake, self._intake = self._intake, None
        if intake is not None:
            intake.stop()
            if intake not in self._held.values():
                self._close(intake)
        self._changed.set()

    def _close(self, intake: Intake) -> None:
        closing = asyncio.ensure_future(intake.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closed)

    def _closed(self, closing: asyncio.Future[None]) -> None:
        self._closing.discard(closing)
        if not closing.cancelled() and (error := closing.exception()) is not None:
            logger.debug("an intake of %s was not closed: %s", self._queue, error)

    # Tasks of hours

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.gather(*map(self._keep, self._deliveries))
            self._fit()

    async def _keep(self, delivery: FoldedDelivery) -> None:
        try:
            if delivery.is_long:
                await delivery.hand_over()
                if delivery in self._deliveries:  # It may have been settled, or lost, meanwhile.
                    self._leased.add(delivery)
                    self._let_go(delivery.handed)
            elif delivery.lease is not None and delivery.lease.is_over:
                self._give_up(delivery)
                self._on_lost(delivery)
            elif delivery.lease is not None and delivery.lease.is_due:
                await delivery.renew()
        except BrokerError as error:
            logger.warning("the lease of %r is not renewed yet: %s", delivery, error)

    # Ending

    def _taken_away(self, handed: Handed) -> None:
        """By the server, for somebody else; what has a lease was settled before."""
        for delivery in self._deliveries - self._leased:
            if delivery.handed is handed:
                self._give_up(delivery)
                self._on_lost(delivery)
        self._let_go(handed)

    async def _lose(self, error: BrokerError) -> None:
        """The server hands out again what was held here; what has a lease goes on."""
        self._check()
        logger.warning("queue %s cannot be consumed, trying again: %s", self._queue, error)
        for delivery in self._deliveries - self._leased:
            self._give_up(delivery)
            self._on_lost(delivery)
        await self._close_intakes()
        await asyncio.sleep(AGAIN_SECONDS)
        with suppress(BrokerError):
            await self._writing.driver.declare(self._queue, None)  # It may have been deleted.

    def stop(self) -> None:
        self._stopped = True
        self._changed.set()
        if self._intake is not None:
            self._intake.stop()

    async def aclose(self) -> None:
        self.stop()
        if self._leasing is not None:
            self._leasing.cancel()
            await asyncio.wait([self._leasing])
        leases = [delivery.lease for delivery in self._leased if delivery.lease is not None]
        for delivery in tuple(self._deliveries):
            self._give_up(delivery)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*(lease.give_back() for lease in leases), return_exceptions=True)
        await self._close_intakes()

    def _give_up(self, delivery: FoldedDelivery) -> None:
        delivery.gone = True
        self._deliveries.discard(delivery)
        self._leased.discard(delivery)
        self._changed.set()

    async def _close_intakes(self) -> None:
        intakes = {*self._held.values()} | ({self._intake} if self._intake is not None else set())
        self._intake = None
        self._held.clear()
        self._size = self._wanted
        for intake in intakes:
            with suppress(BrokerError):
                await intake.aclose()
        await asyncio.gather(*self._closing, return_exceptions=True)
