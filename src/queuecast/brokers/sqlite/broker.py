"""The asyncio face of the SQLite broker."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sqlite3
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, Final, ParamSpec, TypeAlias, TypeVar

from ...codec import encode_event, encode_task
from ...errors import BrokerUnavailable, ConfigurationError, QueuecastError
from ...event import Event, submitted
from ...task import State, Task
from ..base import Bounds, Broker, Consumer, Entry, External, OnLost, Receipt, Retention, Status
from ..futures import failed
from . import reads
from .database import new_token, translated
from .deliveries import Holdings, LocalConsumer
from .desk import answer
from .operations import Append, Declare, Operation, Post, Settle, Submission, Submit
from .peers import decode
from .place import Place
from .reads import Page
from .writer import Outcome, Writer

P = ParamSpec("P")
T = TypeVar("T")
Query: TypeAlias = Callable[Concatenate[sqlite3.Connection, P], T]

FRESH_PAGE: Final = Page(100, 250_000)
"""Read in the event loop itself after a wake-up: this was just written, so no disk is waited for, and a thread would
take longer to wake than to read it."""

FIRST_PAGE: Final = Page(100, 1_000_000)
"""The first of a replay, read in a thread; many a reader wants only one entry."""

NEXT_PAGE: Final = Page(1_000, 4_000_000)


class SQLiteBroker(Broker):
    """`sqlite:///work.db`. Its own tables are the projection.

    With `sync="normal"` no commit waits for the disk: a power cut may undo what was acknowledged last, a kill undoes
    nothing.
    """

    def __init__(
        self,
        url: str,
        retention: Retention = Retention(),  # noqa: B008 - immutable
        *,
        path: str,
        sync: str = "full",
    ) -> None:
        if sync not in ("full", "normal"):
            raise ConfigurationError(f"{url!r}: sync is full or normal, not {sync!r}")
        self.url = url
        self.retention = retention
        self._place = Place(path)
        self._syncs = sync == "full"
        self._unusable = "the broker is not open"
        """Why nothing can be asked of it; "" while it is open."""
        self._writer: Writer
        self._near: sqlite3.Connection
        """Read from in the event loop."""
        self._far: sqlite3.Connection
        """Read from in the reader's thread."""
        self._reader: ThreadPoolExecutor
        self._holdings = Holdings(self._hand)
        self._numbers: dict[str, int] = {}
        self._bells: dict[int, asyncio.Event] = {}
        self._ending: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<SQLiteBroker {self._place.file}: {self._unusable or f'{len(self._holdings)} held'}>"

    async def open(self) -> None:
        if not self._unusable:
            return
        self._place.prepare()
        self._numbers.clear()
        self._ending = None
        self._writer = Writer(
            self._place, self.retention, new_token(), syncs=self._syncs, tell=self._told, lost=self._lost
        )
        self._near, self._far = await self._writer.open()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="queuecast sqlite reader")
        asyncio.get_running_loop().add_reader(self._writer.peers.inbox, self._heard)
        self._unusable = ""
        _open.add(self)

    async def close(self) -> None:
        if not self._unusable:
            self._holdings.end(_CLOSED)
            self._end(_CLOSED)
        if self._ending is not None:
            await self._ending

    async def declare(self, queue: str, external: External | None = None) -> None:
        await self._number(queue)

    # The task queue

    async def submit(self, tasks: Sequence[Task]) -> list[Receipt]:
        receipts: list[Receipt] = await self._hand(Submit, [_submission(task) for task in tasks])
        return receipts

    def consume(self, queue: str, concurrency: int, on_lost: OnLost) -> Consumer:
        return LocalConsumer(self._holdings, queue, concurrency, on_lost)

    # The event log

    def append(self, queue: str, events: Sequence[Event]) -> Awaitable[None]:
        return self._hand(Append, queue, events)

    def post(self, body: bytes) -> Awaitable[None]:
        return self._hand(Post, body)

    async def read(self, queue: str, after: int) -> AsyncGenerator[list[Entry], None]:
        number = await self._number(queue)
        page = FIRST_PAGE
        while True:
            # Taken before reading: what is committed after that rings it.
            bell = self._bells.setdefault(number, asyncio.Event())
            if page is FRESH_PAGE:
                entries = self._look(reads.page, number, after, page)
            else:
                entries = await self._fetch(reads.page, number, after, page)
            if entries:
                after = entries[-1].offset
                yield entries
            if len(entries) < page.entries and sum(len(entry.body) for entry in entries) < page.size:
                await bell.wait()
                page = FRESH_PAGE
            else:
                page = NEXT_PAGE

    async def bounds(self, queue: str) -> Bounds:
        return self._look(reads.bounds, await self._number(queue))

    # The projection

    async def status(self, queue: str, id: str) -> Status | None:
        return await self._fetch(reads.status, await self._number(queue), queue, id)

    async def statuses(
        self,
        queue: str,
        *,
        state: State | None = None,
        owner: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[Status]:
        number = await self._number(queue)
        return await self._fetch(reads.statuses, number, queue, state=state, owner=owner, before=before, limit=limit)

    async def counts(self) -> Mapping[str, Mapping[State, int]]:
        return await self._fetch(reads.counts)

    async def oldest_due(self, queue: str) -> float | None:
        return await self._fetch(reads.oldest_due, await self._number(queue), time.time())

    async def load(self, queue: str, id: str) -> Task | None:
        return await self._fetch(reads.load, await self._number(queue), id)

    # Inside

    def _check(self) -> None:
        if self._unusable:
            raise BrokerUnavailable(self._unusable)

    def _hand(self, kind: Callable[P, Operation], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[Any]:
        """Leave such an operation for the writer. What goes wrong is raised where the future is awaited."""
        try:
            self._check()
            return self._writer.desk.hand(kind(*args, **kwargs))
        except QueuecastError as error:
            return failed(error)

    async def _number(self, queue: str) -> int:
        """The queue's number; it is made where there is none."""
        self._check()
        if queue not in self._numbers:
            self._numbers[queue] = await self._hand(Declare, queue)
        return self._numbers[queue]

    def _look(self, query: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read in the event loop: for what is small and was just written or is always at hand."""
        self._check()
        with _translating():
            return query(self._near, *args, **kwargs)

    async def _fetch(self, query: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read in the thread for it: may wait for the disk."""
        self._check()
        with _translating():
            read = functools.partial(query, self._far, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(self._reader, read)

    def _told(self, outcome: Outcome) -> None:
        """What the writer did."""
        for operation, result in outcome.answers:
            answer(operation, result)
            if isinstance(operation, Settle):
                self._holdings.settled(operation, failed=isinstance(result, Exception))
        if self._unusable:
            return
        if outcome.held is not None:
            self._holdings.renewed(outcome.held)
        self._holdings.add(outcome.deliveries)
        self._ring(self._bells if outcome.lost_peer else outcome.grown)

    def _lost(self, reason: str) -> None:
        """The writer cannot go on."""
        if not self._unusable:
            self._end(reason)
            self._holdings.lose(reason)
            self.on_end(reason)

    def _end(self, reason: str) -> None:
        self._unusable = reason
        _open.discard(self)
        asyncio.get_running_loop().remove_reader(self._writer.peers.inbox)
        self._ring(self._bells)
        self._ending = asyncio.ensure_future(_let_go(self._reader, self._writer))

    def _heard(self) -> None:
        """What other processes did."""
        try:
            news = decode(os.read(self._writer.peers.inbox, 1 << 16))
        except BlockingIOError:
            return
        desk, consumed = self._writer.desk, self._holdings.numbers()
        if news.newcomer:
            desk.greet()
        if news.everything:
            desk.look(consumed)
            self._ring(self._bells)
            return
        self._ring(change.queue for change in news.changes)
        if stirred := consumed.intersection(change.queue for change in news.changes if change.work):
            desk.look(stirred)

    def _ring(self, queues: Iterable[int]) -> None:
        """Wake everyone who waits for these logs to grow; whoever waits later waits for the next time."""
        for queue in tuple(queues):
            if bell := self._bells.pop(queue, None):
                bell.set()

    def _forked(self) -> None:
        self._unusable = "this broker was opened before the process forked: open one in the child"
        self._writer.abandon()
        _abandoned.append(self)


_CLOSED: Final = "the broker is closed"

_open: weakref.WeakSet[SQLiteBroker] = weakref.WeakSet()

_abandoned: list[SQLiteBroker] = []
"""In a forked child: SQLite forbids even to close a connection that was opened before the fork."""


def _abandon_all() -> None:
    for broker in tuple(_open):
        broker._forked()
    _open.clear()


os.register_at_fork(after_in_child=_abandon_all)


async def _let_go(reader: ThreadPoolExecutor, writer: Writer) -> None:
    # In this order: the writer closes the connections that are read with.
    await asyncio.get_running_loop().run_in_executor(None, reader.shutdown)
    await writer.close()


def _submission(task: Task) -> Submission:
    event = submitted(task)
    return Submission(task, encode_task(task), event, encode_event(event))


@contextlib.contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise translated(error) from error
