"""pika's input and output on asyncio's own transports.

pika's own transport reads 4 kB at a time and sends every frame by itself, three for each message. This one sends what
was written during one pass of the event loop at once, lets others see how much has left the process, and gives pika
only those frames that nobody else takes (`incoming`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from socket import socket
from typing import Any, Final, cast

from pika.adapters.utils.nbio_interface import (
    AbstractIOReference,
    AbstractIOServices,
    AbstractStreamProtocol,
    AbstractStreamTransport,
    AbstractTimerReference,
)

from .incoming import Incoming

SEND_BYTES: Final = 32_768
"""Bytes that are waited for at most before they are sent, so that the server begins while more is being written."""


class Stream(asyncio.Protocol, AbstractStreamTransport):
    """One connection's bytes: pika's transport, and asyncio's protocol."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: AbstractStreamProtocol) -> None:
        self._loop = loop
        self._protocol = protocol
        self._transport: asyncio.Transport | None = None
        self._waiting: list[bytes] = []
        self._size = 0
        self._told = False
        self._full = False
        self._drained: list[asyncio.Future[None]] = []
        self._error: OSError | None = None
        self.lost = False
        self.incoming = Incoming(self._pass_on)

    def begin(self) -> None:
        """Tell pika that it is there. Not before, so that a loss right away does not go unheard."""
        if self.lost or self._transport is None:
            raise ConnectionResetError("lost as soon as it was made")
        self._told = True
        self._protocol.connection_made(self)
        self._transport.resume_reading()

    # pika's side

    def write(self, data: bytes) -> None:
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting.append(data)
        self._size += len(data)
        if self._size >= SEND_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what was written so far; what the system does not take at once follows by itself."""
        if self._waiting:
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._size = 0
            if self._transport is not None and not self.lost:
                self._transport.write(data)

    def lose(self, error: OSError) -> None:
        """End it as if it had broken: pika's own ways to give up a connection fail while it is being made."""
        self._error = error
        self.abort()

    def abort(self) -> None:
        self.flush()
        self.lost = True
        if self._transport is not None:
            self._transport.abort()

    def get_protocol(self) -> AbstractStreamProtocol:
        return self._protocol

    def get_write_buffer_size(self) -> int:
        return self._size + (self._transport.get_write_buffer_size() if self._transport else 0)

    async def drained(self) -> None:
        """Returns once the system has all that was written, or the connection is lost."""
        self.flush()
        while self._full and not self.lost:
            waiting = self._loop.create_future()
            self._drained.append(waiting)
            await waiting

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # which uvloop's only resembles
        self._transport = transport
        transport.set_write_buffer_limits(high=0)  # full means: there is something that the system has not
        transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if not self.lost:
            self.incoming.feed(data)

    def _pass_on(self, data: bytes) -> None:
        if not self.lost:
            self._protocol.data_received(data)

    def eof_received(self) -> bool:
        return bool(self._told and self._protocol.eof_received())

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._wake()
        if self._told:
            self._protocol.connection_lost(exc or self._error)

    def _wake(self) -> None:
        for waiting in self._drained:
            if not waiting.done():
                waiting.set_result(None)
        self._drained.clear()


class Sockets(AbstractIOServices):
    """What pika asks of an event loop, for one connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.stream: Stream | None = None
        self._under_way: _Awaited | None = None
        self._given_up: OSError | None = None

    def give_up(self, error: OSError) -> None:
        """Let the connection fail that is being made."""
        self._given_up = error
        if self.stream:
            self.stream.lose(error)
        elif self._under_way:
            self._under_way.fail(error)

    def get_native_ioloop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_callback_threadsafe(self, callback: Callable[..., None]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def call_later(self, delay: float, callback: Callable[..., None]) -> AbstractTimerReference:
        return _Timer(self._loop.call_later(delay, callback))

    def getaddrinfo(  # noqa: PLR0917 - as pika calls it
        self,
        host: str,
        port: int,
        on_done: Callable[..., None],
        family: int = 0,
        socktype: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> AbstractIOReference:
        return self._hand_over(
            self._loop.getaddrinfo(host, port, family=family, type=socktype, proto=proto, flags=flags), on_done
        )

    def connect_socket(
        self, sock: socket, resolved_addr: tuple[str, int], on_done: Callable[[BaseException | None], None]
    ) -> AbstractIOReference:
        return self._hand_over(self._loop.sock_connect(sock, resolved_addr), on_done)

    def create_streaming_connection(
        self,
        protocol_factory: Callable[[], AbstractStreamProtocol],
        sock: socket,
        on_done: Callable[[Any], None],
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> AbstractIOReference:
        def begin(made: Any) -> None:
            """In one go with what pika registers, so that it hears whatever comes next."""
            if not isinstance(made, BaseException):
                self.stream, protocol = made
                try:
                    self.stream.begin()
                    made = (self.stream, protocol)
                except OSError as error:
                    made = error
            on_done(made)

        return self._hand_over(self._make_stream(protocol_factory(), sock, ssl_context, server_hostname), begin)

    def _hand_over(self, work: Awaitable[Any], on_done: Callable[[Any], None]) -> AbstractIOReference:
        self._under_way = _Awaited(work, on_done)
        if self._given_up:
            self._under_way.fail(self._given_up)
        return self._under_way

    async def _make_stream(
        self, protocol: AbstractStreamProtocol, sock: socket, context: ssl.SSLContext | None, host: str | None
    ) -> tuple[Stream, AbstractStreamProtocol]:
        name = (host or "") if context else None
        stream = Stream(self._loop, protocol)
        await self._loop.create_connection(lambda: stream, sock=sock, ssl=context, server_hostname=name)
        return stream, protocol

    def run(self) -> None:
        raise NotImplementedError("the event loop runs already")

    stop = close = run


class _Timer(AbstractTimerReference):
    def __init__(self, handle: asyncio.TimerHandle) -> None:
        self._handle = handle

    def cancel(self) -> None:
        self._handle.cancel()


class _Awaited(AbstractIOReference):
    """Something to wait for, whose result or error is handed to a function; not where it was cancelled."""

    def __init__(self, work: Awaitable[Any], on_done: Callable[[Any], None]) -> None:
        self._on_done = on_done
        self._task = asyncio.ensure_future(work)
        self._task.add_done_callback(self._hand_over)

    def cancel(self) -> bool:
        return self._task.cancel()

    def fail(self, error: OSError) -> None:
        if self._task.cancel():
            asyncio.get_running_loop().call_soon(self._on_done, error)

    def _hand_over(self, task: asyncio.Future[Any]) -> None:
        if not task.cancelled():
            self._on_done(task.exception() or task.result())
