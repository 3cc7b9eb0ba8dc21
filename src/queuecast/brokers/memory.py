"""The whole contract in one process, with nothing durable: read this first, test with it.

Everything happens in the event loop's thread, so each verb is atomic by itself. A queue is a log (a list of entries),
a table of rows (what the fold made of each task, and when it may be delivered next) and an event that wakes whoever
waits for either.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ..codec import decode_event, encode_event, encode_task
from ..cursor import Cursor, beginning, cursor_at
from ..errors import BrokerUnavailable, KeyReused, QueuecastError, ResetRequired
from ..event import Event, ended, submitted
from ..lifecycle import Record, apply
from ..task import State, Task, same_work
from .base import (
    CONTROL,
    EXPIRED,
    Bounds,
    Broker,
    Consumer,
    Delivery,
    Entry,
    External,
    OnLost,
    Receipt,
    Retention,
    Status,
    snapshot_of,
)
from .futures import done, failed

READ_BATCH = 1_000
"""Entries handed to a reader at once; the next batch follows when it asks."""


@dataclass(slots=True)
class _Row:
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
    """One queue's log and rows. `trimmed` is the last offset that is gone."""

    identity: str = field(default_factory=lambda: secrets.token_hex(4))
    log: list[tuple[Entry, float]] = field(default_factory=list)
    size: int = 0
    trimmed: int = 0
    rows: dict[str, _Row] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def last(self) -> int:
        return self.trimmed + len(self.log)

    def wake(self) -> None:
        """Wake everyone who waits now; whoever waits later waits for the next change."""
        self.changed.set()
        self.changed = asyncio.Event()


class MemoryBroker(Broker):
    """`memory://`: for tests, and to read. All is gone when the process ends."""

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
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False
        for queue in self._queues.values():
            for row in queue.rows.values():
                if row.holder is not None:
                    await row.holder.release()
            queue.wake()

    async def declare(self, queue: str, external: External | None = None) -> None:
        self._queue(queue)

    # The task queue

    async def submit(self, tasks: Sequence[Task]) -> list[Receipt]:
        batch: dict[str, Task] = {}
        for task in tasks:
            encode_task(task)
            row = self._queue(task.queue).rows.get(task.id)
            earlier = row.task if row else batch.setdefault(task.id, task)
            if not same_work(earlier, task):
                raise KeyReused()
        return [self._take(task) for task in tasks]

    def _take(self, task: Task) -> Receipt:
        queue = self._queue(task.queue)
        row = queue.rows.get(task.id)
        created = row is None
        if row is None:
            first = submitted(task)
            self._append(queue, first, encode_event(first), task)
            row = queue.rows[task.id]
            if task.expires_at is not None:
                wait = max(0.0, task.expires_at - self._clock())
                asyncio.get_running_loop().call_later(wait, self._expire, queue, row)
        return Receipt(task.id, row.record.state, self._cursor(queue, row.last), created)

    def _expire(self, queue: _Queue, row: _Row) -> None:
        """Nobody began it in time. While a worker holds it, it waits for what that one makes of it."""
        if row.due is not None and row.record.state in ("scheduled", "queued"):
            expired = ended(row.task, "failed", self._clock(), attempt=row.attempt, error=EXPIRED)
            self._append(queue, expired, encode_event(expired))

    def consume(self, queue: str, concurrency: int, on_lost: OnLost) -> Consumer:
        return MemoryConsumer(self, queue, concurrency)

    # The event log

    def append(self, queue: str, events: Sequence[Event]) -> Awaitable[None]:
        return _done(lambda: self._write(self._queue(queue), events))

    def post(self, body: bytes) -> Awaitable[None]:
        return _done(lambda: self._post(body))

    def _post(self, body: bytes) -> None:
        place = self._queue(CONTROL)
        self._log(place, body)
        place.wake()

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

    # The projection

    async def status(self, queue: str, id: str) -> Status | None:
        place = self._queue(queue)
        row = place.rows.get(id)
        return self._status(place, row) if row else None

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
        newest_first = list(reversed(place.rows.values()))
        if before is not None:
            previous = place.rows.get(before)
            newest_first = [row for row in newest_first if previous and row.first < previous.first]
        matching = [
            row for row in newest_first if state in (None, row.record.state) and owner in (None, row.task.owner)
        ]
        return [self._status(place, row) for row in matching[:limit]]

    async def counts(self) -> Mapping[str, Mapping[State, int]]:
        return {
            name: Counter(row.record.state for row in queue.rows.values())
            for name, queue in self._queues.items()
            if name != CONTROL
        }

    async def oldest_due(self, queue: str) -> float | None:
        now = self._clock()
        due = [row.due for row in self._queue(queue).rows.values() if row.due is not None and row.due <= now]
        return min(due, default=None)

    async def load(self, queue: str, id: str) -> Task | None:
        row = self._queue(queue).rows.get(id)
        return row.task if row else None

    # Inside

    def _queue(self, name: str) -> _Queue:
        if not self.is_open:
            raise BrokerUnavailable("the broker is closed")
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = _Queue()
        return queue

    def _write(self, queue: _Queue, events: Sequence[Event]) -> None:
        """All or none: where one is too large, none is written."""
        if events and not self.is_open:
            raise BrokerUnavailable("the broker is closed")
        for event, body in [(event, encode_event(event)) for event in events]:
            self._append(queue, event, body)

    def _append(self, queue: _Queue, event: Event, body: bytes, task: Task | None = None) -> None:
        """Fold the event in; what the fold refuses never enters the log."""
        row = queue.rows.get(event.id)
        record = apply(row.record if row else None, event)
        if record is None or (row is None and task is None):
            return
        offset = self._log(queue, body)
        if row is None and task is not None:
            row = _Row(task, record, task.not_before or task.submitted_at, offset, offset)
            queue.rows[task.id] = row
        elif row is not None:
            row.record, row.last = record, offset
            if record.final:
                row.due = None
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
            row = queue.rows.get(id)
            if row and row.record.final and row.last <= queue.trimmed:
                del queue.rows[id]

    def _cursor(self, queue: _Queue, offset: int) -> Cursor:
        if offset <= queue.trimmed:
            return beginning(queue.identity, queue.trimmed)
        return cursor_at(queue.identity, offset, queue.log[offset - queue.trimmed - 1][0].body)

    def _status(self, queue: _Queue, row: _Row) -> Status:
        progress = result = error = None
        if row.last > queue.trimmed:
            last = queue.log[row.last - queue.trimmed - 1][0]
            progress, result, error = snapshot_of(decode_event(last.body))
        return Status(
            id=row.task.id,
            queue=row.task.queue,
            name=row.task.name,
            state=row.record.state,
            attempt=row.record.attempt,
            cursor=self._cursor(queue, row.last),
            first=row.first,
            owner=row.task.owner,
            progress=progress,
            result=result,
            error=error,
        )


class MemoryConsumer(Consumer):
    """Takes what is due while it holds less than it may."""

    def __init__(self, broker: MemoryBroker, queue: str, concurrency: int) -> None:
        self._broker = broker
        self._queue = queue
        self._concurrency = concurrency
        self._held: set[MemoryDelivery] = set()
        self._stopped = False

    async def __anext__(self) -> Delivery:
        while not self._stopped:
            queue = self._broker._queue(self._queue)
            hungry = len(self._held) < self._concurrency
            row = self._next_due(queue) if hungry else None
            if row is not None:
                return MemoryDelivery(self._broker, queue, row, self._held)
            await self._wait_for_work(queue, hungry)
        raise StopAsyncIteration

    def stop(self) -> None:
        self._stopped = True
        if self._broker.is_open:
            self._broker._queue(self._queue).wake()

    async def aclose(self) -> None:
        self.stop()
        for delivery in list(self._held):
            with suppress(BrokerUnavailable):
                await delivery.release()

    def _next_due(self, queue: _Queue) -> _Row | None:
        now = self._broker._clock()
        due = [row for row in queue.rows.values() if row.due is not None and row.due <= now]
        return min(due, key=lambda row: row.due or 0.0, default=None)

    async def _wait_for_work(self, queue: _Queue, hungry: bool) -> None:
        """Until something changes in the queue, or the next task becomes due."""
        waiting = [row.due for row in queue.rows.values() if row.due is not None] if hungry else []
        timeout = max(0.0, min(waiting) - self._broker._clock()) if waiting else None
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await queue.changed.wait()


class MemoryDelivery(Delivery):
    """Holds a task until it is settled."""

    def __init__(self, broker: MemoryBroker, queue: _Queue, row: _Row, held: set[MemoryDelivery]) -> None:
        self.task = row.task
        self.attempt = row.attempt
        self.suspect = row.record.state == "running"
        self.losses = row.record.losses + (self.suspect and row.record.alone)
        self._broker = broker
        self._queue = queue
        self._row = row
        self._held = held
        row.due, row.holder = None, self
        held.add(self)

    async def begin(self, event: Event) -> Awaitable[None]:
        return self.append(event)

    def append(self, *events: Event) -> Awaitable[None]:
        return _done(lambda: self._broker._write(self._queue, events))

    def ack(self, *events: Event) -> Awaitable[None]:
        return _done(lambda: self._settle(None, events))

    def retry(self, delay: float, *events: Event) -> Awaitable[None]:
        due = self._broker._clock() + delay
        return _done(lambda: self._settle(due, events, attempt=self.attempt + 1))

    def reject(self, reason: str, *events: Event) -> Awaitable[None]:
        return _done(lambda: self._settle(None, events))

    def release(self, *events: Event) -> Awaitable[None]:
        return _done(lambda: self._settle(self.task.submitted_at, events))

    def _settle(self, due: float | None, events: Sequence[Event], attempt: int | None = None) -> None:
        self._broker._write(self._queue, events)
        row, now = self._row, self._broker._clock()
        if row.holder is self:
            row.holder = None
            row.attempt = attempt or row.attempt
            # A result that the fold refused ended nothing, so the task is delivered again rather than stuck.
            row.due = None if row.record.final else now if due is None else due
            if self.task.expires_at is not None and self.task.expires_at <= now:
                self._broker._expire(self._queue, row)
        self._held.discard(self)
        self._queue.wake()


def _done(work: Callable[[], None]) -> Awaitable[None]:
    """Do it now; what it raises is raised where this is awaited."""
    try:
        work()
    except QueuecastError as error:
        return failed(error)
    return done()
