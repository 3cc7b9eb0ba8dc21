"""uvicorn, taught three things that long-lived streams need.

`StreamProtocol` offers its transport to the application, so that an open stream costs no task; and it cuts a request
whose head does not come to an end, for which uvicorn has no deadline. `serve` drains the streams at a signal, which
uvicorn would wait for, for ever, before it tells the application that it stops.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from http import HTTPStatus
from types import FrameType
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ..hub.hub import MAX_STREAMS, OTHER_FILES
from ..hub.subscription import Subscription
from .problems import Problem
from .signals import ENDING, at_signals
from .streams import HIGH_WATER, TRANSPORT

HEAD_SECONDS: Final = 10.0
"""Seconds that the head of a request may take. Then it is answered with a 408 and the connection closed."""

LINGER_SECONDS: Final = 10.0
"""Seconds that the end of a stream may take to reach its client. Then the connection is cut."""

MAX_HEAD_BYTES: Final = 64 << 10
"""Bytes of a request's head. A longer one is answered with a 431 and the connection closed: uvicorn has no bound, and
its parser joins a header's pieces anew at each read, so that one endless header would stall every stream."""

SWEEP_SECONDS: Final = 0.5
"""Seconds between two looks at the deadlines of all connections: how exact they are."""

USER_TIMEOUT_MS: Final = 30_000
"""Milliseconds for which the kernel waits for a client to acknowledge anything. Then the connection is dead."""

DRAIN_SECONDS: Final = 10.0
"""Seconds over which streams are sent away when the server is asked to stop."""

INTERRUPT_SECONDS: Final = 1.0
"""The same at Ctrl-C: a person waits."""

GRACE_SECONDS: Final = 10
"""Seconds for which requests that are under way may go on after the drain. Then they are cut."""

BACKLOG: Final = 4_096
"""Connections that wait to be accepted: a server that comes back is met by all its clients at once."""

GC_THRESHOLDS: Final = (10_000, 50, 100)
"""Allocations before the young objects are looked through for garbage, and how often before older ones are."""


def _refusal(problem: Problem) -> bytes:
    """For the head, which no application sees: there is nobody to answer but us."""
    response = problem.response()
    response.headers["connection"] = "close"
    lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}".encode()]
    return b"\r\n".join([*lines, *(b": ".join(header) for header in response.raw_headers), b"", bytes(response.body)])


_TIMEOUT_ANSWER: Final = _refusal(
    Problem(408, "head-timeout", f"the request's head did not come to an end within {HEAD_SECONDS:.0f} seconds")
)
_TOO_LARGE_ANSWER: Final = _refusal(
    Problem(431, "head-too-large", f"the request's head takes more than {MAX_HEAD_BYTES} bytes")
)


class Deadlines:
    """One timer for all connections of an event loop that have to get on with something."""

    def __init__(self) -> None:
        self._due: dict[StreamProtocol, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def set(self, connection: StreamProtocol, seconds: float) -> None:
        loop = connection.loop
        self._due[connection] = loop.time() + seconds
        if self._timer is None:
            self._timer = loop.call_later(SWEEP_SECONDS, self._sweep, loop)

    def clear(self, connection: StreamProtocol) -> None:
        self._due.pop(connection, None)

    def __contains__(self, connection: StreamProtocol) -> bool:
        return connection in self._due

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in [connection for connection, due in self._due.items() if due <= now]:
            del self._due[connection]
            connection.cut()
        self._timer = loop.call_later(SWEEP_SECONDS, self._sweep, loop) if self._due else None


_deadlines: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Deadlines]] = WeakKeyDictionary()


class StreamProtocol(HttpToolsProtocol):
    """A connection. Once its transport is taken over, it only passes on what happens to it."""

    deadlines: Deadlines
    stream: Subscription | None = None
    taken = False
    head_bytes = 0
    """Bytes of a head that is not complete yet. A body's are counted by the application, which sees it come."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.deadlines = _deadlines.setdefault(self.loop, Deadlines())
        self.deadlines.set(self, HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self.deadlines.clear(self)
        super().connection_lost(exc)
        if self.stream is not None:
            self.stream.lost()
            self.stream = None

    # The head's deadline

    def data_received(self, data: bytes) -> None:
        if self.taken:
            return
        if self._idle and self not in self.deadlines:
            self.deadlines.set(self, HEAD_SECONDS)
        if self in self.deadlines:
            if self.head_bytes > MAX_HEAD_BYTES:
                self.transport.write(_TOO_LARGE_ANSWER)
                self.transport.close()
                return
            self.head_bytes += len(data)
        super().data_received(data)

    @property
    def _idle(self) -> bool:
        """No request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _answered(self) -> bool:
        """What is late is the rest of a body whose request has its answer: a second one would be nobody's."""
        return self.cycle is not None and self.cycle.more_body

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.deadlines.set(self, HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        self.deadlines.clear(self)
        self.head_bytes = 0
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is self.scope:
            extensions: dict[str, Any] = self.scope.setdefault("extensions", {})
            extensions[TRANSPORT] = Offer(self, self.cycle)

    def on_message_complete(self) -> None:
        self.deadlines.clear(self)
        super().on_message_complete()

    def cut(self) -> None:
        """A deadline has passed."""
        if self.taken:
            self.transport.abort()
        elif self._idle:
            if self.scope is not None and not self._answered:
                self.transport.write(_TIMEOUT_ANSWER)
            self.transport.close()
        else:
            # Half a head behind a request that is still being answered: perhaps we are the ones who do not read.
            self.deadlines.set(self, HEAD_SECONDS)

    # A transport that was taken over

    def take_over(self) -> None:
        """Nothing of HTTP is left to do here: let go of all that it needed."""
        self.taken = True
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        _notice_dead_peer(self.transport.get_extra_info("socket"))
        self.cycle = self.scope = self.headers = self.parser = self.flow = None  # type: ignore[assignment]
        self.pipeline = _NOTHING

    def pause_writing(self) -> None:
        if self.stream is not None:
            self.stream.pause()
        elif not self.taken:
            super().pause_writing()

    def resume_writing(self) -> None:
        if self.stream is not None:
            self.stream.resume()
        elif not self.taken:
            super().resume_writing()

    def shutdown(self) -> None:
        """A stream ends by a drain of its hub, not because its server is about to stop."""
        if not self.taken:
            super().shutdown()


_NOTHING: Final[deque[Any]] = deque(maxlen=0)


def _collect_rarely() -> None:
    """Thousands of streams are hundreds of thousands of objects that live long: looking through all of them would
    stop every stream for a tenth of a second, and find nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


class Offer:
    """One response's chance to take the transport over."""

    __slots__ = ("_connection", "_cycle", "_keep_alive")

    def __init__(self, connection: StreamProtocol, cycle: RequestResponseCycle) -> None:
        self._connection = connection
        self._cycle = cycle
        self._keep_alive = cycle.keep_alive

    def prepare(self) -> None:
        # No chunks: the same bytes go to all clients. Closing the connection ends the body, as in HTTP/1.0.
        self._cycle.chunked_encoding = False
        self._cycle.keep_alive = False

    def accept(self) -> Connection | None:
        cycle = self._cycle
        if not cycle.response_started or cycle.disconnected:
            cycle.chunked_encoding = None
            cycle.keep_alive = self._keep_alive
            return None
        # To uvicorn the response is over, so the request's task may end.
        cycle.response_complete = True
        self._connection.take_over()
        return Connection(self._connection)


class Connection:
    """The sink of a connection that was taken over: writes go to the transport and nowhere else."""

    __slots__ = ("_protocol", "write")

    def __init__(self, protocol: StreamProtocol) -> None:
        self._protocol = protocol
        self.write: Callable[[bytes], object] = protocol.transport.write

    def attach(self, sub: Subscription) -> None:
        if sub.closed:
            return
        self._protocol.stream = sub
        if self.backlog() > HIGH_WATER:
            sub.pause()

    def backlog(self) -> int:
        return self._protocol.transport.get_write_buffer_size()

    def close(self) -> None:
        self._protocol.stream = None
        self._protocol.deadlines.set(self._protocol, LINGER_SECONDS)
        self._protocol.transport.close()

    def abort(self) -> None:
        self._protocol.stream = None
        self._protocol.transport.abort()


def _notice_dead_peer(sock: socket.socket | None) -> None:
    """A client whose network is gone acknowledges nothing and would hold its stream for a quarter of an hour."""
    if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


def allow_streams() -> None:
    """Have descriptors for as many streams as a hub takes, or as many as may be had. To be called before it begins.

    Of the 1,024 that a shell gives, the thousandth stream would be the end.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_STREAMS + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Refused where the kernel has a bound of its own below the hard one (macOS).
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


Drain: TypeAlias = Callable[[float], Coroutine[Any, Any, None]]
"""`Hub.drain`, or what calls it."""


class Server(uvicorn.Server):
    """At the first signal: no new connections, then the drain, then the end. At the second: the end."""

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        drain_seconds: float = DRAIN_SECONDS,
        on_start: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._drain_seconds = drain_seconds
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _collect_rarely()
        if self._on_start is not None:
            self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        if sig == signal.SIGINT:
            self._drain_seconds = min(self._drain_seconds, INTERRUPT_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self.servers:
            listener.close()
        drain = asyncio.create_task(self._drain(self._drain_seconds))
        while not drain.done() and not self.force_exit:
            await asyncio.wait({drain}, timeout=0.1)
        drain.cancel()
        await super().shutdown(sockets)


async def listen(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of this host, on which connections wait from now on. Raises `OSError`."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
    try:
        # asyncio knows how to bind all addresses of a name; these outlive its server, and may go to other processes.
        sockets = [socket.socket(fileno=os.dup(bound.fileno())) for bound in server.sockets]
    finally:
        server.close()
    try:
        for listener in sockets:
            listener.listen(BACKLOG)
    except OSError:
        close(sockets)
        raise
    return sockets


def close(sockets: Sequence[socket.socket]) -> None:
    for listener in sockets:
        listener.close()


async def serve(
    app: ASGIApp,
    sockets: Sequence[socket.socket],
    *,
    drain: Drain,
    drain_seconds: float = DRAIN_SECONDS,
    on_start: Callable[[], None] | None = None,
    **settings: Any,
) -> None:
    """Serve on these sockets until a signal says stop, then close them and return. `on_start` is called once it does;
    `settings` are those of `uvicorn.Config`.
    """
    chosen: dict[str, Any] = {
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "backlog": BACKLOG,
        "timeout_graceful_shutdown": GRACE_SECONDS,
        **settings,
    }
    config = uvicorn.Config(app, http=StreamProtocol, **chosen)
    await Server(config, drain, drain_seconds, on_start).serve([*sockets])


def drain_at_signals(
    drain: Drain, seconds: float = DRAIN_SECONDS, numbers: Sequence[signal.Signals] = ENDING
) -> Callable[[], None]:
    """In somebody else's server: drain when it is told to stop, since it waits for the streams to end by themselves.

    Its own handlers are called as well; what this returns puts them back. Outside the main thread, and where there is
    no handler, this does nothing.
    """
    loop = asyncio.get_running_loop()
    drains: list[asyncio.Task[None]] = []
    return at_signals(lambda: drains.append(loop.create_task(drain(seconds))), numbers)
