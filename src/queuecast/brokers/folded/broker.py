"""The contract, kept on top of a driver that may repeat: what is written goes to the server, what is told is folded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from math import inf
from typing import ClassVar

from ...codec import encode_event
from ...control import TaskEnded, encode_control
from ...errors import BrokerUnavailable, QueuecastError
from ...event import Event, ResultEvent
from ...task import State as TaskState
from ...task import Task
from ..base import CONTROL, Bounds, Broker, Consumer, Entry, External, OnLost, Receipt, Retention, Status
from ..futures import done, failed
from .admission import Admission
from .consumer import FoldedConsumer
from .control import ControlLog
from .dead import DeadLetters
from .driver import Driver
from .following import Following
from .projection import Projection
from .state import State, state_for
from .submitting import Submitting
from .writing import Writing


class FoldedBroker(Broker):
    """A queue's log is folded by whoever asks what was made of its tasks, from then on: a gateway follows all its
    queues, a program that only submits follows none, a worker those of which it was handed something a second time.
    """

    is_open_to_foreign: ClassVar[bool] = True

    def __init__(self, url: str, retention: Retention, driver: Driver, state: str | None = None) -> None:
        """`state` is the folder for the files of projections; without it, the user's cache folder."""
        self.url = url
        self.retention = retention
        self._driver = driver
        self._state_folder = state
        self._state: State | None = None
        self._unusable = "the broker is not open"
        self._external: dict[str, External | None] = {}
        self._following: dict[str, asyncio.Task[Following]] = {}
        self._control = ControlLog(driver)
        self._dead = DeadLetters(driver)
        self._writing = Writing(driver, self._write, self._dead)
        self._admission = Admission(self._writing, self._control, self._follow, self._up_to_date)
        self._submitting = Submitting(driver, self._followed, self._follow, self._external.get)

    def __repr__(self) -> str:
        return f"<FoldedBroker {self._driver!r}: {self._unusable or ', '.join(self._following) or 'follows nothing'}>"

    async def open(self) -> None:
        if self._unusable:
            await self._driver.open()
            self._unusable = ""

    async def close(self) -> None:
        if self._unusable:
            return
        self._unusable = "the broker is closed"
        following, self._following = self._following, {}
        for task in following.values():
            task.cancel()
        for each in await asyncio.gather(*following.values(), return_exceptions=True):
            if isinstance(each, Following):
                await each.stop()
        await self._control.stop()
        await self._driver.close()
        if self._state is not None:
            self._state.close()

    async def declare(self, queue: str, external: External | None = None) -> None:
        self._check()
        if queue == CONTROL:
            return  # It is no queue, and there since the driver was opened.
        await self._driver.declare(queue, external)
        if external is not None or queue not in self._external:
            self._external[queue] = external

    # The task queue

    async def submit(self, tasks: Sequence[Task]) -> list[Receipt]:
        self._check()
        return await self._submitting.submit(tasks)

    def consume(self, queue: str, concurrency: int, on_lost: OnLost) -> Consumer:
        return FoldedConsumer(self._writing, self._admission, queue, concurrency, on_lost=on_lost, check=self._check)

    # The event log

    def append(self, queue: str, events: Sequence[Event]) -> Awaitable[object]:
        return self._do(lambda: self._append(queue, events))

    def _append(self, queue: str, events: Sequence[Event]) -> Awaitable[object]:
        bodies = [encode_event(event) for event in events]
        now = time.time()
        endings = [
            encode_control(TaskEnded(queue, event.id, now))
            for event in events
            if isinstance(event, ResultEvent) and event.run is None
        ]
        if not endings:
            return self._write(queue, bodies) if bodies else done()
        # Workers hear of it as well: whoever is handed such a task from then on does not begin it.
        return asyncio.gather(
            self._write(CONTROL, endings),
            self._write(queue, bodies),
        )

    def post(self, body: bytes) -> Awaitable[object]:
        return self._do(lambda: self._write(CONTROL, [body]))

    async def read(self, queue: str, after: int) -> AsyncGenerator[list[Entry], None]:
        log = await self._log(queue)
        async with aclosing(log.read(after)) as batches:
            async for batch in batches:
                yield batch

    async def bounds(self, queue: str) -> Bounds:
        self._check()
        if queue != CONTROL:
            return (await self._up_to_date(queue)).bounds()
        await self._control.caught_up()
        return self._control.bounds()

    async def at(self, queue: str, offset: int) -> bytes:
        return await (await self._log(queue)).at(offset)

    async def recent(self, queue: str, count: int) -> int:
        return (await self._log(queue)).recent(count)

    # The projection

    async def status(self, queue: str, id: str) -> Status | None:
        status = await (await self._follow(queue)).status(id)
        # Another process may have submitted it a moment ago.
        return status or await (await self._up_to_date(queue)).status(id)

    async def statuses(
        self,
        queue: str,
        *,
        state: TaskState | None = None,
        owner: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[Status]:
        projection = await self._follow(queue)
        return await projection.statuses(state=state, owner=owner, before=before, limit=limit)

    async def counts(self) -> Mapping[str, Mapping[TaskState, int]]:
        return {queue: (await self._follow(queue)).counts() for queue in tuple(self._external)}

    async def oldest_due(self, queue: str) -> float | None:
        return (await self._follow(queue)).oldest_due()

    async def load(self, queue: str, id: str) -> Task | None:
        self._check()
        return await self._dead.load(queue, id)

    # Inside

    def _check(self) -> None:
        if self._unusable:
            raise BrokerUnavailable(self._unusable)

    def _do(self, work: Callable[[], Awaitable[object]]) -> Awaitable[object]:
        """What it raises is raised where it is awaited."""
        try:
            self._check()
            return work()
        except QueuecastError as error:
            return failed(error)

    async def _log(self, name: str) -> ControlLog | Projection:
        """What this process has read of a log."""
        self._check()
        if name != CONTROL:
            return await self._follow(name)
        await self._control.start()
        return self._control

    def _followed(self, queue: str) -> Projection | None:
        """The projection of a queue that this process follows already, and is up to date with."""
        task = self._following.get(queue)
        followed = task is not None and task.done() and not task.cancelled() and task.exception() is None
        return task.result().projection if task is not None and followed else None

    async def _follow(self, queue: str) -> Projection:
        """The projection of a queue, which this process follows from now on. Raises `BrokerError`."""
        self._check()
        task = self._following.get(queue)
        if task is None:
            task = self._following[queue] = asyncio.create_task(self._begin(queue), name=f"queuecast follow {queue}")
            task.add_done_callback(partial(self._forget_failed, queue))
        return (await asyncio.shield(task)).projection

    async def _begin(self, queue: str) -> Following:
        if self._state is None:
            self._state = state_for(self.url, self._state_folder)
        external = self._external.get(queue)
        projection = Projection(
            self._driver,
            queue,
            self.retention,
            self._state.table(queue),
            reply_within=None if external is None else external.reply_within,
        )
        following = Following(self._driver, projection, queue, external)
        try:
            await following.start()
        except BaseException:
            await following.stop()
            raise
        return following

    def _forget_failed(self, queue: str, task: asyncio.Task[Following]) -> None:
        """Whoever comes after a failed beginning tries again."""
        if (task.cancelled() or task.exception() is not None) and self._following.get(queue) is task:
            del self._following[queue]

    async def _up_to_date(self, queue: str, since: float = inf) -> Projection:
        """The projection, with everything in it that is durable by now, or was then, in monotonic seconds."""
        projection = await self._follow(queue)
        await projection.caught_up(since)
        return projection

    def _write(self, log: str, bodies: Sequence[bytes]) -> Awaitable[object]:
        """Durable when it is awaited; and shown, where this process follows the log. Raises `BrokerError`."""
        self._check()
        appended = self._driver.append(log, bodies)
        if log == CONTROL:
            follower: ControlLog | Projection | None = self._control if self._control.followed else None
        else:
            follower = self._followed(log)
        return appended if follower is None else asyncio.ensure_future(_shown_by(follower, appended))


async def _shown_by(follower: ControlLog | Projection, appended: asyncio.Future[int]) -> None:
    await follower.includes(await appended)
