"""The hub: every stream of this process, fed from one tail per queue."""

from __future__ import annotations

import asyncio
import math
import random
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, TypeAlias

from .. import sse
from ..brokers.base import Broker, Status
from ..cursor import Cursor, beginning
from ..errors import BrokerUnavailable
from ..tail import Tail
from .counters import Counters
from .fanout import Fanout
from .frame import reset_frame
from .start import Start, start_of_queues, start_of_task
from .subscription import Sink, Subscription
from .wheel import Wheel
from .window import Window

MAX_STREAMS: Final = 20_000
"""Streams of one process, or as many as it may have files open. One more is told to come back later, and closed."""

OTHER_FILES: Final = 200
"""Descriptors left for all that is no stream: requests, the broker, the program's own. Without one a connection is cut
as soon as it is accepted, and nobody is told why."""

MAX_SETS: Final = 100
"""Sets of several queues that are followed at once, each with a window of its own. One more is refused likewise."""

READERS: Final = 8
"""Streams that read old pages of logs at once. Others wait for their turn."""

FILL_SECONDS: Final = 10.0
"""Seconds in which a window has to be filled with its queue's backlog. Else the stream is refused for now."""

UNKNOWN_TASK_SECONDS: Final = 5.0
"""Seconds in which an unknown task may appear. Then it is said to be unknown."""

RETRY_MS: Final = (1_000, 3_000)
"""Milliseconds after which a client reconnects that lost its stream, drawn for each one so that they spread."""

DRAIN_RETRY_MS: Final = (100, 2_000)
"""The same for a client that is sent away by a drain: another server, or the next one here, awaits it."""


_Key: TypeAlias = tuple[tuple[str, ...], bool]
"""Names of queues, and whether the frames are named."""


class Hub:
    """`tail` gives this process's reader of a queue's log, started."""

    def __init__(
        self,
        broker: Broker,
        tail: Callable[[str], Awaitable[Tail]],
        *,
        max_streams: int | None = None,
    ) -> None:
        self.counters = Counters()
        self.draining = False
        self._broker = broker
        self._tail = tail
        self._max_streams = most_streams() if max_streams is None else max_streams
        self._gate = asyncio.Semaphore(READERS)
        self._wheel = Wheel()
        self._subs: set[Subscription] = set()
        self._followed: dict[_Key, _Followed] = {}
        self._opening = asyncio.Lock()
        self._limits: set[asyncio.Timeout] = set()
        self._patience_ends = math.inf

    def __repr__(self) -> str:
        return f"<Hub of {len(self._subs)} streams{', draining' if self.draining else ''}>"

    @property
    def streams(self) -> int:
        return len(self._subs)

    @property
    def full(self) -> bool:
        return len(self._subs) >= self._max_streams

    # Opening a stream

    async def fanout(self, queues: Sequence[str], named: bool = False) -> Fanout | None:
        """Where these queues are followed together; None when too many sets are. Raises `BrokerError`.

        Begun at the first call: call it when a server starts, so that its clients find what they missed in memory.
        """
        key = tuple(sorted(set(queues))), named
        followed = self._followed.get(key)
        if followed is None:
            async with self._opening:
                followed = self._followed.get(key) or await self._follow(key)
        return followed.fanout if followed is not None else None

    async def _follow(self, key: _Key) -> _Followed | None:
        self._let_go_of_unused()
        if _is_several(key) and sum(map(_is_several, self._followed)) >= MAX_SETS:
            return None
        queues, named = key
        tails = [await self._tail(queue) for queue in queues]
        window = Window({tail.queue: tail.at for tail in tails}, named)
        fanout = Fanout(window, self._broker, self.counters, self._gate, self._left)
        followed = _Followed(fanout, [tail.listen(_Feed(fanout, tail.queue)) for tail in tails])
        try:
            await self._fill(fanout)
        except BaseException:
            followed.stop()
            raise
        self._followed[key] = followed
        return followed

    async def _fill(self, fanout: Fanout) -> None:
        """A tail begins with a backlog: what was in the log before has to be in the window before anybody joins."""
        queues = fanout.window.queues
        try:
            async with asyncio.timeout(FILL_SECONDS):
                await fanout.reached({queue: await self._end(queue) for queue in queues})
        except TimeoutError as error:
            raise BrokerUnavailable(f"nothing can be read from the log of {', '.join(queues)}") from error

    async def _end(self, queue: str) -> Cursor:
        bounds = await self._broker.bounds(queue)
        return beginning(bounds.identity, bounds.last)

    def _let_go_of_unused(self) -> None:
        """Of a single queue the window stays, for clients that come back."""
        used = {sub.fanout for sub in self._subs}
        for key, followed in list(self._followed.items()):
            if (_is_several(key) or key[1]) and followed.fanout not in used:
                followed.stop()
                del self._followed[key]

    async def begin(self, fanout: Fanout, asked: str, *, task: str | None = None, owner: str | None = None) -> Start:
        """Where a stream of this fan-out starts that asks for this cursor (or `first`, `last`, or nothing).

        A task that is not the owner's is unknown. Raises `BrokerError`.
        """
        if task is None:
            return await start_of_queues(fanout, asked)
        origin = dict(fanout.window.at)
        return await start_of_task(fanout, await self._status(fanout, task, owner), origin, asked)

    async def appears(self, fanout: Fanout, task: str, owner: str | None = None) -> bool:
        """Whether the task is known, now or in a few seconds: who was told its id may be faster than the log."""
        with suppress(TimeoutError):
            async with asyncio.timeout(UNKNOWN_TASK_SECONDS):
                await fanout.appearance(task, owner)
        return await self._status(fanout, task, owner) is not None

    async def _status(self, fanout: Fanout, task: str, owner: str | None) -> Status | None:
        [queue] = fanout.window.queues
        status = await self._broker.status(queue, task)
        return status if status is None or owner in {None, status.owner} else None

    def open(
        self, fanout: Fanout, start: Start, sink: Sink, *, task: str | None = None, owner: str | None = None
    ) -> Subscription:
        """Write the stream's beginning to the sink, and everything after its start as it comes."""
        now = asyncio.get_running_loop().time()
        sub = Subscription(fanout, sink, task, owner, now)
        self._subs.add(sub)
        self._wheel.add(sub)
        for queue in fanout.window.queues:
            self.counters.streams_open[queue] += 1
        sink.write(_opening(start))
        sub.told = start.id
        if start.resumed:
            self.counters.stream_resumes[_how(start, fanout)] += 1
        fanout.join(sub, start.place, start.id)
        if fanout.closed:
            sub.close("shutdown")
        elif self.draining:
            # It came before, and took its time: those who were sent away did not include it.
            sub.send_away("drain", random.randint(*DRAIN_RETRY_MS))
        return sub

    def _left(self, sub: Subscription, reason: str) -> None:
        self._subs.discard(sub)
        self._wheel.remove(sub)
        self.counters.streams_closed[reason] += 1
        for queue in sub.fanout.window.queues:
            self.counters.streams_open[queue] -= 1

    # Ending

    @asynccontextmanager
    async def patience(self, seconds: float) -> AsyncIterator[None]:
        """As `asyncio.timeout`, for a request that is held. A drain shortens it to half of its own time, so that the
        request is answered before its server gives it up."""
        until = asyncio.get_running_loop().time() + seconds
        async with asyncio.timeout_at(min(until, self._patience_ends)) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)

    def _lose_patience(self, seconds: float) -> None:
        self._patience_ends = asyncio.get_running_loop().time() + seconds
        for limit in self._limits:
            until = limit.when()
            if until is not None and until > self._patience_ends:
                limit.reschedule(self._patience_ends)

    async def drain(self, seconds: float) -> None:
        """Send all streams away, evenly over so many seconds, in random order. New ones are refused meanwhile."""
        self.draining = True
        self._lose_patience(seconds / 2)
        leaving = list(self._subs)
        random.shuffle(leaving)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for number, sub in enumerate(leaving):
            wait = begin + seconds * (number + random.random()) / len(leaving) - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            sub.send_away("drain", random.randint(*DRAIN_RETRY_MS))

    async def stop(self) -> None:
        """End all streams now and let go of the logs."""
        self.draining = True
        for sub in tuple(self._subs):
            sub.close("shutdown")
        for followed in self._followed.values():
            followed.stop()
        self._followed.clear()
        self._wheel.stop()


def most_streams() -> int:
    """As many as this process may have files open, but for the others."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_STREAMS if soft == resource.RLIM_INFINITY else min(MAX_STREAMS, max(1, soft - OTHER_FILES))


class _Followed:
    """A fan-out, and how to end its feeding."""

    __slots__ = ("_stops", "fanout")

    def __init__(self, fanout: Fanout, stops: list[Callable[[], None]]) -> None:
        self.fanout = fanout
        self._stops = stops

    def stop(self) -> None:
        self.fanout.closed = True
        for stop in self._stops:
            stop()


def _is_several(key: _Key) -> bool:
    return len(key[0]) > 1


class _Feed:
    """Brings one queue's log to a fan-out."""

    def __init__(self, fanout: Fanout, queue: str) -> None:
        self.entries = partial(fanout.entries, queue)
        self.restarted = partial(fanout.restarted, queue)


def _opening(start: Start) -> bytes:
    """All that a client needs to come back exactly, before the first event: when, and with which cursor."""
    opening = sse.retry(random.randint(*RETRY_MS)) + sse.KEEPALIVE
    if start.reset:
        return opening + reset_frame(start.reset, start.asked, start.id)
    return opening + sse.id_block(start.id) if start.id else opening


def _how(start: Start, fanout: Fanout) -> str:
    if start.reset:
        return "reset"
    return "live" if start.place == fanout.window.at else "replayed"
