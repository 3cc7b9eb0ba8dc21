"""Tasks of hours: no delivery is held longer than a server allows (RabbitMQ: 30 minutes, then it closes the channel).

After HAND_OVER seconds the delivery is settled behind a copy of the task that comes due in LEASE_SECONDS. Whoever runs
the task puts a newer copy behind it in good time and says so in the control log; a copy that comes due is dropped when
there is a newer one, or when the run has ended. So the last copy of a holder that died starts the task again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final

from ...control import LeaseRenewed, encode_control
from ...errors import BrokerError
from ...task import Task
from ..base import CONTROL
from .driver import Parcel
from .wire import LeaseMark, pack_again
from .writing import Writing

HAND_OVER: Final = 600.0
"""Seconds for which a delivery is held unsettled. A worker that dies earlier has its task handed on at once."""

LEASE_SECONDS: Final = 900.0
"""Seconds until a handed-over task begins again elsewhere, unless its holder has renewed the lease."""

RENEW_SECONDS: Final = 300.0
"""Seconds between two renewals: two may fail."""


def is_long(taken_at: float, hold: float) -> bool:
    """Whether it is time to hand over what was taken then, by the monotonic clock, and can be held so long."""
    return time.monotonic() >= taken_at + min(HAND_OVER, hold)


class Lease:
    """One delivery's: of the run that it is in, so a copy of an earlier run is one too many."""

    def __init__(self, writing: Writing, task: Task, attempt: int, run: str) -> None:
        self._writing = writing
        self._task = task
        self._attempt = attempt
        self._mark = LeaseMark(run, 0)
        self._renewed_at = time.monotonic()
        self._turn = asyncio.Lock()
        self._is_ended = False

    @property
    def run(self) -> str:
        return self._mark.run

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._renewed_at + RENEW_SECONDS

    @property
    def is_over(self) -> bool:
        """It was not renewed in time: somebody else may have begun the task."""
        return time.monotonic() >= self._renewed_at + LEASE_SECONDS

    async def renew(self, run: str) -> None:
        """For the run that it is in now, or is about to begin. Raises `BrokerError`."""
        async with self._turn:
            if not self._is_ended:
                now = time.monotonic()
                await self._put(run, LEASE_SECONDS)
                self._renewed_at = now

    async def give_back(self) -> None:
        """Let the task begin elsewhere at once. Raises `BrokerError`."""
        async with self._turn:
            await self._put(self.run, 0.0)
            self._is_ended = True

    async def end(self) -> None:
        """Nobody needs any of the copies. Where this cannot be said, each of them is looked up in the log."""
        async with self._turn:
            self._is_ended = True
            with suppress(BrokerError):
                await self._say(LeaseMark(self.run, self._mark.number + 1))

    async def _put(self, run: str, delay: float) -> None:
        """A newer copy, and then the word that it is there."""
        mark = LeaseMark(run, self._mark.number + 1)
        message = pack_again(self._task, self._attempt, mark)
        await self._writing.driver.put([Parcel(self._task.queue, message, delay)])
        await self._say(mark)
        self._mark = mark

    async def _say(self, mark: LeaseMark) -> None:
        renewed = LeaseRenewed(self._task.queue, self._task.id, mark.run, mark.number)
        await self._writing.append(CONTROL, [encode_control(renewed)])
