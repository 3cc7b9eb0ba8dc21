"""The gateway: the HTTP face of an application, as one ASGI app to serve alone or mount in another."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route, Router
from starlette.types import Message, Receive, Scope, Send

from ..app import Principal, Queuecast
from ..cursor import MAX_STREAM_QUEUES
from ..errors import ConfigurationError, Flaw
from ..hub.hub import Hub
from ..queue import Queue
from . import tasks
from .auth import may_follow_all, owner_shown, principal_of, refuse_cross_site
from .catalog import Catalog
from .meters import Meters
from .ops import livez, metrics, overview, readyz
from .problems import Problem, problem_of
from .streams import Streams

if TYPE_CHECKING:
    from ..session import Session

logger = logging.getLogger(__name__)

TaskEndpoint: TypeAlias = Callable[[Request, "Open", Queue, Principal], Awaitable[Response]]


class Gateway:
    """Made by `Queuecast.gateway`. Starts with the host's `running()`, its own lifespan, or the first request."""

    def __init__(self, app: Queuecast) -> None:
        self._app = app
        self._starting = asyncio.Lock()
        self._open: Open | None = None
        self._kept = False
        self._unhook: Callable[[], None] = lambda: None
        """Somebody entered `running`, and will leave it."""
        self._router = Router(
            [
                self._on_queue("/queues/{queue}/tasks", GET=tasks.listing, POST=tasks.submit),
                self._on_queue("/queues/{queue}/tasks/{id}", GET=tasks.status),
                self._on_queue("/queues/{queue}/tasks/{id}/cancel", POST=tasks.cancel),
                self._on_queue("/queues/{queue}/tasks/{id}/requeue", POST=tasks.requeue),
                Route("/queues/{queue}/tasks/{id}/events", Endpoint(self._task_events), methods=["GET"]),
                Route("/queues/{queue}/events", Endpoint(self._queue_events), methods=["GET"]),
                Route("/queues", Endpoint(self._overview), methods=["GET"]),
                Route("/events", Endpoint(self._several_events), methods=["GET"]),
                Route("/metrics", Endpoint(self._metrics), methods=["GET"]),
                Route("/livez", Endpoint(self._livez), methods=["GET"]),
                Route("/readyz", Endpoint(self._readyz), methods=["GET"]),
            ],
            # Behind a proxy the place to go to would be a guess, and a program that posts may not go there.
            redirect_slashes=False,
            default=self._nowhere,
        )

    @property
    def hub(self) -> Hub | None:
        """The open hub, whose streams a server sends away when it stops."""
        return self._open.hub if self._open else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._respond(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route the request; whatever is raised before an answer began becomes a problem."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            # Starlette raises for a refused method only where it sees an application, and answers in text elsewhere.
            await self._router({**scope, "app": self}, receive, watched)
        except Exception as error:
            problem = problem_of(error)
            if begun:
                raise
            if isinstance(error, ConfigurationError):
                logger.exception("%s %s cannot be answered", scope["method"], scope["path"])
            if problem is None:
                logger.exception("%s %s met a defect of queuecast", scope["method"], scope["path"])
                problem = Problem(500, "internal", "this is a defect of queuecast; the server's log says more")
            await problem.response()(scope, receive, send)

    # Starting and stopping

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Kept open by `Queuecast.running`, which a server's lifespan enters; told to stop, streams are sent away."""
        from .server import drain_at_signals

        if self._kept:
            yield
            return
        self._kept = True
        try:
            opened = await self.opened()
            unhook = drain_at_signals(opened.hub.drain)
            try:
                yield
            finally:
                unhook()
                await opened.stop()
                self._open = None
        finally:
            self._kept = False

    async def opened(self) -> Open:
        """What the gateway has open in the running loop, opened by whoever comes first."""
        session = await self._app.session()
        if self._open is not None and self._open.session is session:
            return self._open
        async with self._starting:
            if self._open is None or self._open.session is not session:
                await self.close()
                self._open = await Open.start(self._app, session)
                if not self._kept:
                    self._send_away_at_stop(self._open)
            return self._open

    def _send_away_at_stop(self, opened: Open) -> None:
        """A mounted application's lifespan is not run (Starlette issue 649): only the signal tells us of the end."""
        from .server import drain_at_signals
        from .signals import ENDING

        numbers: Sequence[signal.Signals] = ENDING
        if not self._app.is_entered:
            logger.info("started by a request: enter qc.running() in your lifespan: it is ready before the first one")
            # Not at SIGINT: a program that handles no signal still has asyncio's handler for that one, and nobody would
            # put it back.
            numbers = [signal.SIGTERM]
        self._unhook = drain_at_signals(opened.hub.drain, numbers=numbers)

    async def close(self) -> None:
        """Let go of what a request has opened in this loop. What `running` has opened it lets go of by itself."""
        opened = self._open
        if opened is not None and not self._kept and opened.session.loop is asyncio.get_running_loop():
            self._open = None
            self._unhook()
            await opened.stop()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Served alone: the server's lifespan is the application's."""
        await receive()
        phase, failure = "startup", "cannot run"
        try:
            async with self._app.running():
                await send({"type": "lifespan.startup.complete"})
                phase, failure = "shutdown", "did not stop as it should"
                await receive()
        except Exception as error:
            logger.critical("the gateway %s: %s", failure, error)
            await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    # Routes

    def _on_queue(self, path: str, **endpoints: TaskEndpoint) -> Route:
        """A route about one queue, by method: find out who asks and which queue, then answer."""

        async def respond(request: Request) -> Response:
            opened = await self.opened()
            if request.method == "POST":
                refuse_cross_site(request)
            principal = await principal_of(self._app, request)
            queue = opened.catalog.queue(request.path_params["queue"])
            return await endpoints[_method(request)](request, opened, queue, principal)

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            await (await respond(Request(scope, receive)))(scope, receive, send)

        # One route for all methods of a path, so that a refused one is told which there are.
        return Route(path, Endpoint(handle), methods=[*endpoints])

    async def _nowhere(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        without = {**scope, "path": scope["path"].rstrip("/")}
        if any(route.matches(without)[0] is not Match.NONE for route in self._router.routes):
            raise Problem(404, "not-found", "there is nothing at this address: leave out the slash at its end")
        raise Problem(404, "not-found", "there is nothing at this address")

    async def _queue_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened, request, principal = await self._asked(scope, receive)
        queue = opened.catalog.queue(request.path_params["queue"])
        owner = owner_shown(principal, request.query_params.get("owner"))
        await opened.streams.follow(scope, receive, send, queues=(queue.name,), owner=owner)

    async def _several_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened, request, principal = await self._asked(scope, receive)
        names = tuple(dict.fromkeys(request.query_params.getlist("queue")))
        if not 1 <= len(names) <= MAX_STREAM_QUEUES:
            detail = f"name 1 to {MAX_STREAM_QUEUES} queues: /events?queue=a&queue=b"
            raise Problem(400, "bad-parameter", detail, (Flaw("/queue", detail),))
        queues = tuple(opened.catalog.queue(name).name for name in names)
        owner = owner_shown(principal, request.query_params.get("owner"))
        await opened.streams.follow(scope, receive, send, queues=queues, owner=owner)

    async def _task_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened, request, principal = await self._asked(scope, receive)
        queue = opened.catalog.queue(request.path_params["queue"])
        owner = principal.subject if principal.follow == "own" else None
        id = request.path_params["id"]
        unknown = Problem(404, "unknown-task", f"there is no task {id[:64]!r} on {queue.name}").response()
        await opened.streams.follow(scope, receive, send, queues=(queue.name,), task=id, owner=owner, unknown=unknown)

    async def _asked(self, scope: Scope, receive: Receive) -> tuple[Open, Request, Principal]:
        request = Request(scope, receive)
        return await self.opened(), request, await principal_of(self._app, request)

    async def _overview(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened, request, principal = await self._asked(scope, receive)
        asked = dict.fromkeys(request.query_params.getlist("queue"))
        # All of them, where none is named: that is to ask for none of them.
        queues = [opened.catalog.queue(name) for name in asked] or [q for _, q in sorted(self._app.queues.items())]
        await (await overview(opened.session, queues, principal))(scope, receive, send)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened, _, principal = await self._asked(scope, receive)
        may_follow_all(principal)
        await (await metrics(opened.meters, opened.session))(scope, receive, send)

    async def _livez(self, scope: Scope, receive: Receive, send: Send) -> None:
        await livez()(scope, receive, send)

    async def _readyz(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (await readyz(self))(scope, receive, send)


def _method(request: Request) -> str:
    return "GET" if request.method == "HEAD" else request.method


class Endpoint:
    """An ASGI callable as an object: Starlette wraps a plain function in a request and a response of its own."""

    __slots__ = ("_handle",)

    def __init__(self, handle: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handle(scope, receive, send)


class StreamResponse(Response):
    """A queue's stream as the response of a route of the host application's own."""

    def __init__(self, gateway: Gateway, queue: str, owner: str | None) -> None:
        super().__init__()
        self._gateway = gateway
        self._queue = queue
        self._owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened = await self._gateway.opened()
        await opened.streams.follow(scope, receive, send, queues=(self._queue,), owner=self._owner)


class Open:
    """What a gateway keeps open beside the session."""

    def __init__(self, app: Queuecast, session: Session) -> None:
        self.session = session
        self.hub = Hub(session.broker, session.tail)
        self.catalog = Catalog(app, self.follow)
        self.meters = Meters(self.hub.counters, self.catalog)
        self.streams = Streams(self.hub)
        self._following: dict[str, asyncio.Task[None]] = {}
        self._ending: asyncio.Task[None] | None = None
        session.when_ended(self._broker_ended)

    @classmethod
    async def start(cls, app: Queuecast, session: Session) -> Open:
        """Know the queues and follow those in use, so that clients which come back find what they missed in memory."""
        opened = cls(app, session)
        try:
            await opened.catalog.start(session)
            # A copy: workers may announce more meanwhile.
            for name in [name for name in app.queues if name not in opened.catalog.idle]:
                await opened.follow(name)
        except BaseException:
            await opened.stop()
            raise
        return opened

    def follow(self, name: str) -> asyncio.Task[None]:
        """Begin to follow a queue that is in use. What fails is tried again when that is told again."""
        task = self._following.get(name)
        if task is None:
            task = self._following[name] = asyncio.create_task(self._follow(name), name=f"queuecast follow {name}")
            task.add_done_callback(partial(self._begun, name))
        return task

    def _begun(self, name: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            logger.warning("the log of %s cannot be followed yet: %s", name, task.exception())
            self._following.pop(name, None)

    async def _follow(self, name: str) -> None:
        await self.session.declare(name)
        # Asked before the tail is started, so that the meters listen from the first event that it reads.
        end = (await self.session.broker.bounds(name)).last
        self.meters.follow(await self.session.tail(name), end)
        await self.hub.fanout((name,))

    def _broker_ended(self, _reason: str) -> None:
        """No stream may go on waiting for what can no longer come."""
        self._ending = asyncio.create_task(self.hub.drain(0), name="queuecast end")

    async def stop(self) -> None:
        """Let go of the logs, and end all streams."""
        self.catalog.stop()
        for task in self._following.values():
            task.cancel()
        await asyncio.gather(*self._following.values(), return_exceptions=True)
        self.meters.stop()
        await self.hub.stop()
