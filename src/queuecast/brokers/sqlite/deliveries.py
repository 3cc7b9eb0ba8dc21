"""What this process holds: its consumers and their deliveries, in the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, Protocol

from ...errors import BrokerError, BrokerUnavailable
from ...event import Event
from ..base import Consumer, Delivery, OnLost
from ..futures import seen
from .demand import Delivered
from .operations import Chain, Claim, Disown, Leave, Operation, Report, Settle, Taker, Want

P = ParamSpec("P")


class Hand(Protocol):
    """To the writer. What goes wrong is raised where the future is awaited."""

    def __call__(self, kind: Callable[P, Operation], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[Any]: ...


class LocalConsumer(Taker, Consumer):
    """A consumer, and what was claimed for it and not fetched yet."""

    def __init__(self, holdings: Holdings, queue: str, concurrency: int, on_lost: OnLost) -> None:
        super().__init__(queue)
        self.concurrency = concurrency
        self.on_lost = on_lost
        self.left = False
        """It takes nothing more."""
        self._holdings = holdings
        self._entered = False
        self._inbox: deque[SQLiteDelivery] = deque()
        self._leaving: list[asyncio.Future[Any]] = []
        self._end: BrokerError | None = None
        self._news = asyncio.Event()

    async def __anext__(self) -> SQLiteDelivery:
        if not self._entered:
            self._entered = True
            self._holdings.enter(self)
        while not self._inbox:
            if self._end is not None:
                raise self._end
            if self.left:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._inbox.popleft()

    def stop(self) -> None:
        if not self.left:
            self._leaving = self._holdings.leave(self)

    async def aclose(self) -> None:
        self.stop()
        with suppress(BrokerError):
            await asyncio.gather(*self._leaving, *self._holdings.give_back(self))

    # What the holdings tell it

    def put(self, delivery: SQLiteDelivery) -> None:
        self._inbox.append(delivery)
        self._news.set()

    def leave(self) -> list[SQLiteDelivery]:
        """Takes nothing more; what it had not fetched yet."""
        self.left = True
        unfetched = list(self._inbox)
        self._inbox.clear()
        self._news.set()
        return unfetched

    def end(self, error: BrokerError) -> None:
        """No more will come."""
        self._end = error
        self._news.set()


class SQLiteDelivery(Delivery):
    """Holds a task by its claim until it is settled, or until it is handed back because this process stood still."""

    def __init__(self, delivered: Delivered, hand: Hand) -> None:
        consumer, claimed = delivered
        assert isinstance(consumer, LocalConsumer), "the writer hands back what it was given"
        self.task = task = claimed.task
        self.attempt = claimed.attempt
        self.suspect = claimed.suspect
        self.losses = claimed.losses
        self.claim = Claim(task.queue, task.id, claimed.claim)
        self.consumer = consumer
        self.counts = True
        """It takes up room of its consumer."""
        self._hand = hand
        self._chain = Chain()

    def __repr__(self) -> str:
        return f"<SQLiteDelivery of {self.task.queue}.{self.task.name} {self.task.id}, claim {self.claim.number}>"

    async def begin(self, event: Event) -> Awaitable[None]:
        # Its claim is a trace already: whose holder died is a suspect.
        return self.append(event)

    def append(self, *events: Event) -> Awaitable[None]:
        return self._hand(Report, self._in_order(), self.task.queue, events)

    def ack(self, *events: Event) -> Awaitable[None]:
        return self._settle(None, self.attempt, events)

    def retry(self, delay: float, *events: Event) -> Awaitable[None]:
        return self._settle(time.time() + delay, self.attempt + 1, events)

    def reject(self, reason: str, *events: Event) -> Awaitable[None]:
        return self._settle(None, self.attempt, events)

    def release(self, *events: Event) -> Awaitable[None]:
        # Back to its old place among those that wait.
        return self._settle(self.task.not_before or self.task.submitted_at, self.attempt, events)

    def _settle(self, due: float | None, attempt: int, events: tuple[Event, ...]) -> Awaitable[None]:
        settled = self._hand(
            Settle,
            self._in_order(),
            self.claim,
            events,
            due=due,
            attempt=attempt,
            consumer=self.consumer,
            frees=self.counts,
        )
        if not settled.done():  # it was taken
            self.counts = False
        return settled

    def _in_order(self) -> Chain:
        if self._chain.is_over:
            self._chain = Chain()
        return self._chain


class Holdings:
    """All deliveries of this process that are not settled yet. Told of every transaction by the broker."""

    def __init__(self, hand: Hand) -> None:
        self._hand = hand
        self._consumers: set[LocalConsumer] = set()
        self._held: dict[Claim, SQLiteDelivery] = {}

    def __len__(self) -> int:
        return len(self._held)

    def numbers(self) -> set[int]:
        """The queues that are consumed here."""
        return {consumer.number for consumer in self._consumers}

    def enter(self, consumer: LocalConsumer) -> None:
        self._consumers.add(consumer)
        entered = self._hand(Want, consumer, consumer.concurrency)
        entered.add_done_callback(partial(self._entered, consumer))

    def _entered(self, consumer: LocalConsumer, entered: asyncio.Future[Any]) -> None:
        if not entered.cancelled() and isinstance(error := entered.exception(), BrokerError):
            self._consumers.discard(consumer)
            consumer.end(error)

    def leave(self, consumer: LocalConsumer) -> list[asyncio.Future[Any]]:
        """It takes nothing more; what it fetched it keeps. Each step is done when it is awaited."""
        self._consumers.discard(consumer)
        steps = [self._hand(Leave, consumer), *map(asyncio.ensure_future, _released(consumer.leave()))]
        for step in steps:
            step.add_done_callback(seen)
        return steps

    def give_back(self, consumer: LocalConsumer) -> list[Awaitable[object]]:
        """What it still holds; each is done when it is awaited."""
        held = [delivery for delivery in self._held.values() if delivery.consumer is consumer and delivery.counts]
        return _released(held)

    def end(self, reason: str) -> None:
        """Give everything back, and tell whoever waits that no more will come."""
        for consumer in {*self._consumers, *(delivery.consumer for delivery in self._held.values())}:
            consumer.stop()
            for given_back in self.give_back(consumer):
                asyncio.ensure_future(given_back).add_done_callback(seen)
            consumer.end(BrokerUnavailable(reason))

    def lose(self, reason: str) -> None:
        """Nothing can be given back any more: others take it, as from a process that died."""
        consumers, self._consumers = self._consumers, set()
        for consumer in consumers:
            consumer.leave()
            consumer.end(BrokerUnavailable(reason))
        self.renewed(())

    def add(self, deliveries: Iterable[Delivered]) -> None:
        for delivered in deliveries:
            delivery = SQLiteDelivery(delivered, self._hand)
            self._held[delivery.claim] = delivery
            if delivery.consumer.left:
                asyncio.ensure_future(delivery.release()).add_done_callback(seen)
            else:
                delivery.consumer.put(delivery)

    def settled(self, operation: Settle, *, failed: bool) -> None:
        """One that could not be settled is forgotten as well; the next renewal finds that nobody knows its claim."""
        self._held.pop(operation.claim, None)
        if failed and operation.frees:
            self._make_room(operation.consumer)

    def renewed(self, claims: Iterable[Claim]) -> None:
        """Compare with what we really hold: tell of the lost, and let go of what no delivery here knows."""
        ours = set(claims)
        for claim, delivery in tuple(self._held.items()):
            if claim not in ours and delivery.counts:
                del self._held[claim]
                delivery.counts = False
                self._make_room(delivery.consumer)
                asyncio.get_running_loop().call_soon(delivery.consumer.on_lost, delivery)
        unknown = ours - self._held.keys()
        if unknown:
            self._hand(Disown, tuple(unknown)).add_done_callback(seen)

    def _make_room(self, consumer: Taker) -> None:
        if consumer in self._consumers:
            self._hand(Want, consumer, 1).add_done_callback(seen)


def _released(deliveries: Iterable[Delivery]) -> list[Awaitable[object]]:
    return [delivery.release() for delivery in deliveries]
