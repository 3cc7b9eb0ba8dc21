"""The broker contract: a task queue and an event log under one name per queue.

A backend promises exactly what is written here; `tests/brokers/contract.py` states every promise as a test and runs
against all of them. Driver errors are translated at this border into the family of `errors.BrokerError`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

from msgspec import Struct

from ..cursor import Cursor, beginning, digest
from ..errors import ResetRequired
from ..event import ErrorInfo, Event, Progress, ResultEvent, TaskEvent
from ..task import State, Task

CONTROL: Final = "_qc.control"
"""The control log, one more log: cancel requests and what workers announce."""

MAX_LONE_LOSSES: Final = 5
"""Process deaths while a task ran alone. After so many it is buried as `failed` (`worker-lost`)."""


EXPIRED: Final = ErrorInfo("expired", "the task was not begun before its expires_at")


class Retention(NamedTuple):
    """How much of each log is kept. What exceeds either bound is trimmed from its beginning, in steps.

    A task still running keeps its place; a finished one is forgotten with its last event. A delay or timeout beyond
    `age` is refused at submit, because the log would forget the task before it ends.
    """

    age: float = 7 * 86_400.0
    """Seconds."""
    size: int = 1 << 30
    """Bytes of events per queue."""


class Entry(NamedTuple):
    """One event in a log, as it was appended."""

    offset: int
    body: bytes


class Bounds(NamedTuple):
    """What a log still holds: every event from `first` to `last`, both inclusive (`first > last`: none).

    `identity` tells this log from one of the same name that was there before; None where the backend has none.
    """

    first: int
    last: int
    identity: str | None


class Receipt(Struct, frozen=True):
    """A task is durable. Everything that happens to it after `state` lies after `cursor` in its queue's log."""

    id: str
    state: State
    cursor: Cursor
    created: bool
    """False where the idempotency key had been used: this is the earlier task."""


class Status(Struct, frozen=True, kw_only=True):
    """What the fold knows of one task."""

    id: str
    queue: str
    name: str
    state: State
    attempt: int
    cursor: Cursor
    """The place of the task's last event: together with the stream after it there is no gap."""
    first: int
    """Offset of the task's first event."""
    owner: str | None = None
    progress: Progress | None = None
    result: Any = None
    error: ErrorInfo | None = None


class Delivery(ABC):
    """One handing-over of a task to a worker. Settle it once: by ack, retry, reject or release.

    Each verb takes the event that must be durable before the delivery is settled, so that a crash in between
    repeats work and never loses it; a backend with transactions does both in one. The awaitables may be awaited
    later: the order of the calls is the order of the events. What goes wrong is raised where they are awaited.
    """

    task: Task
    attempt: int
    """Counts tries from 1. A retry raises it, a lost worker does not."""
    suspect: bool
    """An earlier run of this task began and never ended: its worker may have died of it, so run it alone.

    True also where the backend knows that its holder died before anything of the run was durable.
    """
    losses: int
    """How many of its runs died alone; see MAX_LONE_LOSSES."""

    @abstractmethod
    async def begin(self, event: Event) -> Awaitable[object]:
        """Hand over the run's first event, `running`. Returns once a death of this process would leave a trace of
        the run, so that a handler which kills its process is found out; it is durable when the result is awaited.
        """

    @abstractmethod
    def append(self, *events: Event) -> Awaitable[object]:
        """Hand over events of this run. They are on their way when this returns, durable when it is awaited."""

    @abstractmethod
    def ack(self, *events: Event) -> Awaitable[object]:
        """The task has ended; the last event is its result. One that the fold refuses ends nothing: delivered again."""

    @abstractmethod
    def retry(self, delay: float, *events: Event) -> Awaitable[object]:
        """Deliver it again after `delay` seconds, one attempt higher; the last event is `retrying`."""

    @abstractmethod
    def reject(self, reason: str, *events: Event) -> Awaitable[object]:
        """Put it to the dead letters with a reason; the last event is its result, `failed`."""

    @abstractmethod
    def release(self, *events: Event) -> Awaitable[object]:
        """Give it back, at once and without using up a try: the worker is stopping.

        Where its run had begun the last event is `retrying` with no delay, so that nobody takes it for lost.
        """


OnLost: TypeAlias = Callable[[Delivery], None]


class Consumer(AsyncIterator[Delivery], ABC):
    """Yields a queue's deliveries to one worker. Raises `BrokerError` when no more will come."""

    @abstractmethod
    def stop(self) -> None:
        """Take nothing more: the iteration ends. What is held stays held, to be settled."""

    @abstractmethod
    async def aclose(self) -> None:
        """Stop, and give back what is held, to be delivered to others."""


class External(NamedTuple):
    """That a queue's workers are foreign programs."""

    name: str
    """Of the backend's own queue or topic, which may have been there before us."""
    reply_within: float
    """Seconds after which a task without a reply has failed (`no-reply`)."""


class Broker(ABC):
    """A connection to a backend. Belongs to the event loop it was opened in.

    Every call waits a bounded time, then raises `BrokerUnavailable` (nothing happened) or `OutcomeUnknown`.
    """

    is_open_to_foreign: ClassVar[bool] = False
    """Whether foreign programs can reach its queues, so that a queue can be external."""
    url: str
    retention: Retention
    on_end: Callable[[str], object] = staticmethod(lambda _: None)
    """Called in the event loop with the reason when nothing can be asked of it any more, until it is opened anew."""

    @abstractmethod
    async def open(self) -> None:
        """Connect. Raises `ConfigurationError` with what to do when this can never work here."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what was handed over, then let go. Unsettled deliveries go back to their queues."""

    @abstractmethod
    async def declare(self, queue: str, external: External | None = None) -> None:
        """Make sure that the queue and its log exist. May be repeated.

        `external` only where the backend `is_open_to_foreign`. Raises `ConfigurationError` for a queue that would
        lose tasks, with what the backend says about it.
        """

    # The task queue

    @abstractmethod
    async def submit(self, tasks: Sequence[Task]) -> list[Receipt]:
        """Returns once all of them are durable, each with its first event. All or none are taken.

        A task whose id is known already is not added again; `KeyReused` when that one differs in name or args.
        """

    @abstractmethod
    def consume(self, queue: str, concurrency: int, on_lost: OnLost) -> Consumer:
        """Take deliveries, at most `concurrency` of them unsettled, in the order in which they became due.

        Competes with every other consumer of the queue; a consumer that dies has its deliveries handed to others. A
        backend may deal a queue out in parts, each to one consumer (Kafka's partitions): then the order is that of each
        part, and what is in one waits for whoever has it.
        `on_lost` is called when a delivery was handed to another consumer while this one still held it.
        """

    # The event log

    @abstractmethod
    def append(self, queue: str, events: Sequence[Event]) -> Awaitable[object]:
        """Hand over events that belong to no delivery. Same rules as `Delivery.append`."""

    @abstractmethod
    def post(self, body: bytes) -> Awaitable[object]:
        """Append one message to the control log. A server may show it twice, so it must mean no more for that."""

    @abstractmethod
    def read(self, queue: str, after: int) -> AsyncGenerator[list[Entry], None]:
        """Yield batches of what lies after the offset, in order, each entry once; then wait for more, for ever.

        What the fold refuses is not there: every reader sees what subscribers are shown.
        Raises `ResetRequired`: "trimmed" when events after `after` are gone, "ahead" when the log ends before it.
        """

    @abstractmethod
    async def bounds(self, queue: str) -> Bounds: ...

    async def at(self, queue: str, offset: int) -> bytes:
        """The event at an offset. Raises `ResetRequired` ("trimmed") where the log does not hold it any more."""
        async with aclosing(self.read(queue, offset - 1)) as reader:
            entry = (await anext(reader))[0]
        if entry.offset != offset:
            raise ResetRequired("trimmed")
        return entry.body

    async def recent(self, queue: str, count: int) -> int:
        """An offset after which about so many events lie: that of an event, or just before the first."""
        bounds = await self.bounds(queue)
        return max(bounds.first - 1, bounds.last - count)

    # The projection: what the fold made of each task. All of it, `read` and `bounds` tell of one moment, which is
    # never before what this process itself has written.

    @abstractmethod
    async def status(self, queue: str, id: str) -> Status | None: ...

    @abstractmethod
    async def statuses(
        self,
        queue: str,
        *,
        state: State | None = None,
        owner: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[Status]:
        """Newest first, of one state and one owner where given; `before` is the id at which the previous page ended."""

    @abstractmethod
    async def counts(self) -> Mapping[str, Mapping[State, int]]:
        """How many tasks each queue holds in each state; a queue that was declared is always there."""

    @abstractmethod
    async def oldest_due(self, queue: str) -> float | None:
        """POSIX time since which the task that waits longest could have been running."""

    @abstractmethod
    async def load(self, queue: str, id: str) -> Task | None:
        """A dead letter as it was submitted, for a requeue. None where the backend does not have it any more."""


async def verify(broker: Broker, queue: str, cursor: Cursor) -> int:
    """The offset after which a reader with this cursor goes on.

    Reads inclusively at the cursor and compares, because a recreated, restored or truncated log can hold other
    events at the same offsets. Raises `ResetRequired` with the reason.
    """
    bounds = await broker.bounds(queue)
    if cursor.identity != bounds.identity:
        raise ResetRequired("other-log")
    if cursor.offset > bounds.last:
        raise ResetRequired("ahead")
    if cursor.offset < bounds.first - 1:
        raise ResetRequired("trimmed")
    anchored = cursor.offset >= bounds.first
    if not anchored and bounds.identity is None and cursor != beginning(None, cursor.offset):
        raise ResetRequired("trimmed")
    if anchored and digest(await broker.at(queue, cursor.offset)) != cursor.digest:
        raise ResetRequired("diverged")
    return cursor.offset


async def end_of(broker: Broker, queue: str) -> Cursor:
    """A cursor at the log's end, as of now."""
    while True:
        bounds = await broker.bounds(queue)
        if bounds.last < bounds.first:
            return beginning(bounds.identity, bounds.last)
        try:
            body = await broker.at(queue, bounds.last)
        except ResetRequired:
            continue  # trimmed between the two looks: look again
        return Cursor(bounds.identity, bounds.last, digest(body))


def snapshot_of(event: Event) -> tuple[Progress | None, Any, ErrorInfo | None]:
    """Progress, result and error as the task's last event tells them."""
    if isinstance(event, ResultEvent):
        return None, event.result, event.error
    if isinstance(event, TaskEvent):
        return event.task.progress, None, event.task.error
    return None, None, None
