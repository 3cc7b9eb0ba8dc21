"""Taking messages from a queue."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec.structs import replace

from ...errors import BrokerError, BrokerUnavailable
from ..folded.driver import Handed, Intake
from ..folded.wire import AGAIN, Message
from . import frames
from .adoption import not_permitted
from .faults import Refused
from .line import Channel
from .link import Link

logger = logging.getLogger(__name__)

WORN: Final = 3
"""Deliveries of a message without an ack, after which it is put back as a new one.

RabbitMQ 4 drops what a quorum queue has delivered 20 times, and a limit of the queue's own may be lower (one below
this is not noticed). It counts each worker that dies or stops with the message in its hands.
"""

_COUNTED: Final = ("x-delivery-count", "x-acquired-count")
"""Headers in which a quorum queue tells how often; a copy begins anew."""


class RabbitHanded(Handed):
    def __init__(self, intake: RabbitIntake, channel: Channel, tag: int, again: bool, message: Message) -> None:
        self._intake = intake
        self._channel = channel
        self._tag = tag
        self.again = again
        self.at = time.monotonic()
        self.message = message

    @property
    def is_held(self) -> bool:
        return self._intake.holds(self._tag)

    def settle(self) -> None:
        if self._intake.forget(self._tag):
            self._channel.send(frames.ack(self._channel.number, self._tag))

    def give_back(self) -> None:
        if self._intake.forget(self._tag):
            self._channel.send(frames.nack(self._channel.number, self._tag))


class RabbitIntake(Intake):
    """A consumer on a channel of its own."""

    def __init__(
        self, link: Link, queue: str, concurrency: int, put_back: Callable[[Message], Awaitable[None]]
    ) -> None:
        """`put_back` puts a message into the queue, durably. Raises `BrokerError`."""
        self._link = link
        self._put_back = put_back
        self._queue = queue
        self._concurrency = concurrency
        self._channel: Channel | None = None
        self._tag = ""
        self._arrived: deque[RabbitHanded] = deque()
        self._renewing: set[asyncio.Task[None]] = set()
        self._unsettled: set[int] = set()
        self._is_stopped = False
        self._ended: BrokerUnavailable | None = None
        self._waiting: asyncio.Future[None] | None = None

    async def __anext__(self) -> Handed:
        if self._channel is None and not self._is_stopped:
            await self._begin()
        while not self._arrived:
            if self._is_stopped:
                raise StopAsyncIteration
            if self._ended:
                raise self._ended
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._arrived.popleft()

    def stop(self) -> None:
        if self._is_stopped:
            return
        self._is_stopped = True
        if self._channel and self._channel.is_open and self._tag:
            self._channel.raw.basic_cancel(self._tag)
        while self._arrived:
            self._arrived.popleft().give_back()
        self._wake()

    async def aclose(self) -> None:
        self.stop()
        if self._renewing:
            if self._channel is None or not self._channel.is_open:
                for renewing in self._renewing:
                    renewing.cancel()
            await asyncio.wait(self._renewing)
        if self._channel:
            for tag in sorted(self._unsettled):
                self._channel.send(frames.nack(self._channel.number, tag))
            self._unsettled.clear()
            await self._channel.close()

    def holds(self, tag: int) -> bool:
        return tag in self._unsettled

    def forget(self, tag: int) -> bool:
        """False where it was settled before, or its connection is gone."""
        if tag not in self._unsettled:
            return False
        self._unsettled.remove(tag)
        return True

    async def _begin(self) -> None:
        channel = await self._link.channel()
        channel.closed.add_done_callback(lambda closed: self._end(closed.result()))
        raw = channel.raw
        raw.add_on_cancel_callback(lambda _: self._end(BrokerUnavailable(f"the queue {self._queue} was deleted")))
        self._channel = channel
        try:
            await channel.ask(raw.basic_qos, prefetch_count=self._concurrency)
            self._tag = await channel.consume(self._queue, self._arrive)
        except Refused as refusal:
            raise not_permitted(refusal) from None
        if self._is_stopped and channel.is_open:
            raw.basic_cancel(self._tag)

    def _arrive(self, tag: int, again: bool, message: Message) -> None:
        assert self._channel is not None
        self._unsettled.add(tag)
        handed = RabbitHanded(self, self._channel, tag, again or AGAIN in message.headers, message)
        if self._is_stopped:
            handed.give_back()
        elif again and _is_worn(message):
            renewing = asyncio.create_task(self._renew(handed))
            self._renewing.add(renewing)
            renewing.add_done_callback(self._renewing.discard)
        else:
            self._hand_out(handed)

    def _hand_out(self, handed: RabbitHanded) -> None:
        self._arrived.append(handed)
        self._wake()

    async def _renew(self, handed: RabbitHanded) -> None:
        headers = {name: value for name, value in handed.message.headers.items() if name not in _COUNTED}
        try:
            await self._put_back(replace(handed.message, headers={**headers, AGAIN: 1}))
        except BrokerError as error:
            logger.warning("a message of %s is handed out as it is: %s", self._queue, error)
            if self._is_stopped:
                handed.give_back()
            elif handed.is_held:
                self._hand_out(handed)
        else:
            handed.settle()

    def _end(self, reason: BrokerUnavailable) -> None:
        """What has arrived is with others now."""
        self._ended = self._ended or reason
        self._arrived.clear()
        if self._channel and not self._channel.is_open:
            self._unsettled.clear()
        self._wake()

    def _wake(self) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)


def _is_worn(message: Message) -> bool:
    count = message.headers.get(_COUNTED[0], 0)
    return isinstance(count, int) and count >= WORN
