"""The application: queues and handlers under one broker, and the doors to worker and gateway."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from .brokers import External, make_broker
from .errors import ConfigurationError
from .queue import REPLY_WITHIN, Queue
from .session import Session
from .task import is_queue_name

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from .gateway import Gateway

T = TypeVar("T")

DEFAULT_URL: Final = "sqlite:///queuecast.db"


class Principal:
    """Who a connection belongs to, and what they may do; returned by `authenticate`.

    `follow="own"` shows them only their own tasks. `manage` allows cancel and requeue of tasks of others. Raises
    `ConfigurationError` for a subject that is no text and for any other `follow`, which might show them too much.
    """

    __slots__ = ("follow", "manage", "subject", "submit")

    def __init__(
        self, subject: str, *, submit: bool = True, follow: Literal["all", "own"] = "all", manage: bool = False
    ) -> None:
        if not isinstance(subject, str):
            raise ConfigurationError(f"Principal({subject!r}): the subject is text, as in Principal(str(user.id))")
        if follow not in ("all", "own"):
            raise ConfigurationError(f"Principal({subject!r}, follow={follow!r}): follow is 'all' or 'own'")
        self.subject = subject
        self.submit = submit
        self.follow: Literal["all", "own"] = follow
        self.manage = manage

    def __repr__(self) -> str:
        return f"<Principal {self.subject}: submit={self.submit} follow={self.follow} manage={self.manage}>"


class Queuecast:
    """An application's queues.

    `url` names the broker; without one `QUEUECAST_BROKER` does, else a SQLite file in the working directory.
    `authenticate` is your own login: from a connection to a `Principal`, or None for nobody. `lifespan` is an async
    context manager that each worker process enters once; what it yields is `Context.state`.

    Raises `ConfigurationError` for a URL that names no broker.
    """

    url: str
    horizon: float
    """Seconds of the log's retention: no delay or timeout goes beyond it."""

    def __init__(
        self,
        url: str | None = None,
        *,
        authenticate: Callable[[HTTPConnection], Coroutine[Any, Any, Principal | None]] | None = None,
        lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
    ) -> None:
        self.authenticate = authenticate
        self.lifespan = lifespan
        self.queues: dict[str, Queue] = {}
        self._gateway: Gateway | None = None
        self._sessions: dict[asyncio.AbstractEventLoop, asyncio.Future[Session]] = {}
        self._entered: Counter[asyncio.AbstractEventLoop] = Counter()
        """How often `running` was entered in each loop and not left yet."""
        self._background: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
        self._lock = threading.Lock()
        self.use(url or os.environ.get("QUEUECAST_BROKER") or DEFAULT_URL)

    def __repr__(self) -> str:
        return f"<Queuecast {self.url}: {', '.join(self.queues) or 'no queues'}>"

    def use(self, url: str) -> None:
        """Choose the broker, before anything is open: a command line's `--broker` beats the program's URL."""
        if self._sessions:
            raise ConfigurationError(f"{self.url} is open already; choose the broker before that")
        broker = make_broker(url)
        if not broker.is_open_to_foreign and any(queue.external for queue in self.queues.values()):
            raise _open_to_none(url)
        self.horizon = broker.retention.age
        self._is_open_to_foreign = broker.is_open_to_foreign
        self.url = url

    def queue(self, name: str, *, external: bool | str = False, reply_within: float = REPLY_WITHIN) -> Queue:
        """The queue of this name, made at the first call.

        `external`: its workers are foreign programs (True, or the name of their AMQP queue or topic); a task without
        a reply after `reply_within` seconds has failed. Raises `ConfigurationError` for a bad name, or where the
        broker is open to no foreign program.
        """
        if not is_queue_name(name):
            raise ConfigurationError(
                f"{name!r} is no queue name: use 1 to 64 of a-z, 0-9, '_' and '-', with a letter or digit at both ends"
            )
        if external and not self._is_open_to_foreign:
            raise _open_to_none(self.url)
        if name not in self.queues:
            self.queues[name] = Queue(self, name, external=external, reply_within=reply_within)
        return self.queues[name]

    @property
    def gateway(self) -> Gateway:
        """An ASGI application: submit, status and streams over HTTP. Serve it alone or mount it in your own."""
        from .gateway import Gateway

        if self._gateway is None:
            self._gateway = Gateway(self)
        return self._gateway

    @asynccontextmanager
    async def running(self, *, worker: bool = False) -> AsyncIterator[None]:
        """Keep the application open, for a host application's lifespan; with `worker`, run its handlers here too.

        May be entered again within itself; whoever leaves last closes the application.
        """
        loop = asyncio.get_running_loop()
        self._entered[loop] += 1
        try:
            async with AsyncExitStack() as stack:
                session = await self.session()
                if self._gateway is not None:
                    await stack.enter_async_context(self._gateway.running())
                if worker:
                    from .worker import Worker

                    await stack.enter_async_context(Worker(self, session).running())
                yield
        finally:
            self._entered[loop] -= 1
            if not self._entered[loop]:
                del self._entered[loop]
                await self.close()

    @property
    def is_entered(self) -> bool:
        """Whether `running` keeps it open in this loop."""
        return asyncio.get_running_loop() in self._entered

    async def session(self) -> Session:
        """What is open in the running loop, opened by the first caller.

        Raises `BrokerUnavailable`, or `ConfigurationError` where the broker can never be opened.
        """
        opening = self._sessions.get(asyncio.get_running_loop())
        return opening.result() if opening is not None and opening.done() else await self._open()

    async def _open(self) -> Session:
        """One opening at a time per loop; whoever comes meanwhile waits for the same one."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._forget_dead_loops()
            opening = self._sessions.get(loop)
            if opening is None:
                if self._sessions and self.url.startswith("memory:"):
                    raise ConfigurationError("memory:// lives in the one event loop that opened it")
                opening = self._sessions[loop] = asyncio.ensure_future(self._opened())
                opening.add_done_callback(self._forget_failed)
        return await asyncio.shield(opening)

    async def _opened(self) -> Session:
        session = Session(self.url, self._foreign)
        try:
            await session.open()
            for name in self.queues:
                await session.declare(name)
        except BaseException:
            await session.close()
            raise
        return session

    def _foreign(self, queue: str) -> External | None:
        return self.queues[queue].foreign if queue in self.queues else None

    def _forget_failed(self, opening: asyncio.Future[Session]) -> None:
        """Whoever comes after a failed opening tries again."""
        if opening.cancelled() or opening.exception() is not None:
            loop = opening.get_loop()
            if self._sessions.get(loop) is opening:
                del self._sessions[loop]

    def _forget_dead_loops(self) -> None:
        if self._process != os.getpid():
            # After a fork: what the parent has open is the parent's, and no thread of it runs here.
            self._process = os.getpid()
            self._sessions.clear()
            self._background = None
        for loop in [loop for loop in self._sessions if loop.is_closed()]:
            del self._sessions[loop]

    async def close(self) -> None:
        """Let go of what this loop has open. The application may be used again afterwards."""
        if self._gateway is not None:
            await self._gateway.close()
        opening = self._sessions.pop(asyncio.get_running_loop(), None)
        if opening is not None:
            await (await opening).close()

    def run_sync(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it in the application's open loop, or else in one of our own, and wait.

        Raises `RuntimeError` in a thread that runs an event loop: it would wait for itself.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(work, self._loop_for_threads()).result()
        work.close()
        raise RuntimeError("submit_sync would block this event loop: await submit instead")

    def _loop_for_threads(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            self._forget_dead_loops()
            for loop in self._sessions:
                if loop.is_running():
                    return loop
            if self._background is None:
                self._background = asyncio.new_event_loop()
                threading.Thread(target=self._background.run_forever, name="queuecast", daemon=True).start()
            return self._background


def _open_to_none(url: str) -> ConfigurationError:
    return ConfigurationError(f"{url} is open to no foreign program: external queues need a broker server")
