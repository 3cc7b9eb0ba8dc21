"""A server in memory with all that a real one may do to its clients: offsets with gaps, entries that are there twice,
connections that are cut, logs that are trimmed, cut short or recreated.
"""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from queuecast.brokers.base import Bounds, Entry, External
from queuecast.brokers.folded.driver import Driver, Handed, Intake, Page, Parcel
from queuecast.brokers.folded.wire import Message
from queuecast.cursor import Cursor, beginning, cursor_at, digest
from queuecast.errors import BrokerUnavailable, ResetRequired

BLOCK = 16
"""Each append begins at a multiple of it, so there are gaps between most of them."""

PAGE = 7
"""Entries that a reader gets at once."""


class Changes:
    """Wakes whoever waits for something to change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float | None = None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()


class FakeLog:
    """One log as the server has it. What tests do to it, they do here."""

    def __init__(self, identity: str | None = "log") -> None:
        self.identity = identity
        self.entries: list[Entry] = []
        self.authors: dict[int, tuple[object, int]] = {}
        self.trimmed = 0
        self.last = 0
        self.changes = Changes()

    def write(self, *bodies: bytes, author: tuple[object, int] | None = None) -> list[int]:
        """Append these, whatever they are, after a gap; their offsets."""
        offset = -(-(self.last + 1) // BLOCK) * BLOCK if self.entries else self.last + 1
        offsets = list(range(offset, offset + len(bodies)))
        for each, body in zip(offsets, bodies, strict=True):
            self.entries.append(Entry(each, body))
            if author is not None:
                self.authors[each] = author
        self.last = offsets[-1] if offsets else self.last
        self.changes.tell()
        return offsets

    def trim(self, offset: int) -> None:
        """Forget everything up to the offset."""
        self.trimmed = max(self.trimmed, offset)
        self.entries = [entry for entry in self.entries if entry.offset > offset]
        self.changes.tell()

    def cut_short(self, last: int) -> None:
        """Lose everything after the offset, as a server that was restored from a backup has."""
        self.entries = [entry for entry in self.entries if entry.offset <= last]
        self.last = self.entries[-1].offset if self.entries else self.trimmed
        self.changes.tell()

    @property
    def end(self) -> int:
        """The server only knows which block is the last, so this may lie beyond the last event."""
        return self.last | BLOCK - 1 if self.last > self.trimmed else self.last

    def bounds(self) -> Bounds:
        return Bounds(self.trimmed + 1, self.end, self.identity)

    def check(self, after: Cursor) -> None:
        """Raises `ResetRequired` where a reader cannot go on from there."""
        if after.identity != self.identity:
            raise ResetRequired("other-log")
        if after.offset > self.end:
            raise ResetRequired("ahead")
        compares = after.digest != beginning(None).digest
        if after.offset < self.trimmed or (compares and after.offset == self.trimmed):
            raise ResetRequired("trimmed")
        if compares and after.digest not in [digest(body) for at, body in self.entries if at == after.offset]:
            raise ResetRequired("diverged")

    def after(self, offset: int, limit: int) -> list[Entry]:
        return [entry for entry in self.entries if entry.offset > offset][:limit]

    def own(self, driver: object, last: int) -> int:
        """The number of this driver's last append up to the offset."""
        numbers = [number for at, (who, number) in self.authors.items() if who is driver and at <= last]
        return max(numbers, default=0)


class FakeQueue:
    """Messages that wait for consumers, each from a time on."""

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self.changes = Changes()
        self._numbers = itertools.count()

    def put(self, message: Message, delay: float = 0.0) -> None:
        self._add(Waiting(time.monotonic() + delay, next(self._numbers), message))

    def put_back(self, taken: "Waiting") -> None:
        """In the place that it had."""
        self._add(taken._replace(again=True))

    def take(self) -> "Waiting | None":
        """The first one that is due."""
        return self.waiting.pop(0) if self.waiting and self.waiting[0].due <= time.monotonic() else None

    def hasten(self) -> None:
        """All that waits for its time is due now."""
        now = time.monotonic()
        self.waiting = [each._replace(due=min(each.due, now)) for each in self.waiting]
        self.changes.tell()

    async def wait(self) -> None:
        """Until something changes, or what waits is due."""
        await self.changes.wait(max(0.0, self.waiting[0].due - time.monotonic()) if self.waiting else None)

    def _add(self, waiting: "Waiting") -> None:
        self.waiting.append(waiting)
        self.waiting.sort(key=lambda each: each[:2])
        self.changes.tell()


class Waiting(NamedTuple):
    """A message in a queue; `due` is a time of the monotonic clock."""

    due: float
    number: int
    message: Message
    again: bool = False


class FakeServer:
    """What all drivers of a test share."""

    def __init__(self, identity: str | None = "log") -> None:
        self.identity = identity
        self.logs: defaultdict[str, FakeLog] = defaultdict(lambda: FakeLog(identity))
        self.queues: defaultdict[str, FakeQueue] = defaultdict(FakeQueue)
        self.replies: defaultdict[str, list[Message]] = defaultdict(list)
        """What foreign producers were answered, by their address."""
        self.down = False
        """Nobody can reach it."""
        self.repeats = 0
        """How many of the next appends land twice, as after a confirm that was lost."""
        self.reads = 0
        """How many readers of logs are open."""
        self._connections = 0
        self._cut = Changes()

    def driver(self) -> "FakeDriver":
        return FakeDriver(self)

    def cut(self) -> None:
        """Cut all connections."""
        self._connections += 1
        for each in (*self.logs.values(), *self.queues.values()):
            each.changes.tell()

    def recreate(self, log: str, identity: str | None) -> FakeLog:
        """Delete the log, and make another one of its name."""
        old, new = self.logs[log], FakeLog(identity)
        self.logs[log] = new
        old.changes.tell()
        return new

    @property
    def connection(self) -> int:
        return -1 if self.down else self._connections


class FakeDriver(Driver):
    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.closed = False
        self._appends: defaultdict[str, int] = defaultdict(int)
        self._intakes: list[FakeIntake] = []

    @property
    def intakes(self) -> "list[FakeIntake]":
        """Those that are open."""
        return [intake for intake in self._intakes if not intake.closed]

    def _check(self) -> int:
        if self.closed or self.server.down:
            raise BrokerUnavailable("the server is down")
        return self.server.connection

    async def open(self) -> None:
        self._check()

    async def close(self) -> None:
        self.closed = True
        for intake in self._intakes:
            intake.lose()
        for each in (*self.server.logs.values(), *self.server.queues.values()):
            each.changes.tell()

    async def declare(self, queue: str, external: External | None) -> None:
        self._check()
        self.server.logs[queue]
        self.server.queues[queue]

    async def put(self, parcels: Sequence[Parcel]) -> None:
        self._check()
        for queue, message, delay in parcels:
            self.server.queues[queue].put(message, delay)

    def consume(self, queue: str, concurrency: int) -> "FakeIntake":
        return self._intake(self.server.queues[queue], concurrency)

    def replies(self, queue: str) -> "FakeIntake":
        return self._intake(self.server.queues[self.replies_to(queue)], 1_000)

    def replies_to(self, queue: str) -> str:
        return f"_qc.replies.{queue}"

    def _intake(self, queue: FakeQueue, limit: int) -> "FakeIntake":
        intake = FakeIntake(queue, limit, self._check)
        self._intakes.append(intake)
        return intake

    async def reply(self, to: str, message: Message) -> None:
        self._check()
        if to in self.server.queues:
            self.server.queues[to].put(message)
        else:
            self.server.replies[to].append(message)

    def append(self, log: str, bodies: Sequence[bytes]) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        try:
            self._check()
        except BrokerUnavailable as error:
            future.set_exception(error)
            return future
        self._appends[log] += 1
        number = self._appends[log]
        self.server.logs[log].write(*bodies, author=(self, number))
        if self.server.repeats:
            self.server.repeats -= 1
            self.server.logs[log].write(*bodies, author=(self, number))
        future.set_result(number)
        return future

    async def flushed(self) -> None:
        self._check()

    async def read(self, log: str, after: Cursor) -> AsyncGenerator[Page, None]:
        connection = self._check()
        place = self.server.logs[log]
        place.check(after)
        offset = after.offset
        self.server.reads += 1
        upto = -1
        try:
            while True:
                if self._check() != connection:
                    raise BrokerUnavailable("the connection was cut")
                if self.server.logs[log] is not place:
                    raise ResetRequired("other-log")
                place.check(beginning(after.identity, offset))
                entries = place.after(offset, PAGE)
                if entries:
                    offset = entries[-1].offset
                if entries or upto < place.end:
                    upto = offset if entries and offset < place.last else place.end
                    yield Page(entries, upto, place.own(self, offset))
                else:
                    await place.changes.wait()
        finally:
            self.server.reads -= 1

    async def bounds(self, log: str) -> Bounds:
        self._check()
        return self.server.logs[log].bounds()

    async def recent(self, log: str) -> Cursor:
        self._check()
        place = self.server.logs[log]
        if place.entries:
            return cursor_at(place.identity, *place.entries[-1])
        return beginning(place.identity, place.last)


class FakeHanded(Handed):
    def __init__(self, intake: "FakeIntake", taken: Waiting) -> None:
        self.taken = taken
        self.message = taken.message
        self.again = taken.again
        self.at = time.monotonic()
        self._intake = intake

    @property
    def is_held(self) -> bool:
        return self in self._intake.held

    def settle(self) -> None:
        if self in self._intake.held:
            self._intake.held.remove(self)
            self._intake.queue.changes.tell()

    def give_back(self) -> None:
        if self in self._intake.held:
            self.settle()
            self._intake.queue.put_back(self.taken)


class FakeIntake(Intake):
    def __init__(self, queue: FakeQueue, limit: int, check: Callable[[], int]) -> None:
        self.queue = queue
        self.held: list[FakeHanded] = []
        self.limit = limit
        self._check = check
        self.closed = False
        self._connection: int | None = None
        self._stopped = False

    async def __anext__(self) -> Handed:
        while not self._stopped:
            connection = self._check_connection()
            if self._connection is None:
                self._connection = connection
            if len(self.held) < self.limit and (taken := self.queue.take()) is not None:
                self.held.append(handed := FakeHanded(self, taken))
                return handed
            await self.queue.wait() if len(self.held) < self.limit else await self.queue.changes.wait()
        raise StopAsyncIteration

    def _check_connection(self) -> int:
        try:
            connection = self._check()
            if self._connection not in (None, connection):
                raise BrokerUnavailable("the connection was cut")
        except BrokerUnavailable:
            self.lose()
            raise
        return connection

    def lose(self) -> None:
        """The server hands out again what is held here."""
        held, self.held = self.held, []
        for handed in held:
            self.queue.put_back(handed.taken)

    def stop(self) -> None:
        self._stopped = True
        self.queue.changes.tell()

    async def aclose(self) -> None:
        self.stop()
        self.lose()
        self.closed = True
