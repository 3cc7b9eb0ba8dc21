"""Streams over HTTP: from a request to a subscription, on any ASGI server.

Where the server offers its transport (`server.StreamProtocol`), the hub writes to it directly and the request's task
ends; everywhere else the same bytes go through `await send(...)`, with the same cursors and the same bounds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from .. import sse
from ..errors import BrokerError
from ..hub.fanout import Fanout
from ..hub.hub import Hub
from ..hub.start import Start
from ..hub.subscription import Sink, Subscription

logger = logging.getLogger(__name__)

TRANSPORT: Final = "queuecast.transport"
"""The ASGI extension by which a server offers its transport."""

HIGH_WATER: Final = 64 << 10
"""Bytes that wait for one client, in this process. Over it the client is skipped until it has taken them."""

AWAY_RETRY_MS: Final = (5_000, 30_000)
"""Milliseconds after which a client that found no room comes back, drawn for each one so that they spread."""

HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"vary", b"Origin"),
]


class TransportOffer(Protocol):
    """What a server puts into `scope["extensions"]`, good for one response."""

    def prepare(self) -> None:
        """Before the response's head is sent: its body will be raw bytes, ended by closing the connection."""

    def accept(self) -> TransportSink | None:
        """After it: the connection, which is the taker's from here on. None where something between us and the
        server still holds the head back, or the client is gone; then the response goes on as if nothing was offered.
        """


class TransportSink(Sink, Protocol):
    """A connection that was taken over; it tells this subscription what happens to it."""

    def attach(self, sub: Subscription) -> None: ...


class _Wish(NamedTuple):
    """What a request says about the stream it wants."""

    asked: str
    named: bool

    @classmethod
    def of(cls, scope: Scope) -> _Wish:
        """The header wins over the query: on a reconnect the URL is the same, and the header is newer."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        header = dict(scope["headers"]).get(b"last-event-id", b"").decode("latin-1")
        return cls(header or query.get("after", [""])[-1], query.get("named") == ["1"])


class Streams:
    """Answers requests for streams. Who may follow what is decided before."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    async def follow(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        queues: Sequence[str],
        task: str | None = None,
        owner: str | None = None,
        unknown: ASGIApp | None = None,
    ) -> None:
        """The stream of these queues, or of one of one queue's tasks; with `owner`, only of what is theirs.

        `unknown` answers for a task that nobody has heard of in a few seconds; without it the stream waits.
        """
        wish = _Wish.of(scope)
        try:
            fanout = await self._fanout(queues, wish)
            start = await self.hub.begin(fanout, wish.asked, task=task, owner=owner)
            if task is not None and not start.known and unknown is not None:
                if not await self.hub.appears(fanout, task, owner):
                    await unknown(scope, receive, send)
                    return
                start = await self.hub.begin(fanout, wish.asked, task=task, owner=owner)
        except _RefusedError as refused:
            await self._refuse(send, refused.reason)
        except BrokerError as error:
            logger.warning("a stream cannot be opened: %s", error)
            await self._refuse(send, "broker")
        else:
            await _Answer(self.hub, fanout, start, task, owner).give(scope, receive, send)

    async def _fanout(self, queues: Sequence[str], wish: _Wish) -> Fanout:
        if self.hub.draining:
            raise _RefusedError("draining")
        fanout = None if self.hub.full else await self.hub.fanout(queues, wish.named)
        if fanout is None:
            raise _RefusedError("full")
        return fanout

    async def _refuse(self, send: Send, reason: str) -> None:
        """With a status that a native EventSource survives: it comes back, later."""
        await _respond(send, 200, _refusal(self.hub, reason))


class _RefusedError(Exception):
    """There is no room for this stream, now."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def _refusal(hub: Hub, reason: str) -> bytes:
    """All that the body says."""
    hub.counters.streams_refused[reason] += 1
    return sse.retry(random.randint(*AWAY_RETRY_MS))


class _Answer(NamedTuple):
    """What is known of a stream before its response begins."""

    hub: Hub
    fanout: Fanout
    start: Start
    task: str | None
    owner: str | None

    async def give(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.start.told:
            await _respond(send, 204, b"")
        elif scope["method"] == "HEAD":
            await _respond(send, 200, b"")
        else:
            await self._stream(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        offer: TransportOffer | None = (scope.get("extensions") or {}).get(TRANSPORT)
        if offer is not None:
            offer.prepare()
        await send(_head(200))
        if self.hub.full:
            # There was room when it asked, for it and for others that have opened first. From here on nothing waits.
            await send(_body(_refusal(self.hub, "full")))
            return
        sink = offer.accept() if offer is not None else None
        if sink is not None:
            sink.attach(self._open(sink))
        else:
            await SendSink(send).serve(self._open, receive)

    def _open(self, sink: Sink) -> Subscription:
        return self.hub.open(self.fanout, self.start, sink, task=self.task, owner=self.owner)


class SendSink:
    """A client behind `await send(...)`, on any ASGI server: two small tasks, where a transport needs none."""

    __slots__ = ("_closing", "_pieces", "_pump", "_send", "_size", "_sub", "_wake")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._pieces: list[bytes] = []
        self._size = 0
        self._closing = False
        self._wake = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self._sub: Subscription | None = None

    async def serve(self, open: Callable[[Sink], Subscription], receive: Receive) -> None:
        """Until the stream ends, or the client is gone."""
        sub = self._sub = open(self)
        if self._size > HIGH_WATER:
            sub.pause()
        pump = self._pump = asyncio.create_task(self._send_all())
        watch = asyncio.create_task(_until_disconnected(receive))
        try:
            await asyncio.wait({pump, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sub.lost()
            pump.cancel()
            watch.cancel()
            await asyncio.gather(pump, watch, return_exceptions=True)

    async def _send_all(self) -> None:
        while not (self._closing and not self._pieces):
            await self._wake.wait()
            self._wake.clear()
            await self._send_pieces()
        await self._send(_body(b""))

    async def _send_pieces(self) -> None:
        while self._pieces:
            body = b"".join(self._pieces)
            self._pieces.clear()
            await self._send(_body(body, more=True))
            self._size -= len(body)
            if self._sub is not None and not self._sub.ready and not self._pieces:
                self._sub.resume()

    # What the hub asks of it

    def write(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        self._wake.set()
        if self._size > HIGH_WATER and self._sub is not None:
            self._sub.pause()

    def backlog(self) -> int:
        return self._size

    def close(self) -> None:
        self._closing = True
        self._wake.set()

    def abort(self) -> None:
        # Its send does not return; ASGI has no way to say that the connection is to be cut.
        if self._pump is not None:
            self._pump.cancel()


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _head(status: int) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": HEADERS}


async def _respond(send: Send, status: int, body: bytes) -> None:
    await send(_head(status))
    await send(_body(body))


def _body(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}
