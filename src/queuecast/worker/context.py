"""The context of a run: where a handler's progress and outputs become events."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Final

from ..brokers import Delivery
from ..context import Context
from ..errors import TaskCancelled
from ..event import Event, Progress
from .outcome import sendable
from .trail import Trail

PROGRESS_INTERVAL: Final = 0.05
"""Seconds between two progress events of a run. What is reported in between is replaced by what comes after it."""

MAX_UNCONFIRMED: Final = 100
"""Outputs of a run on their way to the log. A handler that yields more waits until one of them is durable."""


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
        self._cancelled = False
        self._closed = False
        self._latest: Progress | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unconfirmed = 0
        self._room = asyncio.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def stop(self) -> None:
        """Tell the handler, when it asks."""
        self._cancelled = True
        self._room.set()

    def progress(self, current: float, total: float | None = None, note: str = "") -> None:
        progress = Progress(current, total, note)
        if threading.get_ident() == self._thread:
            self._report(progress)
            return
        self._check()
        self._loop.call_soon_threadsafe(self._report, progress)

    async def output(self, value: Any) -> None:
        """One yielded value. Raises `Unsendable` for one that no event can carry."""
        body = sendable(value, "output")
        self.write(*self.last_words(), self._trail.output(body))
        while self._unconfirmed >= MAX_UNCONFIRMED and not self._cancelled:
            self._room.clear()
            await self._room.wait()

    def output_from_thread(self, value: Any) -> None:
        """`output` for a generator in a thread; raises `TaskCancelled` when the run should stop."""
        self._check()
        asyncio.run_coroutine_threadsafe(self.output(value), self._loop).result()

    def write(self, *events: Event) -> None:
        """Hand events of this run to the log; they are durable before its delivery is settled."""
        self._unconfirmed += 1
        asyncio.ensure_future(self._delivery.append(*events)).add_done_callback(self._confirmed)

    def close(self) -> list[Event]:
        """The run has ended: its last words. What a left-behind thread still reports is dropped."""
        self._closed = True
        return self.last_words()

    def last_words(self) -> list[Event]:
        """The progress that was reported and not written yet, to go before what comes next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._latest is None:
            return []
        latest, self._latest = self._latest, None
        return [self._trail.task("running", progress=latest)]

    def _check(self) -> None:
        if self._cancelled:
            raise TaskCancelled("this run was asked to stop")

    def _report(self, progress: Progress) -> None:
        if self._closed:
            return
        self._latest = progress
        if self._timer is None:
            self._write_latest()

    def _write_latest(self) -> None:
        """Write the newest progress, and look again after the interval; stop looking when nothing new came."""
        self._timer = None
        words = self.last_words()
        if words:
            self.write(*words)
            self._timer = self._loop.call_later(PROGRESS_INTERVAL, self._write_latest)

    def _confirmed(self, durable: asyncio.Future[None]) -> None:
        # A failure is not lost here: settling the delivery needs the same log and meets it again.
        if not durable.cancelled():
            durable.exception()
        self._unconfirmed -= 1
        self._room.set()
