"""What becomes of a message that was handed out: which task it is, and whether there is still anything to run."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from msgspec import Raw

from ...codec import encode_event
from ...event import ErrorInfo, Event, ended
from ...lifecycle import Record
from ...task import Task
from .control import ControlLog
from .driver import Handed, Parcel
from .projection import Projection
from .wire import LeaseMark, Unpacked, Unusable, answer_to, id_of, unpack, with_fresh_id
from .writing import Writing

EXPIRED = ErrorInfo("expired", "the task was not begun before its expires_at")


class Admitted(NamedTuple):
    """A task to run, and what is known of the runs before."""

    task: Task
    attempt: int
    record: Record | None

    @property
    def suspect(self) -> bool:
        return self.record is not None and self.record.state == "running"

    @property
    def losses(self) -> int:
        return 0 if self.record is None else self.record.losses + (self.suspect and self.record.alone)


class Admission:
    """`projection` gives a queue's, up to date as of now."""

    def __init__(
        self,
        writing: Writing,
        control: ControlLog,
        projection: Callable[[str], Awaitable[Projection]],
    ) -> None:
        self._writing = writing
        self._control = control
        self._projection = projection

    async def admit(self, queue: str, handed: Handed) -> Admitted | None:
        """The task to run; None where there is none, and the message was dealt with. Raises `BrokerError`."""
        await self._control.start()
        admitted = await self._examine(queue, handed)
        if admitted is None:
            handed.settle()
        return admitted

    async def _examine(self, queue: str, handed: Handed) -> Admitted | None:
        message, now = handed.message, time.time()
        id = id_of(queue, message)
        if id is None:
            await self._writing.driver.put([Parcel(queue, with_fresh_id(message, now))])
            return None
        try:
            unpacked = unpack(queue, id, message, now)
        except Unusable as flaw:
            error = ErrorInfo(flaw.type, str(flaw))
            await self._writing.dead.bury_message(queue, id, message, error)
            await self._tell(_end_of_nothing(queue, id, now, error))
            return None
        return await self._consider(unpacked, handed.again, now)

    async def _consider(self, unpacked: Unpacked, again: bool, now: float) -> Admitted | None:
        task, attempt, lease = unpacked
        if self._control.ended(task) or (lease is not None and self._control.has_newer(task, lease)):
            return None
        record = None
        if again or lease is not None:
            projection = await self._projection(task.queue)
            record = await projection.record(task.id)
            if record is not None and record.final:
                await self._answer_again(task, projection)
                return None
            if record is not None and record.attempt > attempt:
                return None  # The copy of its retry is on its way, or running already.
            if record is not None and self._lives_on(task, lease, record):
                return None
        begun = attempt > 1 or (record is not None and record.run is not None)
        if not begun and is_expired(task, now):
            await self._writing.dead.bury(task, EXPIRED)
            await self._tell(ended(task, "failed", now, attempt=attempt, error=EXPIRED))
            return None
        return Admitted(task, attempt, record)

    def _lives_on(self, task: Task, lease: LeaseMark | None, record: Record) -> bool:
        """Whether nobody needs this message, because another stands for the task.

        A copy that a lease was written on: its run has ended, or a later one has begun. Any other: its run was handed
        over, and the server has not heard of that.
        """
        running = record.state == "running"
        if lease is not None:
            return not running or record.run != lease.run
        return running and record.run is not None and self._control.has_newer(task, LeaseMark(record.run, 0))

    async def _answer_again(self, task: Task, projection: Projection) -> None:
        """Its worker may have died between the result and the answer."""
        status = await projection.status(task.id) if task.reply_to else None
        if status is not None and task.reply_to:
            await self._writing.driver.reply(task.reply_to, answer_to(task, status))

    async def _tell(self, event: Event) -> None:
        await self._writing.append(event.queue, [encode_event(event)])


def is_expired(task: Task, now: float) -> bool:
    return task.expires_at is not None and task.expires_at <= now


def _end_of_nothing(queue: str, id: str, now: float, error: ErrorInfo) -> Event:
    """That a message which is no task has failed, for those who wait for it."""
    return ended(Task(id=id, queue=queue, name="", args=Raw(b"{}"), submitted_at=now), "failed", now, error=error)
