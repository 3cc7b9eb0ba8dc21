"""The fan-out: one window and everyone who follows it.

Live subscriptions move along in cohorts. A pass takes one cohort after the other to the window's end, as it is then:
the same joined bytes are written to each of its members, and then the event loop may do something else. Events that
come meanwhile go out together when a cohort's turn comes: batching without a timer, and no client waits longer than
one round. Who cannot take more leaves its cohort and catches up alone, piece by piece from the window, or from the
log (`Replay`) once the window has moved on.

A filtered subscription is found by its task or owner, so an event touches only those whom it concerns.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import Final, TypeAlias, TypeVar

from ..brokers.base import Broker, Entry
from ..cursor import Cursor
from .cohort import MAX_MEMBERS, Cohort
from .counters import Counters
from .frame import Frame
from .place import Place, parse_place
from .replay import Replay
from .subscription import Subscription
from .window import CHUNK_BYTES, Window

logger = logging.getLogger(__name__)

K = TypeVar("K")
T = TypeVar("T")

SLICE: Final = 256
"""Writes to filtered subscriptions before the event loop may do something else."""

_Filter: TypeAlias = tuple[str | None, str | None]
"""Whose events are shown: those of a task, of an owner, or of a task if it is the owner's."""


class Fanout:
    """Fed through `entries` and `restarted`, by the tail of each of its queues."""

    def __init__(
        self,
        window: Window,
        broker: Broker,
        counters: Counters,
        gate: asyncio.Semaphore,
        on_leave: Callable[[Subscription, str], None],
    ) -> None:
        self.window = window
        self.broker = broker
        self.counters = counters
        self.gate = gate
        """How many read old pages of logs at once."""
        self.closed = False
        """Nothing feeds it any more."""
        self._on_leave = on_leave
        self._loop = asyncio.get_running_loop()
        self._dispatched = window.end
        """How far the filtered ones have been served."""
        self._cohorts: deque[Cohort] = deque()
        """In the order of their turns. The first is at the window's end only if all are."""
        self._filtered: dict[_Filter, set[Subscription]] = {}
        self._passing = False
        self._waiting: list[tuple[Place, asyncio.Future[None]]] = []
        self._awaited: dict[str, set[tuple[str | None, asyncio.Future[None]]]] = {}
        """By task: those who wait for its first event, and whose it has to be (None: anybody's)."""

    def __repr__(self) -> str:
        return f"<Fanout {self.window} to {sum(len(cohort.subs) for cohort in self._cohorts)} and filtered>"

    # What comes from the log

    def entries(self, queue: str, entries: list[Entry]) -> None:
        self.window.extend(queue, entries)
        self._moved()

    def restarted(self, queue: str, reason: str, at: Cursor) -> None:
        self.window.restart(queue, reason, at)
        self._moved()
        self._release_waiting()

    def _moved(self) -> None:
        self._trim()
        self._tell_waiting()
        if not self._passing:
            # At once: an event that finds nobody busy waits for no turn of the loop.
            self._pass()

    def _trim(self) -> None:
        surplus = self.window.surplus()
        if surplus:
            # A log that grows faster than it is passed on waits here, so that nobody live falls behind the window.
            while self._is_behind():
                self._advance()
            self.window.drop(surplus)

    # The pass

    def _pass(self) -> None:
        """One slice of it; the next when the event loop has come round."""
        self._advance()
        self._passing = self._is_behind()
        if self._passing:
            self._loop.call_soon(self._pass)

    def _is_behind(self) -> bool:
        end = self.window.end
        return self._dispatched < end or (bool(self._cohorts) and self._cohorts[0].index < end)

    def _advance(self) -> None:
        try:
            self._dispatch()
            self._broadcast()
        except Exception:
            logger.exception("the streams of %s cannot be written to; they are cut", ", ".join(self.window.queues))
            self._cut_all()

    def _cut_all(self) -> None:
        """Where some may have missed what others got: they come back with the cursors of what they have."""
        for sub in chain(*(tuple(cohort.subs) for cohort in self._cohorts), self._all_filtered()):
            sub.abort("failed")
        self._cohorts.clear()
        self._dispatched = self.window.end

    def _broadcast(self) -> None:
        """Take cohorts to the window's end: a full one, or some small ones, which then become one."""
        end = self.window.end
        written = 0
        while self._cohorts and self._cohorts[0].index < end and written < MAX_MEMBERS:
            cohort = self._cohorts[0]
            start = cohort.index
            chunk, stop = self.window.chunk(start, end)
            written += len(cohort.subs)
            cohort.write(chunk, stop, self._loop.time())
            if stop < end:
                # A chunk at a time, so that transports can say that it is too much.
                return
            self._cohorts.popleft()
            self._line_up(cohort)

    def _line_up(self, cohort: Cohort) -> None:
        """Its turn comes last."""
        if self._cohorts and self._cohorts[-1].has_room_for(cohort):
            self._cohorts[-1].take(cohort)
        elif cohort.subs:
            self._cohorts.append(cohort)

    def _dispatch(self) -> None:
        """Each frame to those whom it concerns."""
        end = self.window.end
        if self._filtered or self._awaited:
            end = self._dispatch_some(self.window.frames(self._dispatched, end))
        self._dispatched = end

    def _dispatch_some(self, frames: list[Frame]) -> int:
        now = self._loop.time()
        count = 0
        index = self._dispatched
        for frame in frames:
            index += 1
            for sub in self._concerned(frame):
                if sub.live and sub.index < index:
                    sub.index = index
                    sub.wrote_at = now
                    sub.write(frame.data)
                    count += 1
                    if frame.final and sub.task is not None:
                        sub.close("finished")
            if count >= SLICE:
                break
        return index

    def _concerned(self, frame: Frame) -> tuple[Subscription, ...]:
        """A copy, because who has got its task's result leaves at once."""
        task, owner = frame.task, frame.owner
        if task is None:
            return self._all_filtered()
        if self._awaited:
            self._tell_awaiting(task, owner)
        found = tuple(self._filtered.get((task, None), ()))
        if owner is not None:
            found += (*self._filtered.get((task, owner), ()), *self._filtered.get((None, owner), ()))
        return found

    def _all_filtered(self) -> tuple[Subscription, ...]:
        return tuple(chain.from_iterable(self._filtered.values()))

    # One subscription's way

    def join(self, sub: Subscription, place: Place, cursor: str) -> None:
        """Go on from this place, which has been verified: from the window if it is there, else from the log."""
        sub.cursor = cursor
        index = self.window.find(place)
        if index is None:
            self._replay(sub, place, verified=True)
        else:
            self.go_on(sub, index)

    def go_on(self, sub: Subscription, index: int) -> None:
        """From this index of the window."""
        sub.replay = None
        sub.index = index
        sub.cursor = self.window.cursor(index)
        self._step(sub)

    def pause(self, sub: Subscription) -> None:
        if sub.live:
            self._fall_behind(sub)

    def resume(self, sub: Subscription) -> None:
        if sub.replay is not None:
            sub.replay.wake()
        else:
            self._step(sub)

    def leave(self, sub: Subscription, reason: str) -> None:
        if sub.replay is not None:
            sub.replay.stop()
        if sub.live:
            self._fall_behind(sub)
        _remove(self._filtered, (sub.task, sub.owner), sub)
        self._on_leave(sub, reason)

    def cursor_of(self, sub: Subscription) -> str:
        """The SSE id of what has been written to it. For a filtered one: of all that did not concern it, too."""
        return self.window.cursor(self._index_of(sub)) if sub.live else sub.cursor

    def _index_of(self, sub: Subscription) -> int:
        """Of a live one."""
        return sub.cohort.index if sub.cohort is not None else max(sub.index, self._dispatched)

    def _fall_behind(self, sub: Subscription) -> None:
        sub.index = self._index_of(sub)
        sub.cursor = self.window.cursor(sub.index)
        sub.live = False
        if sub.cohort is not None:
            del sub.cohort.subs[sub]
            sub.cohort = None

    def _step(self, sub: Subscription) -> None:
        """One piece of what it missed; the next when the event loop has come round."""
        if sub.closed or sub.live or not sub.ready or sub.replay is not None:
            return
        if sub.index < self.window.base:
            self._replay(sub, parse_place(sub.cursor, self.window.queues), verified=False)
            return
        if sub.index < self.window.end:
            self._write_piece(sub)
        if sub.index == self.window.end:
            self._enlist(sub)
        else:
            self._loop.call_soon(self._step, sub)

    def _write_piece(self, sub: Subscription) -> None:
        start = sub.index
        final = False
        if sub.filtered:
            piece, final = self._pick(sub)
        else:
            piece, sub.index = self.window.chunk(start, self.window.end)
        sub.cursor = self.window.cursor(sub.index)
        if piece:
            sub.wrote_at = self._loop.time()
            sub.write(piece)
        if final:
            sub.close("finished")

    def _pick(self, sub: Subscription) -> tuple[bytes, bool]:
        """What of the window concerns it, about one chunk; and whether that ends with its task's result."""
        pieces = []
        size = 0
        final = False
        for frame in self.window.frames(sub.index, self.window.end):
            sub.index += 1
            if frame.concerns(sub.task, sub.owner):
                pieces.append(frame.data)
                size += len(frame.data)
                final = frame.final and sub.task is not None
            if final or size >= CHUNK_BYTES:
                break
        return b"".join(pieces), final

    def _enlist(self, sub: Subscription) -> None:
        """It has everything: from here on it is live."""
        if sub.closed or not sub.ready:
            return
        sub.live = True
        if sub.filtered:
            self._filtered.setdefault((sub.task, sub.owner), set()).add(sub)
        else:
            cohort = Cohort(sub.index, sub.wrote_at)
            cohort.add(sub)
            self._line_up(cohort)

    def _replay(self, sub: Subscription, place: Place, verified: bool) -> None:
        self.counters.replays += 1
        sub.replay = Replay(self, sub, place, verified)

    # Waiting for the log

    async def reached(self, place: Place) -> None:
        """Until the window has come as far as this place. Returns early when a log was restarted: look again."""
        if not self._has_reached(place):
            future = self._loop.create_future()
            self._waiting.append((place, future))
            await future

    def _has_reached(self, place: Place) -> bool:
        at = self.window.at
        return all(at[queue].identity == to.identity and at[queue].offset >= to.offset for queue, to in place.items())

    def _tell_waiting(self) -> None:
        if self._waiting:
            self._release_waiting(self._has_reached)

    def _release_waiting(self, whom: Callable[[Place], bool] = lambda _: True) -> None:
        waiting, self._waiting = self._waiting, []
        for place, future in waiting:
            if future.done():
                continue
            if whom(place):
                future.set_result(None)
            else:
                self._waiting.append((place, future))

    async def appearance(self, task: str, owner: str | None = None) -> None:
        """Until an event of the task comes; with `owner`, of a task of theirs: no other may be told from none."""
        awaiting = owner, self._loop.create_future()
        self._awaited.setdefault(task, set()).add(awaiting)
        try:
            await awaiting[1]
        finally:
            _remove(self._awaited, task, awaiting)

    def _tell_awaiting(self, task: str, owner: str | None) -> None:
        for whose, future in self._awaited.get(task, ()):
            if whose in {None, owner} and not future.done():
                future.set_result(None)


def _remove(table: dict[K, set[T]], key: K, item: T) -> None:
    if key in table:
        table[key].discard(item)
        if not table[key]:
            del table[key]
