"""What becomes of a message that was handed out: which task it is, and whether there is still anything to run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from msgspec import Raw
from msgspec.structs import replace

from ...codec import encode_event
from ...control import CLOCK_SLACK
from ...errors import BrokerUnavailable
from ...event import ErrorInfo, ended, submitted
from ...lifecycle import Record
from ...task import FINAL_STATES, Task, fingerprint, is_keyed
from ..base import EXPIRED
from ..futures import seen
from .control import ControlLog
from .driver import Handed, Parcel
from .projection import Projection
from .wire import LeaseMark, Message, Unpacked, Unusable, answer_to, fresh_id, id_of, unpack, with_fresh_id
from .writing import Writing


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
    """`follow` gives a queue's projection as it is, `up_to_date` with all that was durable at a monotonic time."""

    def __init__(
        self,
        writing: Writing,
        control: ControlLog,
        follow: Callable[[str], Awaitable[Projection]],
        up_to_date: Callable[[str, float], Awaitable[Projection]],
    ) -> None:
        self._writing = writing
        self._control = control
        self._follow = follow
        self._up_to_date = up_to_date

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
            await self._fail(_nothing(queue, id, message, flaw, now), error, now)
            return None
        return await self._consider(unpacked, handed, now)

    async def _consider(self, unpacked: Unpacked, handed: Handed, now: float) -> Admitted | None:
        task, attempt, lease, *_ = unpacked
        if lease is not None and self._control.has_newer(task, lease):
            return None
        record = await self._record_of(unpacked, handed)
        if unpacked.is_foreign and record is not None and await self._is_other_work(task):
            await self._refuse_id(task, handed.message, now)
            return None
        if self._control.ended(task) or (record is not None and record.final):
            await self._answer_again(task)
            return None
        if record is not None and (record.attempt > attempt or self._is_in_other_hands(unpacked, handed.again, record)):
            return None
        begun = attempt > 1 or (record is not None and record.run is not None)
        if not begun and is_expired(task, now):
            await self._writing.dead.bury(task, EXPIRED)
            await self._fail(task, EXPIRED, now, attempt)
            return None
        if unpacked.is_foreign and record is None:
            # Nobody has told of it yet. Its run comes after, so nothing waits for this.
            first = self._writing.append(task.queue, [encode_event(submitted(task, foreign=True))])
            asyncio.ensure_future(first).add_done_callback(seen)
        return Admitted(task, attempt, record)

    async def _record_of(self, unpacked: Unpacked, handed: Handed) -> Record | None:
        """What the fold knows of a task that may have run; None where its id was another's, that has ended before.

        All that was written of a run before is in the log when its message arrives. So one look at the log is enough
        for all that have arrived by then: a classic queue that was restarted marks its whole backlog.
        """
        task = unpacked.task
        if handed.again or unpacked.lease is not None:
            projection = await self._up_to_date(task.queue, handed.at)
        elif unpacked.is_foreign or (is_keyed(task.id) and not unpacked.is_copy):
            projection = await self._follow(task.queue)
        else:
            return None
        record = await projection.record(task.id)
        if record is not None and record.final and is_keyed(task.id) and not unpacked.is_foreign:
            ended_at = await projection.ended_at(task.id)
            if ended_at is None or ended_at < task.submitted_at - CLOCK_SLACK:
                return None
        return record

    async def _is_other_work(self, task: Task) -> bool:
        """Whether a foreign program has given the id of a task that is known to another one."""
        known = await (await self._follow(task.queue)).known(task.id)
        if known is None or known.fingerprint is None:
            return False
        return known.name != task.name or known.fingerprint.partition(".")[0] != fingerprint(task)

    def _is_in_other_hands(self, unpacked: Unpacked, again: bool, record: Record) -> bool:
        """Whether another message stands for the task, so that nobody needs this one.

        That is so of a lease's copy when the run has ended, or a later one has begun; of what was handed out before,
        when its run was handed over and the server has not heard of that; and of what was not, when it runs: two
        processes have submitted it with one key at the same moment. Not so of a foreign message: it may have been put
        there again by hand, for a worker that died.
        """
        task, _, lease, *_ = unpacked
        running = record.state == "running"
        if lease is not None:
            return not running or record.run != lease.run
        if not running or record.run is None or (unpacked.is_foreign and not again):
            return False
        return not again or self._control.has_newer(task, LeaseMark(record.run, 0))

    async def _fail(self, task: Task, error: ErrorInfo, now: float, attempt: int = 1) -> None:
        ending = ended(task, "failed", now, attempt=attempt, error=error)
        await self._writing.append(task.queue, [encode_event(ending)])
        if task.reply_to:
            await self._writing.driver.reply(task.reply_to, answer_to(task, ending))

    async def _refuse_id(self, task: Task, message: Message, now: float) -> None:
        """Under an id of its own, so that the other task and its dead letter stay what they are."""
        error = ErrorInfo("id-conflict", f"the id {task.id} is another task's, of other work")
        refused = replace(task, id=fresh_id(task.queue, task.id, fingerprint(task)))
        await self._writing.dead.bury_message(refused.queue, refused.id, message, error)
        await self._fail(refused, error, now)

    async def _answer_again(self, task: Task) -> None:
        """Who has ended it knows of no reply, or may have died between the result and the answer."""
        if task.reply_to is None:
            return
        status = await (await self._up_to_date(task.queue, time.monotonic())).status(task.id)
        if status is not None and status.state not in FINAL_STATES:
            raise BrokerUnavailable("how it ended is not in the log yet")
        if status is not None:
            await self._writing.driver.reply(task.reply_to, answer_to(task, status))


def is_expired(task: Task, now: float) -> bool:
    return task.expires_at is not None and task.expires_at <= now


def _nothing(queue: str, id: str, message: Message, flaw: Unusable, now: float) -> Task:
    """What stands for a message that is no task, for those who wait for it."""
    return Task(
        id=id,
        queue=queue,
        name="",
        args=Raw(b"{}"),
        submitted_at=now,
        reply_to=None if flaw.type == "bad-reply-to" else message.reply_to,
        correlation_id=message.correlation_id,
    )
