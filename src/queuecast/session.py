"""The session: what an application keeps open in one event loop: its broker, and one tail per queue it follows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from msgspec import Struct

from .brokers import Broker, External, make_broker
from .brokers.base import Entry, Status
from .codec import decode_event
from .cursor import Cursor
from .errors import ResultExpired
from .event import ResultEvent
from .tail import Tail
from .task import FINAL_STATES

TAIL_BACKLOG: Final = 2_000
"""Past events a tail begins with, so that clients coming back after a restart find them in memory."""


class Session:
    """Everything here belongs to the loop it was opened in. `foreign` tells which queues are external."""

    def __init__(self, url: str, foreign: Callable[[str], External | None] = lambda _: None) -> None:
        self.broker: Broker = make_broker(url)
        self.loop = asyncio.get_running_loop()
        self.ended = ""
        """Why the broker can never be asked again, though nobody has closed it; "" while it can."""
        self._foreign = foreign
        self._tails: dict[str, Tail] = {}
        self._results: dict[str, _Results] = {}
        self._declared: set[str] = set()
        self._opening = asyncio.Lock()
        self._heirs: list[Callable[[str], object]] = []
        self._ending: asyncio.Task[None] | None = None
        self.broker.on_end = self._broker_ended

    async def open(self) -> None:
        await self.broker.open()

    async def close(self) -> None:
        # The broker's end may close it while its application does.
        tails, self._tails = self._tails, {}
        for tail in tails.values():
            await tail.stop()
        await self.broker.close()
        # Whoever still waits for a result looks again, and hears from the broker that it is closed.
        for results in self._results.values():
            results.look_again()

    def when_ended(self, call: Callable[[str], object]) -> Callable[[], None]:
        """Call this in the event loop when the broker has `ended`, with the reason; what it returns takes it back."""
        self._heirs.append(call)
        return lambda: self._heirs.remove(call)

    def _broker_ended(self, reason: str) -> None:
        """Nobody may go on waiting for what can no longer come, and no tail ask for it again and again."""
        self.ended = reason
        for call in tuple(self._heirs):
            call(reason)
        self._ending = asyncio.create_task(self.close(), name="queuecast end")

    async def declare(self, queue: str) -> None:
        """As `Broker.declare`, once per queue: for queues that are made after the application was opened."""
        if queue not in self._declared:
            await self.broker.declare(queue, self._foreign(queue))
            self._declared.add(queue)

    async def tail(self, queue: str) -> Tail:
        """This process's one reader of the queue's log, started at the first call."""
        async with self._opening:
            if queue not in self._tails:
                await self.declare(queue)
                tail = Tail(self.broker, queue, TAIL_BACKLOG)
                await tail.start()
                self._tails[queue] = tail
            return self._tails[queue]

    async def wait_for_result(self, queue: str, id: str) -> Status | ResultEvent:
        """How the task ended, as soon as it has. Raises `ResultExpired` for an unknown task."""
        tail = await self.tail(queue)
        results = self._results.get(queue)
        if results is None:
            results = self._results[queue] = _Results()
            tail.listen(results)
        # Listening before looking: a result that comes in between is seen by one of the two.
        with results.waiting_for(id) as waiter:
            while True:
                status = await self.broker.status(queue, id)
                if status is None:
                    raise ResultExpired(f"no task {id} on {queue}: never submitted, or older than the log's retention")
                if status.state in FINAL_STATES:
                    return status
                result = await waiter.next()
                if result is not None:
                    return result


class _Waiter:
    """One caller waiting for one task."""

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[ResultEvent | None] = asyncio.get_running_loop().create_future()

    def tell(self, result: ResultEvent | None) -> None:
        if not self._future.done():
            self._future.set_result(result)

    async def next(self) -> ResultEvent | None:
        """The result; None where it may have gone by unseen and one has to look again."""
        result = await self._future
        self._future = asyncio.get_running_loop().create_future()
        return result


class _Head(Struct):
    type: str
    id: str


class _Results:
    """Listens to a queue's log for those who wait for results."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[_Waiter]] = {}
        self._head = msgspec.json.Decoder(_Head).decode

    @contextmanager
    def waiting_for(self, id: str) -> Iterator[_Waiter]:
        waiter = _Waiter()
        self._waiting.setdefault(id, []).append(waiter)
        try:
            yield waiter
        finally:
            self._waiting[id].remove(waiter)
            if not self._waiting[id]:
                del self._waiting[id]

    def entries(self, entries: list[Entry]) -> None:
        if not self._waiting:
            return
        for entry in entries:
            head = self._head(entry.body)
            if head.type == "result" and head.id in self._waiting:
                event = decode_event(entry.body)
                for waiter in self._waiting[head.id]:
                    waiter.tell(event if isinstance(event, ResultEvent) else None)

    def restarted(self, reason: str, at: Cursor) -> None:
        self.look_again()

    def look_again(self) -> None:
        """What was waited for may have gone by unseen."""
        for waiters in self._waiting.values():
            for waiter in waiters:
                waiter.tell(None)
