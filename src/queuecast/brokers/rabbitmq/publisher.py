"""The channel for everything that is published: confirms are counted, and handed to whom they concern."""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ...errors import BrokerUnavailable
from . import frames
from .incoming import Receiver
from .line import Channel, Line
from .link import UP_SECONDS, Link

MAX_UNCONFIRMED: Final = 4_096
"""Messages on their way at most. Whoever publishes tasks waits for room beyond it; the few of each log do not."""

PUT_SECONDS: Final = 10.0
"""Seconds that a task's message waits for room, and then for its confirm. After the first it is not sent, after the
second nobody knows (up to GLANCE_SECONDS later: a timer for each message would cost a tenth of a submit).
"""

CONFIRM_SECONDS: Final = 5.0
"""Seconds for a message to be confirmed. Then its connection is given up for a new one.

When the leader of a queue dies, RabbitMQ 3.10 may leave a channel without any more confirms of it. Of a stream it
forgets one confirm, and confirms a later message without having it: that log is sent again from the first on.
"""

RENEW_SECONDS: Final = 30.0
"""Seconds between two connections that are given up because of a nack.

A full queue may say no at any time. But after the death of its leader RabbitMQ 3.10 may say no on a channel for ever,
while another channel is served.
"""

GLANCE_SECONDS: Final = 1.0
"""Seconds between two looks for what has not been confirmed in time."""


class Ticket(ABC):
    """Who waits for confirms. Each message that was published for it brings one call of one of these."""

    @abstractmethod
    def taken(self) -> None:
        """The server has it."""

    @abstractmethod
    def refused(self, reason: BrokerUnavailable) -> None:
        """The server has not taken it."""

    @abstractmethod
    def lost(self, reason: BrokerUnavailable) -> None:
        """Nobody knows."""

    @abstractmethod
    def overdue(self, reason: BrokerUnavailable) -> None:
        """Not confirmed for PUT_SECONDS, told every GLANCE_SECONDS until one of the others follows."""


class _Sent(NamedTuple):
    ticket: Ticket
    routing_key: str
    mark: str
    """Tells it from others with the same routing key, where the server returns it."""
    at: float
    """When it was sent, in monotonic seconds."""


class Publisher:
    """Publishes on one channel of a link. `on_ready` are called whenever it can go on."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._line: Line | None = None
        self._channel: Channel | None = None
        self._pending: dict[int, _Sent] = {}
        self._returned: dict[int, BrokerUnavailable] = {}
        self._last = 0
        self._settled = 0
        """Every tag up to this one is settled."""
        self._watch: asyncio.TimerHandle | None = None
        self._oldest = (0, 0.0)
        """The tag that has been waiting longest, and since when it is known to."""
        self._refused_at: float | None = None
        self._renewed_at = -math.inf
        self._open = asyncio.Event()
        self._room = asyncio.Event()
        self.on_ready: list[Callable[[], None]] = []

    async def attach(self, line: Line) -> None:
        """Go on with a new connection."""
        channel = await line.channel()
        channel.receive(Receiver(on_ack=self._on_ack))
        await channel.ask(channel.raw.confirm_delivery, ack_nack_callback=self._on_nack)
        channel.raw.add_on_return_callback(self._on_return)
        self._line, self._channel = line, channel
        self._last = self._settled = 0
        self._oldest = (0, 0.0)
        self._refused_at = None
        # A channel that the server closes takes the connection along: one way back is enough.
        channel.closed.add_done_callback(lambda closed: self._detach(channel, closed.result()))
        line.on_blocked.append(self._look)
        self._look()

    @property
    def is_ready(self) -> bool:
        return self._open.is_set()

    @property
    def has_room(self) -> bool:
        """Whether it is ready, and fewer than MAX_UNCONFIRMED are on their way."""
        return self._open.is_set() and len(self._pending) < MAX_UNCONFIRMED

    @property
    def obstacle(self) -> BrokerUnavailable | None:
        """Why nothing can be published now."""
        if self._line is None:
            return self._link.reason
        if self._line.blocked is not None:
            return BrokerUnavailable(
                f"RabbitMQ takes no messages now: {self._line.blocked} (an alarm of its memory or its disk)"
            )
        return None

    async def ready(self) -> None:
        """Raises `BrokerUnavailable` with the reason where nothing can be published for UP_SECONDS."""
        if not self._open.is_set():
            try:
                async with asyncio.timeout(UP_SECONDS):
                    await self._open.wait()
            except TimeoutError:
                raise self.obstacle or BrokerUnavailable("RabbitMQ comes and goes") from None

    async def room(self) -> None:
        """Returns once fewer than MAX_UNCONFIRMED are on their way, or the connection is lost.

        Raises `BrokerUnavailable` after PUT_SECONDS.
        """
        if len(self._pending) >= MAX_UNCONFIRMED:
            try:
                async with asyncio.timeout(PUT_SECONDS):
                    while len(self._pending) >= MAX_UNCONFIRMED:
                        self._room.clear()
                        await self._room.wait()
            except TimeoutError:
                raise self._unconfirmed() from None

    def _unconfirmed(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"{self.obstacle or 'RabbitMQ did not confirm'} within {PUT_SECONDS:.0f} s")

    def publish(
        self,
        ticket: Ticket,
        exchange: str,
        routing_key: str,
        properties: bytes,
        body: bytes,
        *,
        mandatory: bool = True,
        mark: str = "",
    ) -> None:
        """Only while it `is_ready`. Raises `InvalidInput` for what no frame can hold."""
        channel, line = self._channel, self._line
        assert channel is not None
        assert line is not None
        method = frames.publish(channel.number, exchange, routing_key, mandatory=mandatory)
        channel.stream.write(method + frames.content(channel.number, properties, body, line.frame_max))
        self._last += 1
        self._pending[self._last] = _Sent(ticket, routing_key, mark, time.monotonic())
        if self._watch is None:
            self._glance()

    async def flushed(self) -> None:
        """Returns once what was published has left the process."""
        if self._channel:
            await self._channel.stream.drained()

    async def finished(self) -> None:
        """Returns once nothing is on its way."""
        while self._pending:
            self._room.clear()
            await self._room.wait()

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._settle(tag, multiple, is_taken=True)

    def _on_nack(self, frame: Any) -> None:
        self._settle(frame.method.delivery_tag, frame.method.multiple, is_taken=False)

    def _settle(self, tag: int, multiple: bool, *, is_taken: bool) -> None:
        if multiple:
            for each in range(self._settled + 1, tag + 1):
                self._settle_one(each, is_taken)
            self._settled = max(self._settled, tag)
        else:
            self._settle_one(tag, is_taken)
            if tag == self._settled + 1:
                self._settled = tag
        self._room.set()
        if self._refused_at is not None:
            self._renew()

    def _settle_one(self, tag: int, is_taken: bool) -> None:
        sent = self._pending.pop(tag, None)
        if sent is None:
            return
        returned = self._returned.pop(tag, None) if self._returned else None
        if returned:
            sent.ticket.refused(returned)
        elif is_taken:
            sent.ticket.taken()
        else:
            self._refused_at = self._refused_at or time.monotonic()
            sent.ticket.refused(BrokerUnavailable(f"RabbitMQ did not take a message for {sent.routing_key} (nack)"))

    def _on_return(self, _: Any, method: Any, properties: Any, body: bytes) -> None:
        """It names no tag. What is returned comes in the order in which it was published, and before its confirm."""
        reason = BrokerUnavailable(f"RabbitMQ has no queue for {method.routing_key}: {method.reply_text}")
        for tag in sorted(self._pending):
            sent = self._pending[tag]
            same = sent.routing_key == method.routing_key and sent.mark == (properties.message_id or "")
            if same and tag not in self._returned:
                self._returned[tag] = reason
                return

    def _detach(self, channel: Channel, reason: BrokerUnavailable) -> None:
        if channel is not self._channel or self._line is None:
            return
        line, self._line, self._channel = self._line, None, None
        pending, self._pending = self._pending, {}
        self._returned.clear()
        self._look()
        line.abort(reason)
        self._room.set()
        for sent in pending.values():
            sent.ticket.lost(reason)

    def _renew(self) -> None:
        """After a nack, when nothing is on its way that would become uncertain, or that does not end."""
        now = time.monotonic()
        if self._line is None or self._refused_at is None or now - self._renewed_at < RENEW_SECONDS:
            return
        if not self._pending or now - self._refused_at > CONFIRM_SECONDS:
            self._renewed_at = now
            self._line.abort(BrokerUnavailable("RabbitMQ did not take a message (nack)"))

    def _glance(self) -> None:
        self._watch = None
        line, oldest = self._line, next(iter(self._pending), None)
        if line is None or oldest is None:
            return
        self._tell_overdue(time.monotonic() - PUT_SECONDS)
        if oldest != self._oldest[0] or line.blocked is not None:
            self._oldest = (oldest, time.monotonic())
        elif time.monotonic() - self._oldest[1] > CONFIRM_SECONDS:
            line.abort(BrokerUnavailable(f"RabbitMQ did not confirm a message for {self._pending[oldest].routing_key}"))
        self._renew()
        self._watch = asyncio.get_running_loop().call_later(GLANCE_SECONDS, self._glance)

    def _tell_overdue(self, before: float) -> None:
        for sent in self._pending.values():
            if sent.at > before:
                break
            sent.ticket.overdue(self._unconfirmed())

    def _look(self) -> None:
        if self.obstacle:
            self._open.clear()
        else:
            self._open.set()
            for go_on in self.on_ready:
                go_on()
