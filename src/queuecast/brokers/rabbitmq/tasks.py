"""Putting messages into queues."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from ...errors import BrokerUnavailable, OutcomeUnknown
from ..folded.wire import Message
from .properties import to_amqp
from .publisher import Publisher, Ticket

GROUP: Final = 500
"""Messages that are handed to the connection at once."""


class Addressed(NamedTuple):
    """A message, and where it goes."""

    exchange: str
    routing_key: str
    message: Message


class _Put(Ticket):
    """All messages of one call."""

    def __init__(self, count: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = count
        self.none_taken = True
        self._reason: BrokerUnavailable | None = None

    def taken(self) -> None:
        self.none_taken = False
        self._left -= 1
        if not self._left:
            self._finish()

    def refused(self, reason: BrokerUnavailable) -> None:
        self._reason = self._reason or reason
        self._left -= 1
        if not self._left:
            self._finish()

    def lost(self, reason: BrokerUnavailable) -> None:
        self.none_taken = False
        self.refused(reason)

    def overdue(self, reason: BrokerUnavailable) -> None:
        if not self.done.done():
            self.done.set_exception(OutcomeUnknown(str(reason)))

    def not_sent(self, count: int, reason: BrokerUnavailable) -> None:
        """The last so many, which the connection has never seen."""
        self._reason = self._reason or reason
        self._left -= count
        if not self._left:
            self._finish()

    def _finish(self) -> None:
        if self.done.done():
            return
        if self._reason is None:
            self.done.set_result(None)
        elif self.none_taken:
            self.done.set_exception(self._reason)
        else:
            self.done.set_exception(OutcomeUnknown(f"some of it may have been taken: {self._reason}"))


async def put(publisher: Publisher, parcels: Sequence[Addressed], *, mandatory: bool = True) -> None:
    """Returns once the server has all of them. Raises `BrokerUnavailable` where it has none, else `OutcomeUnknown`."""
    if not parcels:
        return
    # All of them before the first is sent, because the last may be one that cannot be.
    encoded = [to_amqp(parcel.message) for parcel in parcels]
    if not publisher.is_ready:
        await publisher.ready()
    ticket = _Put(len(parcels))
    for start in range(0, len(parcels), GROUP):
        try:
            while not publisher.has_room:
                await publisher.room()
                await publisher.ready()
        except BrokerUnavailable as reason:
            ticket.not_sent(len(parcels) - start, reason)
            break
        for (exchange, routing_key, message), properties in zip(
            parcels[start : start + GROUP], encoded[start : start + GROUP], strict=True
        ):
            mark = message.id or ""
            publisher.publish(ticket, exchange, routing_key, properties, message.body, mandatory=mandatory, mark=mark)
    await ticket.done
