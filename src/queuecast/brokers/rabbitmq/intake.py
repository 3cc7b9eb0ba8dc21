"""Taking messages from a queue."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from ...errors import BrokerUnavailable
from ..folded.driver import Handed, Intake
from ..folded.wire import Message
from . import frames
from .adoption import not_permitted
from .faults import Refused
from .line import Channel
from .link import Link


class RabbitHanded(Handed):
    def __init__(self, intake: RabbitIntake, channel: Channel, tag: int, again: bool, message: Message) -> None:
        self._intake = intake
        self._channel = channel
        self._tag = tag
        self.again = again
        self.at = time.monotonic()
        self.message = message

    def settle(self) -> None:
        if self._intake.forget(self._tag):
            self._channel.send(frames.ack(self._channel.number, self._tag))

    def give_back(self) -> None:
        if self._intake.forget(self._tag):
            self._channel.send(frames.nack(self._channel.number, self._tag))


class RabbitIntake(Intake):
    """A consumer on a channel of its own."""

    def __init__(self, link: Link, queue: str, concurrency: int) -> None:
        self._link = link
        self._queue = queue
        self._concurrency = concurrency
        self._channel: Channel | None = None
        self._tag = ""
        self._arrived: deque[RabbitHanded] = deque()
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
        if self._channel:
            for tag in sorted(self._unsettled):
                self._channel.send(frames.nack(self._channel.number, tag))
            self._unsettled.clear()
            await self._channel.close()

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
        handed = RabbitHanded(self, self._channel, tag, again, message)
        if self._is_stopped:
            handed.give_back()
            return
        self._arrived.append(handed)
        self._wake()

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
