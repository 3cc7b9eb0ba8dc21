"""The whole contract in one process, with nothing durable: read this first, test with it.

Everything happens in the event loop's thread, so each verb is atomic by itself. A queue is a log (a list of entries),
a table of jobs (what the fold made of each task, and when it may be delivered next) and an event that wakes whoever
waits for either.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..codec import decode_event, encode_event, encode_task
from ..cursor import Cursor, beginning, cursor_at
from ..errors import BrokerUnavailable, KeyReused, ResetRequired
from ..event import ErrorInfo, Event, ended, submitted
from ..lifecycle import Record, apply
from ..task import State, Task, same_work
from .base import CONTROL, Bounds, Broker, Delivery, Entry, OnLost, Receipt, Retention, Status, snapshot_of

READ_BATCH = 1_000
"""Entries handed to a reader at once; the next batch follows when it asks."""


@dataclass(slots=True)
class _Job:
    """One task and where it stands."""

    task: Task
    record: Record
    due: float | None
    """POSIX time from which it may be delivered; None while it is held or once it has ended."""
    first: int
    last: int
    attempt: int = 1
    holder: MemoryDelivery | None = None


@dataclass(slots=True)
class _Queue:
    """One queue's log and jobs. `trimmed` is the last offset that is gone."""

    identity: str = field(default_factory=lambda: secrets.token_hex(4))
    log: list[tuple[Entry, float]] = field(default_factory=list)
    size: int = 0
    trimmed: int = 0
    jobs: dict[str, _Job] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def last(self) -> int:
        return self.trimmed + len(self.log)

    def wake(self) -> None:
        """Wake everyone who waits now; whoever waits later waits for the next change."""
        self.changed.set()
        self.changed = asyncio.Event()


class MemoryBroker(Broker):
    """`memory://`: for tests, and to read. Implements `Projected` too. All is gone when the process ends."""

    def __init__(
        self,
        url: str = "memory://",
        retention: Retention = Retention(),  # noqa: B008 - immutable
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.url = url
        self.retention = retention
        self._clock = clock
        self._queues: dict[str, _Queue] = {}
        self._open = False

    async def open(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False
        for queue in self._queues.values():
            for job in queue.jobs.values():
                if job.holder is not None:
                    await job.holder.release()
            queue.wake()

    async def declare(self, queue: str) -> None:
        self._queue(queue)

    # The task queue

    async def submit(self, tasks: Sequence[Task]) -> list[Receipt]:
        batch: dict[str, Task] = {}
        for task in tasks:
            encode_task(task)
            job = self._queue(task.queue).jobs.get(task.id)
            earlier = job.task if job else batch.setdefault(task.id, task)
            if not same_work(earlier, task):
                raise KeyReused()
        return [self._take(task) for task in tasks]

    def _take(self, task: Task) -> Receipt:
        queue = self._queue(task.queue)
        job = queue.jobs.get(task.id)
        created = job is None
        if job is None:
            first = submitted(task)
            self._append(queue, first, encode_event(first), task)
            job = queue.jobs[task.id]
            if task.expires_at is not None:
                wait = max(0.0, task.expires_at - self._clock())
                asyncio.get_running_loop().call_later(wait, self._expire, queue, job)
        return Receipt(task.id, job.record.state, self._cursor(queue, job.last), created)

    def _expire(self, queue: _Queue, job: _Job) -> None:
        """Nobody began it in time. While a worker holds it, it waits for what that one makes of it."""
        if job.due is not None and job.record.state in ("scheduled", "queued"):
            expired = _expired(job, self._clock())
            self._append(queue, expired, encode_event(expired))

    async def consume(self, queue: str, concurrency: int, on_lost: OnLost) -> AsyncGenerator[Delivery, None]:
        held: set[MemoryDelivery] = set()
        try:
            while True:
                place = self._queue(queue)
                job = self._next_due(place) if len(held) < concurrency else None
                if job is None:
                    await self._wait_for_work(place, idle=len(held) < concurrency)
                else:
                    yield MemoryDelivery(self, place, job, held)
        finally:
            for delivery in list(held):
                await delivery.release()

    def _next_due(self, queue: _Queue) -> _Job | None:
        now = self._clock()
        due = [job for job in queue.jobs.values() if job.due is not None and job.due <= now]
        return min(due, key=lambda job: job.due or 0.0, default=None)

    async def _wait_for_work(self, queue: _Queue, idle: bool) -> None:
        """Until something changes in the queue, or the next task becomes due."""
        waiting = [job.due for job in queue.jobs.values() if job.due is not None] if idle else []
        timeout = max(0.0, min(waiting) - self._clock()) if waiting else None
        try:
            async with asyncio.timeout(timeout):
                await queue.changed.wait()
        except TimeoutError:
            return

    # The event log

    def append(self, queue: str, events: Sequence[Event]) -> Awaitable[None]:
        self._write(self._queue(queue), events)
        return _done()

    def post(self, body: bytes) -> Awaitable[None]:
        place = self._queue(CONTROL)
        self._log(place, body)
        place.wake()
        return _done()

    async def read(self, queue: str, after: int) -> AsyncGenerator[list[Entry], None]:
        if after > self._queue(queue).last:
            raise ResetRequired("ahead")
        while True:
            place = self._queue(queue)
            if after < place.trimmed:
                raise ResetRequired("trimmed")
            start = after - place.trimmed
            batch = [entry for entry, _ in place.log[start : start + READ_BATCH]]
            if batch:
                after = batch[-1].offset
                yield batch
            else:
                await place.changed.wait()

    async def bounds(self, queue: str) -> Bounds:
        place = self._queue(queue)
        return Bounds(place.trimmed + 1, place.last, place.identity)

    # What each task is now (`Projected`)

    async def status(self, queue: str, id: str) -> Status | None:
        place = self._queue(queue)
        job = place.jobs.get(id)
        return self._status(place, job) if job else None

    async def statuses(
        self,
        queue: str,
        *,
        state: State | None = None,
        owner: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[Status]:
        place = self._queue(queue)
        newest_first = list(reversed(place.jobs.values()))
        if before is not None:
            previous = place.jobs.get(before)
            newest_first = [job for job in newest_first if previous and job.first < previous.first]
        matching = [
            job for job in newest_first if state in (None, job.record.state) and owner in (None, job.task.owner)
        ]
        return [self._status(place, job) for job in matching[:limit]]

    async def counts(self) -> Mapping[str, Mapping[State, int]]:
        return {
            name: Counter(job.record.state for job in queue.jobs.values())
            for name, queue in self._queues.items()
            if name != CONTROL
        }

    async def oldest_due(self, queue: str) -> float | None:
        now = self._clock()
        due = [job.due for job in self._queue(queue).jobs.values() if job.due is not None and job.due <= now]
        return min(due, default=None)

    async def load(self, queue: str, id: str) -> Task | None:
        job = self._queue(queue).jobs.get(id)
        return job.task if job else None

    # Inside

    def _queue(self, name: str) -> _Queue:
        if not self._open:
            raise BrokerUnavailable("the broker is closed")
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = _Queue()
        return queue

    def _write(self, queue: _Queue, events: Sequence[Event]) -> None:
        """All or none: where one is too large, none is written."""
        if events and not self._open:
            raise BrokerUnavailable("the broker is closed")
        for event, body in [(event, encode_event(event)) for event in events]:
            self._append(queue, event, body)

    def _append(self, queue: _Queue, event: Event, body: bytes, task: Task | None = None) -> None:
        """Fold the event in; what the fold refuses never enters the log."""
        job = queue.jobs.get(event.id)
        record = apply(job.record if job else None, event)
        if record is None or (job is None and task is None):
            return
        offset = self._log(queue, body)
        if job is None and task is not None:
            job = _Job(task, record, task.not_before or task.submitted_at, offset, offset)
            queue.jobs[task.id] = job
        elif job is not None:
            job.record, job.last = record, offset
            if record.final:
                job.due = None
        self._trim(queue)
        queue.wake()

    def _log(self, queue: _Queue, body: bytes) -> int:
        entry = Entry(queue.last + 1, body)
        queue.log.append((entry, self._clock()))
        queue.size += len(body)
        return entry.offset

    def _trim(self, queue: _Queue) -> None:
        oldest = self._clock() - self.retention.age
        while queue.log and (queue.log[0][1] < oldest or queue.size > self.retention.size):
            entry, _ = queue.log.pop(0)
            queue.trimmed = entry.offset
            queue.size -= len(entry.body)
            id = decode_event(entry.body).id
            job = queue.jobs.get(id)
            if job and job.record.final and job.last <= queue.trimmed:
                del queue.jobs[id]

    def _cursor(self, queue: _Queue, offset: int) -> Cursor:
        if offset <= queue.trimmed:
            return beginning(queue.identity, queue.trimmed)
        return cursor_at(queue.identity, offset, queue.log[offset - queue.trimmed - 1][0].body)

    def _status(self, queue: _Queue, job: _Job) -> Status:
        progress = result = error = None
        if job.last > queue.trimmed:
            last = queue.log[job.last - queue.trimmed - 1][0]
            progress, result, error = snapshot_of(decode_event(last.body))
        return Status(
            id=job.task.id,
            queue=job.task.queue,
            name=job.task.name,
            state=job.record.state,
            attempt=job.record.attempt,
            cursor=self._cursor(queue, job.last),
            first=job.first,
            owner=job.task.owner,
            progress=progress,
            result=result,
            error=error,
        )


class MemoryDelivery(Delivery):
    """Holds a job until it is settled."""

    def __init__(self, broker: MemoryBroker, queue: _Queue, job: _Job, held: set[MemoryDelivery]) -> None:
        self.task = job.task
        self.attempt = job.attempt
        self.suspect = job.record.state == "running"
        self.losses = job.record.losses + (self.suspect and job.record.alone)
        self._broker = broker
        self._queue = queue
        self._job = job
        self._held = held
        job.due, job.holder = None, self
        held.add(self)

    def append(self, *events: Event) -> Awaitable[None]:
        self._broker._write(self._queue, events)
        return _done()

    def ack(self, *events: Event) -> Awaitable[None]:
        return self._settle(None, *events)

    def retry(self, delay: float, *events: Event) -> Awaitable[None]:
        return self._settle(self._broker._clock() + delay, *events, attempt=self.attempt + 1)

    def reject(self, reason: str, *events: Event) -> Awaitable[None]:
        return self._settle(None, *events)

    def release(self, *events: Event) -> Awaitable[None]:
        return self._settle(self.task.submitted_at, *events)

    def _settle(self, due: float | None, *events: Event, attempt: int | None = None) -> Awaitable[None]:
        self._broker._write(self._queue, events)
        job, now = self._job, self._broker._clock()
        if job.holder is self:
            job.holder = None
            job.attempt = attempt or job.attempt
            # A result that the fold refused ended nothing, so the task is delivered again rather than stuck.
            job.due = None if job.record.final else now if due is None else due
            if self.task.expires_at is not None and self.task.expires_at <= now:
                self._broker._expire(self._queue, job)
        self._held.discard(self)
        self._queue.wake()
        return _done()


def _expired(job: _Job, now: float) -> Event:
    error = ErrorInfo("expired", "the task was not begun before its expires_at")
    return ended(job.task, "failed", now, attempt=job.attempt, error=error)


def _done() -> Awaitable[None]:
    """An awaitable that may also be dropped: what was asked for has happened already."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future
