"""One connection, from when it is ready until it is lost; and its channels, whose questions can be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pika import URLParameters
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import AMQPError

from ...errors import BrokerUnavailable
from .address import HANDSHAKE_SECONDS, spoken
from .faults import why_closed, why_not_connected
from .incoming import OnMessage, Receiver
from .sockets import Sockets, Stream

ANSWER_SECONDS: Final = 10.0
"""Seconds for the server to answer a question (to declare, to consume). Then `BrokerUnavailable`."""

CLOSE_SECONDS: Final = 2.0
"""Seconds for a connection or a channel to be closed in good order. Then it is let go."""


class Line:
    """A connection that is ready to use."""

    def __init__(self, raw: AsyncioConnection, stream: Stream) -> None:
        self._raw = raw
        self.stream = stream
        self.lost: asyncio.Future[BrokerUnavailable] = asyncio.get_running_loop().create_future()
        self.blocked: str | None = None
        """Why the server takes no messages now, in its words; None: it does."""
        self.on_blocked: list[Callable[[], None]] = []
        """Are called when `blocked` has changed."""
        stream.incoming.on_taken = self._hear
        raw.add_on_close_callback(lambda _, reason: self._lose(why_closed(reason)))
        raw.add_on_connection_blocked_callback(lambda _, frame: self._block(frame.method.reason))
        raw.add_on_connection_unblocked_callback(lambda *_: self._block(None))

    @classmethod
    async def connect(cls, parameters: URLParameters) -> Line:
        """Raises `ConfigurationError`, `BrokerUnavailable`."""
        opened: asyncio.Future[AsyncioConnection] = asyncio.get_running_loop().create_future()

        def fail(_: Any, error: Any) -> None:
            if not opened.done():
                reason = error if isinstance(error, BaseException) else ConnectionError(str(error))
                opened.set_exception(why_not_connected(reason, spoken(parameters)))

        sockets = Sockets()
        raw = AsyncioConnection(parameters, lambda raw: _answer(opened, raw), fail, fail, custom_ioloop=sockets)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await opened
        except BaseException as error:
            sockets.give_up(ConnectionAbortedError("given up"))
            if isinstance(error, TimeoutError):
                raise BrokerUnavailable(f"{spoken(parameters)} does not answer") from None
            raise
        assert sockets.stream is not None
        return cls(raw, sockets.stream)

    @property
    def frame_max(self) -> int:
        return int(self._raw.params.frame_max)

    async def channel(self) -> Channel:
        """Raises `BrokerUnavailable`."""
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            raw = self._raw.channel(on_open_callback=lambda raw: _answer(opened, raw))
        except AMQPError as error:
            raise why_closed(error) from error
        channel = Channel(raw, self.stream)
        channel.expect(opened)
        await channel.answer(opened, "channel.open")
        return channel

    def abort(self, reason: BrokerUnavailable) -> None:
        """End it at once; one that is being closed ends by itself."""
        if not self._raw.is_closing:
            self._end(reason)

    async def close(self) -> None:
        """End it in good order, so that what was sent is not lost."""
        if self.lost.done():
            return
        with suppress(AMQPError):
            self._raw.close()
        await asyncio.wait([self.lost], timeout=CLOSE_SECONDS)
        if not self.lost.done():
            self._end(BrokerUnavailable("the connection to RabbitMQ was closed"))

    def _end(self, reason: BrokerUnavailable) -> None:
        self._lose(reason)
        self.stream.lose(ConnectionAbortedError(str(reason)))

    def _lose(self, reason: BrokerUnavailable) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)

    def _hear(self, size: int) -> None:
        """Or pika would take the server for silent, and end the connection."""
        self._raw.bytes_received += size

    def _block(self, reason: str | None) -> None:
        self.blocked = reason
        for tell in self.on_blocked:
            tell()


class Channel:
    """A channel whose questions can be awaited."""

    def __init__(self, raw: Any, stream: Stream) -> None:
        self.raw = raw
        self.stream = stream
        self.number: int = raw.channel_number
        self.closed: asyncio.Future[BrokerUnavailable] = asyncio.get_running_loop().create_future()
        self._expecting: set[asyncio.Future[Any]] = set()
        stream.incoming.receivers.pop(self.number, None)  # of an earlier channel that had this number
        raw.add_on_close_callback(lambda _, reason: self._close(why_closed(reason)))

    @property
    def is_open(self) -> bool:
        return bool(self.raw.is_open) and not self.stream.lost

    async def ask(self, question: Callable[..., Any], **arguments: Any) -> Any:
        """Raises `Refused` where the server closes the channel for it, `BrokerUnavailable`."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.expect(answer)
        try:
            question(**arguments, callback=lambda frame: _answer(answer, frame))
        except AMQPError as error:
            self._expecting.discard(answer)
            raise (self.closed.result() if self.closed.done() else why_closed(error)) from error
        return await self.answer(answer, question.__name__)

    def expect(self, answer: asyncio.Future[Any]) -> None:
        self._expecting.add(answer)
        answer.add_done_callback(self._expecting.discard)

    async def answer(self, answer: asyncio.Future[Any], question: str) -> Any:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except TimeoutError:
            raise BrokerUnavailable(f"RabbitMQ did not answer {question} within {ANSWER_SECONDS:.0f} s") from None

    def receive(self, receiver: Receiver) -> None:
        """Deliveries or confirms, without pika, until the channel is closed and its number is another's."""
        self.stream.incoming.receivers[self.number] = receiver

    async def consume(self, queue: str, on_message: OnMessage, **arguments: Any) -> str:
        """The consumer's tag. Raises as `ask`."""
        self.receive(Receiver(on_message=on_message))
        answer = await self.ask(self.raw.basic_consume, queue=queue, on_message_callback=_never, **arguments)
        return str(answer.method.consumer_tag)

    def send(self, frames: bytes) -> None:
        """Without pika; nothing on a channel that is closing, where the server would end the whole connection."""
        if self.is_open:
            self.stream.write(frames)

    async def close(self) -> None:
        if self.raw.is_open:
            self.raw.close()
        if not self.closed.done():
            await asyncio.wait([self.closed], timeout=CLOSE_SECONDS)

    def _close(self, reason: BrokerUnavailable) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)
        for answer in tuple(self._expecting):
            if not answer.done():
                answer.set_exception(reason)


def _never(*_: Any) -> None:
    """What pika would call."""


def _answer(question: asyncio.Future[Any], answer: Any) -> None:
    if not question.done():
        question.set_result(answer)
