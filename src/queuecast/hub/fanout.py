"""The fan-out: one window and everyone who follows it.

All live subscriptions stand on one line, an index of the window. A pass takes the line to the window's end: it
writes the same joined bytes to each of them, in slices that let the event loop breathe. Events that come meanwhile
pile up in the window and go out together in the next pass: batching without a timer. Who cannot take more leaves the
line and catches up alone, piece by piece from the window, or from the log (`Replay`) once the window has moved on.

A filtered subscription is found by its task or owner, so an event touches only those whom it concerns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain, islice
from typing import Final

from ..brokers.base import Broker, Entry
from ..cursor import Cursor
from .counters import Counters
from .frame import Frame
from .place import Place, parse_place
from .replay import Replay
from .subscription import Subscription
from .window import CHUNK_BYTES, Window

logger = logging.getLogger(__name__)

SLICE: Final = 256
"""Writes before a pass lets the event loop do something else."""


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
        self._line = window.end
        """Where the live ones are, or will be when the running pass has come by."""
        self._dispatched = window.end
        """How far filtered ones have been served."""
        self._everything: set[Subscription] = set()
        self._by_task: dict[str, set[Subscription]] = {}
        self._by_owner: dict[str, set[Subscription]] = {}
        self._early: list[Subscription] = []
        """Those ahead of the line; they join it when a pass has brought it to them."""
        self._pass: Iterator[None] | None = None
        self._waiting: list[tuple[Place, asyncio.Future[None]]] = []
        self._awaited: dict[str, asyncio.Event] = {}

    def __repr__(self) -> str:
        return f"<Fanout {self.window} line {self._line} with {len(self._everything)} live>"

    # What comes from the log

    def entries(self, queue: str, entries: list[Entry]) -> None:
        self.window.extend(queue, entries)
        self.counters.events_tailed += len(entries)
        self._moved()

    def restarted(self, queue: str, reason: str, at: Cursor) -> None:
        self.window.restart(queue, reason, at)
        self._moved()
        self._release_waiting()

    def _moved(self) -> None:
        self._trim()
        self._tell_waiting()
        if self._pass is None:
            self._pass = self._run()
            self._loop.call_soon(self._slice)

    def _trim(self) -> None:
        surplus = self.window.surplus()
        if not surplus:
            return
        if self.window.base + surplus > self._dispatched:
            # The log grows faster than it is passed on: the tail waits for the pass, so nobody loses the line.
            self._finish_pass()
        self.window.drop(surplus)

    # The pass

    def _slice(self) -> None:
        if self._pass is None:
            return
        try:
            next(self._pass)
        except StopIteration:
            self._pass = None
        except Exception:
            logger.exception("a pass over the streams of %s failed; they are cut", ", ".join(self.window.queues))
            self._pass = None
            self._cut_all()
        else:
            self._loop.call_soon(self._slice)

    def _cut_all(self) -> None:
        """Where some may have missed what others got: they come back with the cursors of what they have."""
        for sub in (*self._everything, *self._filtered()):
            sub.abort("failed")
        self._line = self._dispatched = self.window.end

    def _finish_pass(self) -> None:
        for _ in self._pass or self._run():
            pass
        self._pass = None

    def _run(self) -> Generator[None, None, None]:
        while self._line < self.window.end:
            start = self._line
            chunk, self._line = self.window.chunk(start, self.window.end)
            frames = self.window.frames(start, self._line)
            yield from self._broadcast(chunk, start)
            yield from self._dispatch(frames, start)
            self._dispatched = self._line
            self._welcome_early()
            yield

    def _broadcast(self, chunk: bytes, start: int) -> Generator[None, None, None]:
        """One write of the same bytes to each live one."""
        stop = self._line
        everyone = iter(tuple(self._everything))
        while part := tuple(islice(everyone, SLICE)):
            now = self._loop.time()
            count = 0
            for sub in part:
                # One that has left, or has joined meanwhile, stands elsewhere.
                if sub.index == start and sub.live:
                    sub.index = stop
                    sub.wrote_at = now
                    sub.write(chunk)
                    count += 1
            self.counters.deliveries += count * (stop - start)
            yield

    def _dispatch(self, frames: list[Frame], start: int) -> Generator[None, None, None]:
        """Each frame to those whom it concerns."""
        if not self._by_task and not self._by_owner and not self._awaited:
            return
        count = 0
        now = self._loop.time()
        for index, frame in enumerate(frames, start):
            for sub in self._concerned(frame):
                if sub.live and sub.index <= index:
                    sub.index = index + 1
                    sub.wrote_at = now
                    sub.write(frame.data)
                    count += 1
                    if frame.final and sub.task is not None:
                        sub.close("finished")
            if count >= SLICE:
                self.counters.deliveries += count
                self._dispatched = index + 1
                yield
                count = 0
                now = self._loop.time()
        self.counters.deliveries += count

    def _concerned(self, frame: Frame) -> Iterable[Subscription]:
        if frame.task is None:
            return self._filtered()
        if self._awaited and frame.task in self._awaited:
            self._awaited.pop(frame.task).set()
        found = [sub for sub in self._by_task.get(frame.task, ()) if sub.owner is None or sub.owner == frame.owner]
        if frame.owner is not None and self._by_owner:
            found += self._by_owner.get(frame.owner, ())
        return found

    def _filtered(self) -> tuple[Subscription, ...]:
        return tuple(chain.from_iterable(chain(self._by_task.values(), self._by_owner.values())))

    def _welcome_early(self) -> None:
        early, self._early = self._early, []
        for sub in early:
            self._step(sub)

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
            if sub.filtered:
                sub.index = max(sub.index, self._dispatched)
            sub.live = False
            sub.cursor = self.window.cursor(sub.index)
            self._everything.discard(sub)

    def resume(self, sub: Subscription) -> None:
        if sub.replay is not None:
            sub.replay.wake()
        else:
            self._step(sub)

    def leave(self, sub: Subscription, reason: str) -> None:
        if sub.replay is not None:
            sub.replay.stop()
        if sub.live:
            sub.cursor = self.cursor_of(sub)
        sub.live = False
        self._everything.discard(sub)
        _remove(self._by_task, sub.task, sub)
        _remove(self._by_owner, sub.owner, sub)
        self._on_leave(sub, reason)

    def cursor_of(self, sub: Subscription) -> str:
        """The SSE id of what has been written to it. For a filtered one: of all that did not concern it, too."""
        if not sub.live:
            return sub.cursor
        return self.window.cursor(max(sub.index, self._dispatched) if sub.filtered else sub.index)

    def _step(self, sub: Subscription) -> None:
        """One piece of what it missed; the next when the event loop has come round."""
        if sub.closed or sub.live or not sub.ready or sub.replay is not None:
            return
        if sub.index < self.window.base:
            self._replay(sub, parse_place(sub.cursor, self.window.queues), verified=False)
            return
        if sub.index < self._line:
            self._write_piece(sub)
        if sub.index == self._line:
            self._enlist(sub)
        elif sub.index > self._line:
            self._early.append(sub)
        else:
            self._loop.call_soon(self._step, sub)

    def _write_piece(self, sub: Subscription) -> None:
        before = sub.index
        if sub.filtered:
            piece, final = self._pick(sub)
        else:
            piece, sub.index = self.window.chunk(before, self._line)
            final = False
        sub.cursor = self.window.cursor(sub.index)
        if piece:
            sub.wrote_at = self._loop.time()
            sub.write(piece)
            self.counters.deliveries += sub.index - before
        if final:
            sub.close("finished")

    def _pick(self, sub: Subscription) -> tuple[bytes, bool]:
        """What of the window concerns it, about one chunk; whether that ends with its task's result."""
        pieces = []
        size = 0
        for frame in self.window.frames(sub.index, self._line):
            sub.index += 1
            if frame.concerns(sub.task, sub.owner):
                pieces.append(frame.data)
                size += len(frame.data)
                if frame.final and sub.task is not None:
                    return b"".join(pieces), True
            if size >= CHUNK_BYTES:
                break
        return b"".join(pieces), False

    def _enlist(self, sub: Subscription) -> None:
        if sub.closed or not sub.ready:
            return
        sub.live = True
        if sub.task is not None:
            self._by_task.setdefault(sub.task, set()).add(sub)
        elif sub.owner is not None:
            self._by_owner.setdefault(sub.owner, set()).add(sub)
        else:
            self._everything.add(sub)

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

    async def appearance(self, task: str) -> None:
        """Until an event of the task comes."""
        await self._awaited.setdefault(task, asyncio.Event()).wait()


def _remove(table: dict[str, set[Subscription]], key: str | None, sub: Subscription) -> None:
    if key is not None and key in table:
        table[key].discard(sub)
        if not table[key]:
            del table[key]
