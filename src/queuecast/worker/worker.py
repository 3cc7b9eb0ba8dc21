"""The worker: consumes its queues with bounded concurrency, and stops without losing what runs."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any, Final

from ..app import Queuecast
from ..brokers import Consumer, Delivery
from ..control import Control, HandlerInfo, WorkerAnnounced, WorkerLeft, encode_control
from ..errors import BrokerError, ConfigurationError
from ..handler import Handler
from ..session import Session
from .cancels import Cancels
from .children import KILL_GRACE, Children
from .run import SETTLE_AGAIN_SECONDS, Run
from .runners import LoopRunner, ProcessRunner, Runner, ThreadRunner
from .threads import Threads

logger = logging.getLogger(__name__)

CONCURRENCY: Final = 20
"""Tasks of one queue that a worker runs at once, unless told otherwise."""

STOP_GRACE: Final = 20.0
"""Seconds that running tasks have to finish when the worker stops; then they go back to their queues."""

HEARTBEAT: Final = 30.0
"""Seconds between two announcements in the control log, by which a gateway without our code knows our handlers."""

KILL_PATIENCE: Final = KILL_GRACE + 2.0
"""Seconds for handlers to end after they were asked to; a thread that does not is left behind."""

LEAVE_PATIENCE: Final = 2.0
"""Seconds for the tasks of handlers that were left behind to go back to their queues."""

RECONSUME_DELAY: Final = 1.0
"""Seconds before a queue is consumed again after its broker failed."""


class Worker:
    """Runs the handlers of an application's queues.

    `concurrency` counts tasks per queue, `grace` is seconds (see STOP_GRACE). Raises `ConfigurationError` for a
    queue that the application does not have, or when there is no handler to run.
    """

    def __init__(
        self,
        app: Queuecast,
        session: Session,
        *,
        queues: Iterable[str] | None = None,
        concurrency: int = CONCURRENCY,
        grace: float = STOP_GRACE,
    ) -> None:
        self.id = secrets.token_hex(4)
        self.state: Any = None
        self._app = app
        self._session = session
        self._broker = session.broker
        self._queues = _with_handlers(app, queues)
        self.handlers = {(name, h.name): h for name in self._queues for h in app.queues[name].handlers.values()}
        self._concurrency = concurrency
        self._grace = grace
        self._consumers: set[Consumer] = set()
        self._runs: dict[asyncio.Task[None], Run] = {}
        self._stopping = False
        self._ending: asyncio.Task[None] | None = None
        self._heart: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._threads = Threads()
        self._children = Children()
        self._cancels = Cancels(session.broker, self._cancel)

    def __repr__(self) -> str:
        return f"<Worker {self.id} of {', '.join(self._queues)}: {len(self._runs)} running>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Consume until the block ends, then stop gracefully."""
        async with AsyncExitStack() as stack:
            stack.callback(self._session.when_ended(self._broker_ended))
            if self._app.lifespan is not None:
                self.state = await stack.enter_async_context(self._app.lifespan())
            await self._cancels.start()
            stack.push_async_callback(self._cancels.stop)
            await self._announce()
            heart = self._heart = asyncio.create_task(self._beat())
            consumers = [asyncio.create_task(self._consume(name), name=f"consume {name}") for name in self._queues]
            try:
                yield
            finally:
                await self._stop(heart, consumers)

    # What a run asks of its worker

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody cancels all that runs in this loop, as `asyncio.run` does at its end."""
        return self._heart is not None and self._heart.cancelling() > 0

    def can_isolate(self, handler: Handler[Any, Any, Any]) -> bool:
        """Whether a process of its own can find the handler: it lives at its module's top level."""
        function = handler.function
        in_a_file = function.__module__ != "__main__" or hasattr(sys.modules["__main__"], "__file__")
        return in_a_file and "<" not in function.__qualname__

    def runner_for(self, handler: Handler[Any, Any, Any], *, alone: bool) -> Runner:
        if alone or handler.process:
            return ProcessRunner(self._children)
        return LoopRunner() if handler.signature.kind == "async" else ThreadRunner(self._threads)

    # Consuming

    async def _consume(self, queue: str) -> None:
        """Take deliveries until the worker stops; whatever the broker does, come back to it, unless it has ended."""
        while not self._stopping and not self._session.ended:
            try:
                await self._broker.declare(queue)
                await self._take(self._broker.consume(queue, self._concurrency, self._on_lost))
                return
            except BrokerError as error:
                if not self._session.ended:
                    logger.warning("queue %s cannot be consumed, trying again: %s", queue, error)
            except Exception:
                logger.exception("queue %s cannot be consumed, trying again", queue)
            self._lose(queue)
            await asyncio.sleep(RECONSUME_DELAY)

    async def _take(self, consumer: Consumer) -> None:
        # It holds what runs: closing it hands all that to other workers.
        async with aclosing(consumer):
            self._consumers.add(consumer)
            try:
                async for delivery in consumer:
                    self._begin(Run(self, delivery))
                await self._settled.wait()
            finally:
                self._consumers.discard(consumer)

    def _broker_ended(self, _reason: str) -> None:
        self._ending = asyncio.create_task(self._cancels.stop(), name="queuecast cancels end")

    def _lose(self, queue: str) -> None:
        """Its consumer has failed, so that others get what it held."""
        for run in self._runs.values():
            if run.task.queue == queue:
                run.stop("lost")

    def _begin(self, run: Run) -> None:
        if self._cancels.asked(run.task):
            run.stop("cancelled")
        task = asyncio.create_task(self._perform(run))
        self._runs[task] = run
        task.add_done_callback(self._runs.pop)

    async def _perform(self, run: Run) -> None:
        try:
            await run.perform()
        except Exception:
            logger.exception("%r met a defect of queuecast; it will be delivered again", run)
            await asyncio.sleep(SETTLE_AGAIN_SECONDS)  # it may well do so each time
            with suppress(BrokerError):
                await run.give_back()

    def _cancel(self, queue: str, id: str) -> None:
        for run in self._runs.values():
            if run.task.id == id and run.task.queue == queue:
                run.stop("cancelled")

    def _on_lost(self, delivery: Delivery) -> None:
        for run in self._runs.values():
            if run.delivery is delivery:
                run.stop("lost")

    # Stopping

    async def _stop(self, heart: asyncio.Task[None], consumers: list[asyncio.Task[None]]) -> None:
        """Take nothing new; let what runs finish; give the rest back; leave."""
        self._stopping = True
        for consumer in self._consumers:
            consumer.stop()
        await self._finish_runs()
        self._settled.set()
        for task in (heart, *consumers):
            task.cancel()
        await asyncio.wait([heart, *consumers])
        await self._children.close()
        self._threads.close()
        with suppress(BrokerError):
            await self._broker.post(encode_control(WorkerLeft(self.id, time.time())))

    async def _finish_runs(self) -> None:
        if await self._wait_for_runs(self._grace):
            return
        for run in self._runs.values():
            run.stop("interrupted")
        # A process is killed within its grace; only a handler in a thread can ignore being asked.
        if await self._wait_for_runs(KILL_PATIENCE):
            return
        for task, run in self._runs.items():
            logger.warning("%r does not stop; it is left behind, and its task goes back to the queue", run)
            task.cancel()
        await self._wait_for_runs(LEAVE_PATIENCE)

    async def _wait_for_runs(self, seconds: float) -> bool:
        """Whether all of them have ended by then."""
        if self._runs:
            await asyncio.wait(tuple(self._runs), timeout=seconds)
        return not self._runs

    # Announcing

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            with suppress(BrokerError):
                await self._announce()

    async def _announce(self) -> None:
        message: Control = WorkerAnnounced(
            worker=self.id,
            time=time.time(),
            concurrency=self._concurrency,
            queues={
                name: [_info(handler) for handler in self._app.queues[name].handlers.values()] for name in self._queues
            },
        )
        await self._broker.post(encode_control(message))


def _info(handler: Handler[Any, Any, Any]) -> HandlerInfo:
    return HandlerInfo(handler.name, handler.signature.schema(), handler.retries, handler.timeout)


def _with_handlers(app: Queuecast, chosen: Iterable[str] | None) -> list[str]:
    names = list(app.queues if chosen is None else chosen)
    unknown = [name for name in names if name not in app.queues]
    if unknown:
        raise ConfigurationError(f"no queue named {', '.join(unknown)}; there are {', '.join(app.queues) or 'none'}")
    runnable = [name for name in names if app.queues[name].handlers]
    if not runnable:
        raise ConfigurationError("no handler to run: register functions with @queue.task")
    return runnable
