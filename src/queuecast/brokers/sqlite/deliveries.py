"""What this process holds: its consumers and their deliveries, in the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from ...errors import BrokerUnavailable
from ...event import Event
from ..base import Delivery, OnLost
from .demand import Delivered
from .operations import Claim, Consumer, Disown, Leave, Operation, Report, Settle, Want

Hand = Callable[[Operation], asyncio.Future[Any]]
"""To the writer. Raises `BrokerUnavailable` where the broker is closed."""


class LocalConsumer(Consumer):
    """A consumer, and what was claimed for it and not fetched yet."""

    def __init__(self, queue: str, on_lost: OnLost) -> None:
        super().__init__(queue)
        self.on_lost = on_lost
        self.left = False
        self._inbox: asyncio.Queue[SQLiteDelivery | BrokerUnavailable] = asyncio.Queue()

    def put(self, delivery: SQLiteDelivery) -> None:
        self._inbox.put_nowait(delivery)

    def end(self, reason: str) -> None:
        self._inbox.put_nowait(BrokerUnavailable(reason))

    async def next(self) -> SQLiteDelivery:
        delivery = await self._inbox.get()
        if isinstance(delivery, BrokerUnavailable):
            raise delivery
        return delivery


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

    def __repr__(self) -> str:
        return f"<SQLiteDelivery of {self.task.queue}.{self.task.name} {self.task.id}, claim {self.claim.number}>"

    def append(self, *events: Event) -> Awaitable[None]:
        return self._hand(Report(self.task.queue, events))

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
        settle = Settle(self.claim, events, due=due, attempt=attempt, consumer=self.consumer, frees=self.counts)
        settled = self._hand(settle)
        self.counts = False
        return settled


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

    def enter(self, consumer: LocalConsumer, concurrency: int) -> None:
        self._hand(Want(consumer, concurrency)).add_done_callback(_seen)
        self._consumers.add(consumer)

    def leave(self, consumer: LocalConsumer) -> list[Awaitable[None]]:
        """Give back what it holds; each is done when it is awaited."""
        consumer.left = True
        self._consumers.discard(consumer)
        mine = [delivery for delivery in self._held.values() if delivery.consumer is consumer and delivery.counts]
        return [self._hand(Leave(consumer)), *(delivery.release() for delivery in mine)]

    def end(self, reason: str) -> None:
        """Give everything back, and tell whoever waits that no more will come."""
        for consumer in tuple(self._consumers):
            for given_back in self.leave(consumer):
                asyncio.ensure_future(given_back).add_done_callback(_seen)
            consumer.end(reason)

    def lose(self, reason: str) -> None:
        """Nothing can be given back any more: others take it, as from a process that died."""
        consumers, self._consumers = self._consumers, set()
        for consumer in consumers:
            consumer.left = True
            consumer.end(reason)
        self.renewed(())

    def add(self, deliveries: Iterable[Delivered]) -> None:
        for delivered in deliveries:
            delivery = SQLiteDelivery(delivered, self._hand)
            self._held[delivery.claim] = delivery
            if delivery.consumer.left:
                asyncio.ensure_future(delivery.release()).add_done_callback(_seen)
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
            self._hand(Disown(tuple(unknown))).add_done_callback(_seen)

    def _make_room(self, consumer: Consumer) -> None:
        if consumer in self._consumers:
            self._hand(Want(consumer, 1)).add_done_callback(_seen)


def _seen(future: asyncio.Future[Any]) -> None:
    """Of what nobody awaits: its failure is no surprise to anyone, the next renewal repairs it."""
    if not future.cancelled():
        future.exception()
