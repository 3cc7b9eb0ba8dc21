"""Where the event loop leaves operations for the writer's thread, and sees to it that none waits for ever."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Final

from ...errors import BrokerUnavailable, OutcomeUnknown
from .operations import Operation

WATCH_SECONDS: Final = 1.0
"""How often the operations that wait are looked at, while there are any."""

STUCK: Final = "another process has the database and does not let go of it; it may be stopped"


class Desk:
    """Deques and flags only, each touched by one step, so that two threads need no lock. `ring` wakes the thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self.closing = threading.Event()
        """Nothing more will come."""
        self.greeted = False
        """A process has joined."""
        self._loop = loop
        self._ring = ring
        self._watch: asyncio.TimerHandle | None = None
        self._waiting: deque[Operation] = deque()
        self._looks: deque[int] = deque()
        self._asleep = False
        self._begun: list[Operation] = []
        self._begun_at = inf

    # In the event loop

    def hand(self, operation: Operation) -> asyncio.Future[Any]:
        """The order of the calls is the order in which it happens. The future has the result."""
        operation.future = future = self._loop.create_future()
        operation.born = time.monotonic()
        self._waiting.append(operation)
        self._wake()
        if self._watch is None:
            self._watch = self._loop.call_later(WATCH_SECONDS, self._look_after)
        return future

    def look(self, queues: Iterable[int]) -> None:
        """A task in these queues may be due now."""
        self._looks.extend(queues)
        self._wake()

    def greet(self) -> None:
        self.greeted = True
        self._wake()

    def close(self) -> None:
        self.closing.set()
        self._wake()

    def refuse(self, reason: str) -> None:
        """The thread has ended: what it had begun has an unknown outcome, the rest was never written."""
        for operation in self._begun:
            answer(operation, OutcomeUnknown(reason))
        for operation in self._waiting:
            answer(operation, BrokerUnavailable(reason))
        self._waiting.clear()
        self.done()

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            self._ring()

    def _look_after(self) -> None:
        """What nobody has begun in time is withdrawn; what was begun and hangs has an unknown outcome."""
        now = time.monotonic()
        for operation in [each for each in list(self._waiting) if each.born + each.patience < now]:
            operation.give_up()  # First, lest the thread begins what follows it.
            try:
                self._waiting.remove(operation)
            except ValueError:
                continue  # It was begun at this moment.
            answer(operation, BrokerUnavailable(STUCK))
        begun = self._begun
        for operation in begun:
            if self._begun_at + operation.patience < now:
                answer(operation, OutcomeUnknown("the disk does not answer"))
        busy = self._waiting or begun
        self._watch = self._loop.call_later(WATCH_SECONDS, self._look_after) if busy else None

    # In the writer's thread

    def take(self, limit: int) -> list[Operation]:
        """What waits, oldest first; it is begun now."""
        taken: list[Operation] = []
        while self._waiting and len(taken) < limit:
            try:
                taken.append(self._waiting.popleft())
            except IndexError:
                break  # It was withdrawn at this moment.
        self._begun_at = time.monotonic()
        self._begun = taken
        return taken

    def done(self) -> None:
        self._begun = []
        self._begun_at = inf

    def looks(self) -> set[int]:
        queues = set()
        while self._looks:
            queues.add(self._looks.popleft())
        return queues

    def sleep(self, wait: Callable[[], None]) -> None:
        """Call `wait`, which `ring` ends, unless there is something to do already."""
        self._asleep = True
        try:
            if not (self._waiting or self._looks or self.greeted or self.closing.is_set()):
                wait()
        finally:
            self._asleep = False

    @property
    def busy(self) -> bool:
        return bool(self._waiting)


def answer(operation: Operation, result: Any) -> None:
    """In the event loop: tell whoever waits for it, if anyone still does."""
    future = operation.future
    if future is None or future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
