"""The channel for everything that is published: confirms are counted, and handed to whom they concern."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ...errors import BrokerUnavailable
from . import frames
from .line import Channel, Line
from .link import UP_SECONDS, Link

MAX_UNCONFIRMED: Final = 4_096
"""Messages on their way at most. Whoever publishes tasks waits for room beyond it; the few of each log do not."""


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


class _Sent(NamedTuple):
    ticket: Ticket
    routing_key: str
    mark: str
    """Tells it from others with the same routing key, where the server returns it."""


class Publisher:
    """Publishes on one link. `on_ready` are called whenever it can go on."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._line: Line | None = None
        self._channel: Channel | None = None
        self._pending: dict[int, _Sent] = {}
        self._returned: dict[int, BrokerUnavailable] = {}
        self._last = 0
        self._settled = 0
        """Every tag up to this one is settled."""
        self._open = asyncio.Event()
        self._room = asyncio.Event()
        self.on_ready: list[Callable[[], None]] = []

    async def attach(self, line: Line) -> None:
        """Go on with a new connection."""
        channel = await line.channel()
        await channel.ask(channel.raw.confirm_delivery, ack_nack_callback=self._on_confirm)
        channel.raw.add_on_return_callback(self._on_return)
        self._line, self._channel = line, channel
        self._last = self._settled = 0
        # A channel that the server closes takes the connection along: one way back is enough.
        channel.closed.add_done_callback(lambda closed: self._detach(channel, closed.result()))
        line.on_blocked = self._look
        self._look()

    @property
    def is_ready(self) -> bool:
        return self._open.is_set()

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
        """Returns once fewer than MAX_UNCONFIRMED are on their way, or the connection is lost."""
        while len(self._pending) >= MAX_UNCONFIRMED:
            self._room.clear()
            await self._room.wait()

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
        self._pending[self._last] = _Sent(ticket, routing_key, mark)

    async def flushed(self) -> None:
        """Returns once what was published has left the process."""
        if self._channel:
            await self._channel.stream.drained()

    async def finished(self) -> None:
        """Returns once nothing is on its way."""
        while self._pending:
            self._room.clear()
            await self._room.wait()

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tag: int = method.delivery_tag
        if method.multiple:
            for each in range(self._settled + 1, tag + 1):
                self._settle(each, method)
            self._settled = max(self._settled, tag)
        else:
            self._settle(tag, method)
            if tag == self._settled + 1:
                self._settled = tag
        self._room.set()

    def _settle(self, tag: int, method: Any) -> None:
        sent = self._pending.pop(tag, None)
        if sent is None:
            return
        returned = self._returned.pop(tag, None) if self._returned else None
        if returned:
            sent.ticket.refused(returned)
        elif method.NAME == "Basic.Ack":
            sent.ticket.taken()
        else:
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

    def _look(self) -> None:
        if self.obstacle:
            self._open.clear()
        else:
            self._open.set()
            for go_on in self.on_ready:
                go_on()
