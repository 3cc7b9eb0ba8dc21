"""Appending to a log: what waits goes out as one entry, and in the order of the calls whatever happens on the way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from ...errors import BrokerError, BrokerUnavailable
from ..folded.driver import APPEND_SECONDS
from . import entry, frames
from .publisher import Publisher, Ticket

logger = logging.getLogger(__name__)

WINDOW: Final = 4
"""Entries of a log on their way at once. More would be smaller, and cost every reader more."""

AGAIN_SECONDS: Final = 0.1
MAX_AGAIN_SECONDS: Final = 2.0
"""Seconds until an entry that was refused is sent again: twice as long each time, up to this."""

GLANCE_SECONDS: Final = 0.5
"""Seconds between two looks for what has been tried for APPEND_SECONDS."""


class _Call(NamedTuple):
    """One `append`."""

    number: int
    deadline: float
    done: asyncio.Future[int]


class _Waiting(NamedTuple):
    """One event. The last one of a call ends it."""

    body: bytes
    call: _Call
    is_last: bool


class _Entry(Ticket):
    """An entry on its way. Sent again it is another ticket, so that news of the first one is no news any more."""

    def __init__(self, log: LogWriter, body: bytes, number: int, calls: list[_Call], deadline: float) -> None:
        self.log: LogWriter | None = log
        self.body = body
        self.number = number
        self.calls = calls
        self.deadline = deadline
        self.is_confirmed = False

    def again(self) -> _Entry:
        assert self.log is not None
        twin = _Entry(self.log, self.body, self.number, self.calls, self.deadline)
        self.log = None
        return twin

    def taken(self) -> None:
        if self.log:
            self.is_confirmed = True
            self.log.confirmed()

    def refused(self, reason: BrokerUnavailable) -> None:
        if self.log:
            self.log.refused(reason)

    def lost(self, reason: BrokerUnavailable) -> None:
        if self.log:
            self.log.interrupted(reason)

    def overdue(self, reason: BrokerUnavailable) -> None:
        """A log keeps time by itself, from the call on and not from the sending."""


class LogWriter:
    """Appends to one stream. `mend` is awaited before what was refused is sent again."""

    def __init__(self, publisher: Publisher, stream: str, token: str, mend: Callable[[], Awaitable[None]]) -> None:
        self._publisher = publisher
        self._stream = stream
        self._token = token
        self._mend = mend
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._done = 0
        """The number of the last call that is complete in what was taken up so far."""
        self._waiting: deque[_Waiting] = deque()
        self._again: deque[_Entry] = deque()
        """To be sent again, before anything new."""
        self._sent: deque[_Entry] = deque()
        self._pause = AGAIN_SECONDS
        self._mending: asyncio.Task[None] | None = None
        self._glance: asyncio.TimerHandle | None = None
        self._reason: BrokerUnavailable | None = None
        publisher.on_ready.append(self.go_on)

    def append(self, bodies: Sequence[bytes]) -> asyncio.Future[int]:
        self._number += 1
        done: asyncio.Future[int] = self._loop.create_future()
        if not bodies:
            done.set_result(self._number)
            return done
        call = _Call(self._number, self._loop.time() + APPEND_SECONDS, done)
        last = len(bodies) - 1
        for place, body in enumerate(bodies):
            self._waiting.append(_Waiting(body, call, place == last))
        if self._glance is None:
            self._glance = self._loop.call_later(GLANCE_SECONDS, self._look)
        self.go_on()
        return done

    @property
    def is_idle(self) -> bool:
        return not (self._waiting or self._again or self._sent)

    def go_on(self) -> None:
        """Send what there is room for."""
        while (
            (self._again or self._waiting)
            and len(self._sent) < WINDOW
            and self._publisher.is_ready
            and self._mending is None
        ):
            self._send(self._again.popleft() if self._again else self._take())

    def confirmed(self) -> None:
        self._pause = AGAIN_SECONDS
        self._finish()
        self.go_on()

    def _finish(self) -> None:
        """Durable is what has nothing before it that is not."""
        while self._sent and self._sent[0].is_confirmed:
            for call in self._sent.popleft().calls:
                if not call.done.done():
                    call.done.set_result(call.number)

    def refused(self, reason: BrokerUnavailable) -> None:
        self._go_back(reason)
        self._mending = self._loop.create_task(self._try_again())

    def interrupted(self, reason: BrokerUnavailable) -> None:
        """By the end of the connection. The next one calls `go_on`."""
        self._go_back(reason)

    def close(self) -> None:
        """Give up what is left."""
        self._publisher.on_ready.remove(self.go_on)
        if self._mending:
            self._mending.cancel()
        if self._glance:
            self._glance.cancel()
        self._give_up(float("inf"), self._reason or BrokerUnavailable("the broker was closed"))

    def _take(self) -> _Entry:
        """The next entry, from what waits."""
        bodies: list[bytes] = []
        calls: list[_Call] = []
        waiting = self._waiting
        deadline = waiting[0].call.deadline
        size = 0
        while (
            waiting and len(bodies) < entry.MAX_EVENTS and (not bodies or size + len(waiting[0].body) < entry.MAX_BYTES)
        ):
            body, call, is_last = waiting.popleft()
            bodies.append(body)
            size += len(body) + 1
            if is_last:
                calls.append(call)
        if calls:
            self._done = calls[-1].number
        return _Entry(self, entry.join(bodies), self._done, calls, deadline)

    def _send(self, sending: _Entry) -> None:
        self._sent.append(sending)
        properties = frames.properties(
            content_type=entry.CONTENT_TYPE,
            headers={entry.FROM: self._token, entry.NUMBER: sending.number},
            timestamp=int(time.time()),
        )
        self._publisher.publish(sending, "", self._stream, properties, sending.body)

    def _go_back(self, reason: BrokerUnavailable) -> None:
        """To the first that is not confirmed; what was confirmed after it is sent again too, to come after it."""
        self._reason = reason
        self._again.extendleft(sent.again() for sent in reversed(self._sent))
        self._sent.clear()

    async def _try_again(self) -> None:
        try:
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, MAX_AGAIN_SECONDS)
            await self._mend()
        except BrokerError as error:
            logger.warning("%s: %s", self._stream, error)
        finally:
            self._mending = None
        self.go_on()

    def _look(self) -> None:
        self._glance = None
        self._give_up(self._loop.time(), self._reason)
        self._finish()
        if not self.is_idle:
            self._glance = self._loop.call_later(GLANCE_SECONDS, self._look)
        self.go_on()

    def _give_up(self, now: float, reason: BrokerUnavailable | None) -> None:
        """What has been tried for long enough."""
        why = BrokerUnavailable(f"not appended: {self._publisher.obstacle or reason or 'RabbitMQ does not confirm'}")
        for entries in (self._sent, self._again):
            while entries and entries[0].deadline < now:
                given_up = entries.popleft()
                given_up.log = None
                _fail(given_up.calls, why)
        while self._waiting and self._waiting[0].call.deadline < now:
            waiting = self._waiting.popleft()
            _fail([waiting.call], why)


def _fail(calls: list[_Call], reason: BrokerUnavailable) -> None:
    for call in calls:
        if not call.done.done():
            call.done.set_exception(reason)
