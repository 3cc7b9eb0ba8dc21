"""Which queues and task names there are: what this program declares, what stands in the broker, and what workers
elsewhere announce."""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Callable
from typing import Final

from ..app import Queuecast
from ..brokers import CONTROL
from ..brokers.base import Entry
from ..control import WorkerAnnounced, WorkerLeft, decode_control
from ..cursor import Cursor
from ..errors import BrokerUnavailable, Flaw, UnknownQueue
from ..queue import Queue
from ..session import Session
from ..task import is_queue_name
from .problems import Problem

logger = logging.getLogger(__name__)

CATCH_UP_SECONDS: Final = 10.0
"""Seconds for what was announced before to be read. Then `BrokerUnavailable`, and the next request tries again."""

WORKER_SILENCE: Final = 90.0
"""Seconds without an announcement after which a worker is no longer counted: three heartbeats."""


class Catalog:
    """Listens to the control log. `on_queue` is told of each queue that a worker announces or a request names."""

    def __init__(self, app: Queuecast, on_queue: Callable[[str], object] = lambda _: None) -> None:
        self._app = app
        self._on_queue = on_queue
        self.idle: set[str] = set()
        """Queues that stand in the broker, while this program does not declare them and no worker announces them."""
        self._workers: dict[str, WorkerAnnounced] = {}
        self._caught_up = asyncio.Event()
        self._end = 0
        self._stop: Callable[[], None] | None = None

    async def start(self, session: Session) -> None:
        """Returns when everything that was declared, and lately announced, is known. Raises `BrokerError`."""
        await session.broker.declare(CONTROL)
        # Their workers may have left long ago and what they announced been trimmed; the tasks are there to look at.
        for name in await session.broker.counts():
            if name not in self._app.queues:
                self.idle.add(name)
                self._app.queue(name)
        self._end = (await session.broker.bounds(CONTROL)).last
        tail = await session.tail(CONTROL)
        self._stop = tail.listen(self)
        if tail.at.offset < self._end:
            try:
                async with asyncio.timeout(CATCH_UP_SECONDS):
                    await self._caught_up.wait()
            except TimeoutError:
                raise BrokerUnavailable("what the workers have announced cannot be read") from None

    def stop(self) -> None:
        """Listen no more."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def queue(self, name: str) -> Queue:
        """One that a request is about. Raises `UnknownQueue`, or `Problem` 422 for what can be no queue's name."""
        queue = self._app.queues.get(name)
        if queue is not None:
            self._on_queue(name)
            return queue
        if not is_queue_name(name):
            detail = "1 to 64 of a-z, 0-9, '_' and '-', with a letter or digit at both ends"
            raise Problem(422, "bad-queue-name", "this is no queue name", (Flaw("/queue", detail),))
        close = difflib.get_close_matches(name, self._app.queues, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(self._app.queues)) or 'none'}"
        raise UnknownQueue(f"there is no queue {name!r}: {hint}", [Flaw("/queue", hint)])

    def slots(self, now: float) -> int:
        """How many tasks the workers that are alive can run at once."""
        # One that was killed never says that it leaves: it is forgotten here.
        self._workers = {id: worker for id, worker in self._workers.items() if now - worker.time < WORKER_SILENCE}
        return sum(worker.concurrency * len(worker.queues) for worker in self._workers.values())

    def entries(self, entries: list[Entry]) -> None:
        for entry in entries:
            message = decode_control(entry.body)
            if isinstance(message, WorkerAnnounced):
                self._workers[message.worker] = message
                self._learn(message)
            elif isinstance(message, WorkerLeft):
                self._workers.pop(message.worker, None)
        if entries[-1].offset >= self._end:
            self._caught_up.set()

    def restarted(self, reason: str, at: Cursor) -> None:
        """What was missed is announced again with the next heartbeat."""
        self._caught_up.set()

    def _learn(self, message: WorkerAnnounced) -> None:
        for name, handlers in message.queues.items():
            if is_queue_name(name):
                self._app.queue(name).learn(handlers)
                self.idle.discard(name)
                self._on_queue(name)
