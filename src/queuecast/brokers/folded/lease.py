"""Tasks of hours: no delivery is held longer than a server allows (RabbitMQ: 30 minutes, then it closes the channel).

After HAND_OVER seconds the delivery is settled behind a copy of the task that comes due in LEASE_SECONDS. Whoever runs
the task puts a newer copy behind it in good time and says so in the control log; a copy that comes due is dropped when
there is a newer one, or when the run has ended. So the last copy of a holder that died starts the task again.
"""

from __future__ import annotations

import time
from typing import Final

from msgspec.structs import replace

from ...control import LeaseRenewed, encode_control
from ...task import Task
from ..base import CONTROL
from .driver import Parcel
from .wire import LEASE, LeaseMark, pack
from .writing import Writing

HAND_OVER: Final = 600.0
"""Seconds for which a delivery is held unsettled. A worker that dies earlier has its task handed on at once."""

LEASE_SECONDS: Final = 900.0
"""Seconds until a handed-over task begins again elsewhere, unless its holder has renewed the lease."""

RENEW_SECONDS: Final = 300.0
"""Seconds between two renewals: two may fail."""


class Lease:
    """One run's; it ends with the run, of which every copy finds the end in the log."""

    def __init__(self, writing: Writing, task: Task, attempt: int, run: str) -> None:
        self._writing = writing
        self._task = task
        self._attempt = attempt
        self._mark = LeaseMark(run, 0)
        self._renewed_at = 0.0

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._renewed_at + RENEW_SECONDS

    async def renew(self) -> None:
        """A newer copy, and then the word that it is there. Raises `BrokerError`."""
        task, mark = self._task, LeaseMark(self._mark.run, self._mark.number + 1)
        message = pack(task, self._attempt)
        message = replace(message, headers={**message.headers, LEASE: str(mark)})
        await self._writing.driver.put([Parcel(task.queue, message, LEASE_SECONDS)])
        await self._writing.append(CONTROL, [encode_control(LeaseRenewed(task.queue, task.id, mark.run, mark.number))])
        self._mark = mark
        self._renewed_at = time.monotonic()
