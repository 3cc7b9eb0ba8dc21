"""The context of a run: where a handler's progress and outputs become events."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Awaitable
from typing import Any, Final

from ..brokers import Delivery
from ..context import Context
from ..errors import TaskCancelled
from ..event import Event, Progress
from .outcome import printable, sendable
from .trail import Trail

PROGRESS_INTERVAL: Final = 0.05
"""Seconds between two progress events of a run. What is reported in between is replaced by what comes after it."""

MAX_NOTE_CHARS: Final = 500
"""Characters of a progress note; the rest is cut."""

MAX_UNCONFIRMED: Final = 100
"""Events of a run on their way to the log. A handler that yields more waits until one of them is durable."""

REWRITE_SECONDS: Final = 1.0
"""Seconds before what the log did not take is handed to it again."""


class RunContext(Context):
    """Lives in the worker's event loop; `progress` and `output_from_thread` may be called from a handler's thread."""

    def __init__(self, delivery: Delivery, trail: Trail, state: Any) -> None:
        self.id = delivery.task.id
        self.attempt = delivery.attempt
        self.state = state
        self._delivery = delivery
        self._trail = trail
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._stopped = False
        self._closed = False
        self._latest: Progress | None = None
        self._asked = False
        self._timer: asyncio.TimerHandle | None = None
        self._on_their_way: deque[tuple[asyncio.Future[object], tuple[Event, ...]]] = deque()
        self._kept: list[Event] = []
        self._unconfirmed = 0
        self._rewrite: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None
        self._last_words: list[Event] = []

    @property
    def cancelled(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """Tell the handler, when it asks."""
        self._stopped = True
        self._make_room()

    def progress(self, current: float, total: float | None = None, note: str = "") -> None:
        progress = reported(current, total, note)
        if threading.get_ident() == self._thread:
            self._latest = progress
            self._tell()
            return
        self._check()
        # In this order: whoever writes the latest in the loop looks at it after it has changed the other two.
        self._latest = progress
        if self._timer is None and not self._asked:
            self._asked = True
            self._loop.call_soon_threadsafe(self._tell)

    async def output(self, value: Any) -> None:
        """One yielded value. Raises `Unsendable` for one that no event can carry."""
        body = sendable(value, "output")
        self.write(*self._last_progress(), self._trail.output(body))
        while self._is_full() and not self._stopped:
            self._room = self._loop.create_future()
            await self._room

    def output_from_thread(self, value: Any) -> None:
        """`output` for a generator in a thread; raises `TaskCancelled` when the run should stop."""
        self._check()
        asyncio.run_coroutine_threadsafe(self.output(value), self._loop).result()

    async def begin(self, event: Event) -> None:
        """Hand the run's first event to the log; when this returns the handler may start."""
        self._unconfirmed += 1
        self._watch(await self._delivery.begin(event), (event,))

    def write(self, *events: Event) -> None:
        """Hand events of this run to the log; they are durable before its delivery is settled."""
        self._unconfirmed += len(events)
        if self._kept:
            # Nothing overtakes what was not taken: the fold would refuse it for the gap.
            self._kept.extend(events)
            return
        self._watch(self._delivery.append(*events), events)

    def close(self) -> None:
        """The run has ended. What a left-behind thread still reports is dropped."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._rewrite is not None:
            self._rewrite.cancel()
        self._last_words = self._last_progress()

    def unwritten(self) -> list[Event]:
        """After the end: what the log did not take, and the progress reported last. To go before the result."""
        self._look_what_is_durable()
        return [*self._kept, *self._last_words]

    def _check(self) -> None:
        if self._stopped:
            raise TaskCancelled("this run was asked to stop")

    # Progress: the latest wins, and the last one is always written

    def _tell(self) -> None:
        self._asked = False
        if self._timer is None:
            self._write_latest()

    def _write_latest(self) -> None:
        """Write the newest progress, and look again after the interval; stop looking when nothing new came."""
        self._timer = None
        if self._latest is None or self._closed:
            return
        if not self._is_full():
            self.write(*self._last_progress())
        self._timer = self._loop.call_later(PROGRESS_INTERVAL, self._write_latest)

    def _last_progress(self) -> list[Event]:
        latest, self._latest = self._latest, None
        return [] if latest is None else [self._trail.task("running", progress=latest)]

    # What is on its way

    def _is_full(self) -> bool:
        return self._unconfirmed >= MAX_UNCONFIRMED

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _watch(self, appended: Awaitable[object], events: tuple[Event, ...]) -> None:
        taken = asyncio.ensure_future(appended)
        self._on_their_way.append((taken, events))
        taken.add_done_callback(self._taken)

    def _taken(self, taken: asyncio.Future[object]) -> None:
        if not taken.cancelled():
            taken.exception()  # looked at, so that nobody calls it unseen
        self._look_what_is_durable()

    def _look_what_is_durable(self) -> None:
        """Forget what is. From the first failure on keep everything, also what the log took after it."""
        while self._on_their_way and self._on_their_way[0][0].done():
            if _failed(self._on_their_way[0][0]):
                self._kept = [event for _, events in self._on_their_way for event in events]
                self._on_their_way.clear()
                if not self._closed:
                    self._rewrite = self._loop.call_later(REWRITE_SECONDS, self._write_again)
                return
            self._unconfirmed -= len(self._on_their_way.popleft()[1])
        self._make_room()

    def _write_again(self) -> None:
        kept, self._kept = self._kept, []
        self._unconfirmed -= len(kept)
        self.write(*kept)


def _failed(taken: asyncio.Future[object]) -> bool:
    return taken.cancelled() or taken.exception() is not None


def reported(current: float, total: float | None, note: str) -> Progress:
    """Raises `TypeError` or `ValueError` for what is no progress: no reader could decode the event."""
    return Progress(_number(current), None if total is None else _number(total), printable(note, MAX_NOTE_CHARS))


def _number(value: float) -> float:
    """A whole number stays one; numbers of other libraries become a float."""
    number = value if type(value) is int else float(value)
    if not math.isfinite(number):
        raise ValueError(f"progress is counted in finite numbers, not {value}")
    return number
