"""One queue's log on a server: what every reader is shown, and what each task is now.

Everybody near the end reads from the ring that `Folding` fills. Who is further behind reads the server's log without
what was refused, until it meets the ring.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from math import inf
from typing import Final, NamedTuple

from ...codec import decode_event, read_head
from ...cursor import Cursor, beginning, cursor_at
from ...errors import BrokerUnavailable, ResetRequired
from ...event import ErrorInfo
from ...lifecycle import Record
from ...task import State
from ..base import EXPIRED, Bounds, Entry, Retention, Status, snapshot_of
from .bodies import Bodies
from .driver import Driver
from .folding import Folding
from .row import Row, seconds_of
from .table import Table

READ_BATCH: Final = 1_000
"""Entries handed to a reader at once; the next batch follows when it asks."""

WAIT_SECONDS: Final = 20.0
"""How long anybody waits until the log has been folded as far as asked; then it is `BrokerUnavailable`."""

EVENT_BYTES: Final = 256
"""What an event is taken to have where it is not in memory."""

SAYS_NO_MORE: Final[frozenset[State]] = frozenset({"scheduled", "queued"})
"""States in which a task's last event tells nothing that its row does not."""


class Known(NamedTuple):
    """What tells an earlier submission with the same key."""

    name: str
    fingerprint: str | None
    first: int
    state: State
    cursor: Cursor
    """Everything that happens to it after `state` lies after it."""


class End(NamedTuple):
    """A task that any process must end now."""

    id: str
    queue: str
    owner: str | None
    attempt: int
    error: ErrorInfo
    """`expired` or `no-reply`."""


NO_REPLY: Final = ErrorInfo("no-reply", "no worker answered in time")


class Projection:
    """Belongs to one event loop. What is no coroutine answers at once, of what is folded so far."""

    def __init__(
        self,
        driver: Driver,
        queue: str,
        retention: Retention,
        table: Table,
        *,
        reply_within: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`reply_within`: seconds after which a foreign worker's silence ends a task; None for a queue of our own."""
        self.queue = queue
        self._driver = driver
        self._clock = clock
        self._folding = Folding(driver, queue, retention, table, reply_within=reply_within, clock=clock)
        self._bodies = Bodies(driver, queue)
        self._whole_at = -inf
        """All that was durable at this monotonic time is folded, unless all was thrown away since."""
        self._whole_beginnings = 0

    # Its life

    async def start(self) -> None:
        """Begin to follow the log in the background, from where the table has got to."""
        await self._folding.start()

    async def stop(self) -> None:
        """Save what is folded. Whoever waits or asks from now on gets `BrokerUnavailable`."""
        await self._folding.stop()

    async def caught_up(self, since: float = inf) -> None:
        """Returns once all that was durable in the log when this was called is folded; or then, in monotonic seconds.

        Raises `BrokerUnavailable` when that takes longer than WAIT_SECONDS; it goes on, so ask again.
        """
        folding, now = self._folding, time.monotonic()
        if since <= self._whole_at and self._whole_beginnings == folding.beginnings:
            return
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not await folding.reach(await folding.look()):
                    pass  # all was thrown away meanwhile
        except TimeoutError as error:
            raise BrokerUnavailable(f"the log of {self.queue} is still being read: try again") from error
        self._whole_at, self._whole_beginnings = now, folding.beginnings

    async def includes(self, own: int) -> None:
        """Returns once the driver's append of this number to this log is folded. Raises `BrokerUnavailable`."""
        folding = self._folding
        beginnings = folding.beginnings
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while folding.own < own and beginnings == folding.beginnings:
                    await folding.change()
        except TimeoutError as error:
            raise BrokerUnavailable(f"the log of {self.queue} does not show yet what was appended") from error
        if beginnings != folding.beginnings:
            await self.caught_up()  # it went with the log that it was appended to, or comes again

    # The log

    async def read(self, after: int) -> AsyncGenerator[list[Entry], None]:
        """What is shown after this offset, each entry once and in order; then wait for more, for ever.

        Raises `ResetRequired` ("trimmed", "ahead", or why all was thrown away), `BrokerUnavailable`.
        """
        resets = len(self._folding.resets)
        if after > self.bounds().last:
            raise ResetRequired("ahead")
        while True:
            if not self._may_go_on(after, resets):
                await self._folding.change()
            elif after < self._folding.ring.start:
                async with aclosing(self._read_raw(after, resets)) as batches:
                    async for reached, batch in batches:
                        after = reached
                        if batch:
                            yield batch
            elif batch := self._folding.ring.after(after, READ_BATCH):
                after = batch[-1].offset
                yield batch
            else:
                await self._folding.change()

    async def _read_raw(self, after: int, resets: int) -> AsyncGenerator[tuple[int, list[Entry]], None]:
        """What is shown out of the server's log, with the place reached, until the ring has the rest."""
        place = beginning(self._folding.fold.place.identity, after)
        async with aclosing(self._driver.read(self.queue, place)) as pages:
            async for page in pages:
                for start in range(0, len(page.entries), READ_BATCH):
                    if not self._may_go_on(after, resets):
                        return
                    after, batch = self._shown(page.entries[start : start + READ_BATCH], after)
                    yield after, batch
                    if after >= self._folding.ring.start:
                        return

    def _shown(self, entries: list[Entry], after: int) -> tuple[int, list[Entry]]:
        """Without what was refused, nor what lies beyond the fold."""
        reached = min(entries[-1].offset, self._folding.fold.place.offset)
        refused = self._refused(entries[0].offset, reached)
        shown = [entry for entry in entries if entry.offset <= reached and entry.offset not in refused]
        return max(after, reached), shown

    def _refused(self, first: int, last: int) -> set[int]:
        with self._folding.asking() as table:
            return table.refused(first, last).union(self._folding.fold.refused)

    def _may_go_on(self, after: int, resets: int) -> bool:
        """Whether a reader at this place can be told anything now. Raises what ends its reading."""
        if resets != len(self._folding.resets):
            raise ResetRequired(self._folding.resets[-1])
        if not self._folding.can_tell:
            return False
        if after < self.bounds().first - 1:
            raise ResetRequired("trimmed")
        return True

    def bounds(self) -> Bounds:
        """Raises `BrokerUnavailable`, as all that follows, where nothing can be told."""
        self._folding.trim()
        return self._folding.fold.bounds

    @property
    def identity(self) -> str | None:
        return self._folding.fold.place.identity

    async def at(self, offset: int) -> bytes:
        """The event at an offset. Raises `ResetRequired` ("trimmed") where none is shown, `BrokerUnavailable`."""
        bounds = self.bounds()
        if bounds.first <= offset <= bounds.last and offset not in self._refused(offset, offset):
            found = await self._bodies.at([offset], self._folding.ring, bounds.identity)
            if offset in found:
                return found[offset]
        raise ResetRequired("trimmed")

    async def end(self) -> Cursor:
        """The place of the newest event shown."""
        bounds = self.bounds()
        if bounds.last < bounds.first:
            return beginning(bounds.identity, bounds.last)
        try:
            return cursor_at(bounds.identity, bounds.last, await self.at(bounds.last))
        except ResetRequired:  # trimmed meanwhile
            return beginning(bounds.identity, bounds.last)

    def recent(self, count: int) -> int:
        """An offset after which about so many events are shown: that of an event, or just before the first."""
        self._folding.trim()
        offset = self._folding.ring.before(count)
        return self._folding.fold.before(count * EVENT_BYTES) if offset is None else offset

    # The tasks

    async def record(self, id: str) -> Record | None:
        """What the fold remembers of a task; of one that has ended only the state and the attempt."""
        row = self._row(id)
        return None if row is None else row.record

    async def ended_at(self, id: str) -> float | None:
        """POSIX time of the last event of a task that has ended; None where it is not known any more."""
        row = self._row(id)
        if row is None or not row.record.final:
            return None
        bodies = await self._bodies.at([row.last], self._folding.ring, self.identity)
        head = read_head(bodies.get(row.last, b""))
        return None if head is None else seconds_of(head.time)

    async def known(self, id: str) -> Known | None:
        row = self._row(id)
        if row is None:
            return None
        return Known(row.name, row.fingerprint, row.first, row.record.state, self._cursor(row))

    async def status(self, id: str) -> Status | None:
        row = self._row(id)
        found = await self._statuses([] if row is None else [row])
        return found[0] if found else None

    async def statuses(
        self, *, state: State | None = None, owner: str | None = None, before: str | None = None, limit: int = 100
    ) -> list[Status]:
        counts = self.counts()
        if state is not None:
            limit = min(limit, counts[state])  # so that a search ends when it has found all
        with self._folding.asking() as table:
            self._folding.save()
            rows = table.page(state=state, owner=owner, before=before, limit=limit)
        return await self._statuses(rows)

    def counts(self) -> Mapping[State, int]:
        self._folding.trim()
        return dict(self._folding.fold.counts)

    def oldest_due(self) -> float | None:
        """POSIX time since which the task that waits longest could have been running."""
        return self._folding.plan.oldest_due(self._clock())

    def ends_due(self, now: float) -> list[End]:
        """Tasks that nobody began, or answered, in time; each of them again until its end is folded."""
        return [
            End(row.id, self.queue, row.owner, row.record.attempt, NO_REPLY if late else EXPIRED)
            for row, late in self._folding.plan.ends(now)
        ]

    def next_end(self) -> float:
        """POSIX time when the next one comes due, of those that were not told yet; infinite for none."""
        return self._folding.plan.next_end()

    async def submitted_to(self) -> None:
        """Returns when a task has begun to wait, so that `next_end` may be an earlier one."""
        waits = self._folding.waits
        while waits == self._folding.waits:
            await self._folding.change()

    def _row(self, id: str) -> Row | None:
        self._folding.trim()
        with self._folding.asking() as table:
            return self._folding.fold.row(id) or table.row(id)

    def _cursor(self, row: Row) -> Cursor:
        fold = self._folding.fold
        return row.cursor(fold.place.identity, fold.trimmed)

    async def _statuses(self, rows: list[Row]) -> list[Status]:
        """Of the tasks as they are now, however long it takes to read their last events."""
        trimmed = self._folding.fold.trimmed
        told = [(row, row.record, row.last, self._cursor(row)) for row in rows]
        wanted = [last for _, record, last, _ in told if last > trimmed and record.state not in SAYS_NO_MORE]
        bodies = await self._bodies.at(wanted, self._folding.ring, self._folding.fold.place.identity)
        return [
            _status(self.queue, row, record, cursor, bodies.get(last))
            for row, record, last, cursor in told
            if last in bodies or not record.final  # the server may have trimmed it meanwhile
        ]


def _status(queue: str, row: Row, record: Record, cursor: Cursor, body: bytes | None) -> Status:
    progress, result, error = (None, None, None) if body is None else snapshot_of(decode_event(body))
    return Status(
        id=row.id,
        queue=queue,
        name=row.name,
        state=record.state,
        attempt=record.attempt,
        cursor=cursor,
        first=row.first,
        owner=row.owner,
        progress=progress,
        result=result,
        error=error,
    )
