"""One queue's log on a server, folded in this process: what every reader is shown, and what each task is now.

A background task reads the raw log, refuses what the fold refuses, and keeps the newest events in a ring from which
everybody near the end reads. Who is further behind reads the server's log without what was refused, until it meets
the ring. All is rebuilt from the log where its table cannot be used, or the log is not what it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from typing import Final, NamedTuple

from ...codec import decode_event, read_head
from ...cursor import Cursor, beginning, cursor_at
from ...errors import BrokerError, BrokerUnavailable, ResetRequired
from ...event import ErrorInfo
from ...lifecycle import Record
from ...task import State
from ..base import EXPIRED, Bounds, Entry, Retention, Status, snapshot_of
from .agenda import Plan
from .bodies import Bodies
from .driver import Driver
from .fold import Checkpoint, Fold, read_heads
from .ring import Ring
from .row import Row, seconds_of
from .table import Damaged, Table

logger = logging.getLogger(__name__)

FOLD_BATCH: Final = 1_000
"""Entries folded before the event loop does something else: about 5 ms."""

SAVE_ROWS: Final = 1_500
"""Tasks and refused offsets that wait to be saved at most: about 10 ms."""

SAVE_SECONDS: Final = 1.0
"""Seconds after which they are saved though they are few. After a kill, what they are made of is folded again."""

READ_BATCH: Final = 1_000
"""Entries handed to a reader at once; the next batch follows when it asks."""

LOOK_SECONDS: Final = 30.0
"""How often the log's bounds are asked for, to see what the server has trimmed, and what has become too old."""

WAIT_SECONDS: Final = 20.0
"""How long anybody waits until the log has been folded as far as asked; then it is `BrokerUnavailable`."""

RETRY_SECONDS: Final = 0.5
"""Seconds after which the log is read again once that has failed."""

EVENT_BYTES: Final = 256
"""What an event is taken to have where it is not in memory."""

COMPLAINT_SECONDS: Final = 60.0
"""How often it is logged at most that entries are no events."""

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
        self._retention = retention
        self._table = table
        self._reply_within = reply_within
        self._clock = clock
        self._bodies = Bodies(driver, queue)
        self._fold: Fold | None = None
        self._ring = Ring(0)
        self._plan = Plan({}, None)
        self._changed = asyncio.Event()
        self._stopped = False
        self._failing = False
        """It was told already that the log cannot be read."""
        self._upto = -1
        """Everything up to this offset is folded; there may be no event at it."""
        self._own = 0
        self._beginnings = 0
        """How often all was thrown away."""
        self._resets: list[str] = []
        """The reasons for which readers have to be told so."""
        self._look = Look(driver, queue)
        self._opening: asyncio.Future[tuple[Fold | None, Plan]] | None = None
        self._follower: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._saving: asyncio.TimerHandle | None = None
        self._waits = 0
        """How often a task has begun to wait."""
        self._told_unreadable = 0
        self._tell_unreadable_at = 0.0

    # Its life

    async def start(self) -> None:
        """Begin to follow the log in the background, from where the table has got to."""
        self._opening = asyncio.ensure_future(asyncio.to_thread(self._resume))
        fold, self._plan = await asyncio.shield(self._opening)
        if fold is not None:
            self._fold, self._ring = fold, Ring(fold.place.offset)
        self._follower = asyncio.create_task(self._follow(), name=f"queuecast projection {self.queue}")
        self._watcher = asyncio.create_task(self._watch(), name=f"queuecast projection {self.queue}, bounds")

    async def stop(self) -> None:
        """Save what is folded. Whoever waits or asks from now on gets `BrokerUnavailable`."""
        self._stopped = True
        self._wake()
        if self._opening is not None:
            await asyncio.wait([self._opening])  # nothing ends a thread
        tasks = [task for task in (self._follower, self._watcher) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._saving is not None:
            self._saving.cancel()
        with suppress(Damaged):
            self._save()
            self._table.commit()
        self._fold = None
        self._table.close()

    async def caught_up(self) -> None:
        """Returns once all that was durable in the log when this was called is folded.

        Raises `BrokerUnavailable` when that takes longer than WAIT_SECONDS; it goes on, so ask again.
        """
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not await self._reach(await self._look()):
                    pass  # all was thrown away meanwhile
        except TimeoutError as error:
            raise BrokerUnavailable(f"the log of {self.queue} is still being read: try again") from error

    async def includes(self, own: int) -> None:
        """Returns once the driver's append of this number to this log is folded. Raises `BrokerUnavailable`."""
        beginnings = self._beginnings
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while self._own < own and beginnings == self._beginnings:
                    await self._change()
        except TimeoutError as error:
            raise BrokerUnavailable(f"the log of {self.queue} does not show yet what was appended") from error
        if beginnings != self._beginnings:
            await self.caught_up()  # it went with the log that it was appended to, or comes again

    async def reaches(self, offset: int) -> None:
        """Returns once the log is folded up to this offset. Raises `BrokerUnavailable`."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while self._fold is None or self._upto < offset:
                    await self._change()
        except TimeoutError as error:
            raise BrokerUnavailable(f"the log of {self.queue} is still being read: try again") from error

    async def _reach(self, end: Bounds) -> bool:
        beginnings = self._beginnings
        while (fold := self._fold) is None or fold.place.identity != end.identity or self._upto < end.last:
            await self._change()
            if beginnings != self._beginnings:
                return False
        return True

    # The log

    async def read(self, after: int) -> AsyncGenerator[list[Entry], None]:
        """What is shown after this offset, each entry once and in order; then wait for more, for ever.

        Raises `ResetRequired` ("trimmed", "ahead", or why all was thrown away), `BrokerUnavailable`.
        """
        resets = len(self._resets)
        if after > self.bounds().last:
            raise ResetRequired("ahead")
        while True:
            if not self._may_go_on(after, resets):
                await self._change()
            elif after < self._ring.start:
                async with aclosing(self._read_raw(after, resets)) as batches:
                    async for reached, batch in batches:
                        after = reached
                        if batch:
                            yield batch
            elif batch := self._ring.after(after, READ_BATCH):
                after = batch[-1].offset
                yield batch
            else:
                await self._change()

    async def _read_raw(self, after: int, resets: int) -> AsyncGenerator[tuple[int, list[Entry]], None]:
        """What is shown out of the server's log, with the place reached, until the ring has the rest."""
        async with aclosing(self._driver.read(self.queue, beginning(self._get().place.identity, after))) as pages:
            async for page in pages:
                for start in range(0, len(page.entries), READ_BATCH):
                    if not self._may_go_on(after, resets):
                        return
                    after, batch = self._shown(page.entries[start : start + READ_BATCH], after)
                    yield after, batch
                    if after >= self._ring.start:
                        return

    def _shown(self, entries: list[Entry], after: int) -> tuple[int, list[Entry]]:
        """Without what was refused, nor what lies beyond the fold."""
        reached = min(entries[-1].offset, self._get().place.offset)
        refused = self._refused(entries[0].offset, reached)
        shown = [entry for entry in entries if entry.offset <= reached and entry.offset not in refused]
        return max(after, reached), shown

    def _refused(self, first: int, last: int) -> set[int]:
        with self._asking() as table:
            return table.refused(first, last).union(self._get().refused)

    def _may_go_on(self, after: int, resets: int) -> bool:
        """Whether a reader at this place can be told anything now. Raises what ends its reading."""
        if resets != len(self._resets):
            raise ResetRequired(self._resets[-1])
        if self._fold is None and not self._stopped:
            return False
        if after < self.bounds().first - 1:
            raise ResetRequired("trimmed")
        return True

    def bounds(self) -> Bounds:
        """Raises `BrokerUnavailable`, as all that follows, where nothing can be told."""
        self._trim()
        return self._get().bounds

    @property
    def identity(self) -> str | None:
        return self._get().place.identity

    async def at(self, offset: int) -> bytes:
        """The event at an offset. Raises `ResetRequired` ("trimmed") where none is shown, `BrokerUnavailable`."""
        bounds = self.bounds()
        if bounds.first <= offset <= bounds.last and offset not in self._refused(offset, offset):
            found = await self._bodies.at([offset], self._ring, bounds.identity)
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
        self._trim()
        offset = self._ring.before(count)
        return self._get().before(count * EVENT_BYTES) if offset is None else offset

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
        bodies = await self._bodies.at([row.last], self._ring, self.identity)
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
        with self._asking() as table:
            self._save()
            rows = table.page(state=state, owner=owner, before=before, limit=limit)
        return await self._statuses(rows)

    def counts(self) -> Mapping[State, int]:
        self._trim()
        return dict(self._get().counts)

    def oldest_due(self) -> float | None:
        """POSIX time since which the task that waits longest could have been running."""
        return self._plan.oldest_due(self._clock())

    def ends_due(self, now: float) -> list[End]:
        """Tasks that nobody began, or answered, in time; each of them again until its end is folded."""
        return [
            End(row.id, row.owner, row.record.attempt, NO_REPLY if late else EXPIRED)
            for row, late in self._plan.ends(now)
        ]

    def next_end(self) -> float:
        """POSIX time when the next one comes due, of those that were not told yet; infinite for none."""
        return self._plan.next_end()

    async def submitted_to(self) -> None:
        """Returns when a task has begun to wait, so that `next_end` may be an earlier one."""
        waits = self._waits
        while waits == self._waits:
            await self._change()

    def _row(self, id: str) -> Row | None:
        self._trim()
        with self._asking() as table:
            return self._get().row(id) or table.row(id)

    def _cursor(self, row: Row) -> Cursor:
        fold = self._get()
        return row.cursor(fold.place.identity, fold.trimmed)

    async def _statuses(self, rows: list[Row]) -> list[Status]:
        """Of the tasks as they are now, however long it takes to read their last events."""
        trimmed = self._get().trimmed
        told = [(row, row.record, row.last, self._cursor(row)) for row in rows]
        wanted = [last for _, record, last, _ in told if last > trimmed and record.state not in SAYS_NO_MORE]
        bodies = await self._bodies.at(wanted, self._ring, self._get().place.identity)
        return [
            _status(self.queue, row, record, cursor, bodies.get(last))
            for row, record, last, cursor in told
            if last in bodies or not record.final  # the server may have trimmed it meanwhile
        ]

    # Following

    async def _follow(self) -> None:
        while True:
            try:
                await self._read_on(await self._look())
            except ResetRequired as reset:
                self._throw_away(reset.reason)
            except BrokerError as error:
                if not self._failing:
                    logger.warning("the log of %s cannot be read, trying again: %s", self.queue, error)
                self._failing = True
            except Damaged as error:
                self._replace_table(error)
            except Exception:
                # A projection that ended would leave its readers with keepalives and never an event again.
                logger.exception("the log of %s cannot be folded; trying again from its beginning", self.queue)
                self._rebuild()
            await asyncio.sleep(RETRY_SECONDS)

    async def _read_on(self, bounds: Bounds) -> None:
        turn = 0
        place = self._place_in(bounds)
        await self._forget(bounds)
        async with aclosing(self._driver.read(self.queue, place)) as pages:
            async for page in pages:
                self._failing = False
                for start in range(0, len(page.entries), FOLD_BATCH):
                    batch = page.entries[start : start + FOLD_BATCH]
                    self._take(batch)
                    turn += len(batch)
                    if turn >= FOLD_BATCH or self._has_much_unsaved():
                        turn = 0
                        self._wake()
                        await self._keep()
                self._upto, self._own = page.upto, max(self._own, page.own)
                self._wake()

    def _place_in(self, bounds: Bounds) -> Cursor:
        """Where to go on in the log as it is now."""
        if self._fold is None:
            start = bounds.first - 1
            checkpoint = Checkpoint(beginning(bounds.identity, start), start, start, {})
            self._fold, self._ring = Fold(checkpoint, self._retention), Ring(start)
            self._plan = Plan(self._fold.live, self._reply_within)
        place = self._fold.place
        if place.identity != bounds.identity:
            raise ResetRequired("other-log")
        if place.offset == bounds.first - 1 and bounds.identity is not None:
            return beginning(place.identity, place.offset)  # what could be compared is gone, and nothing was missed
        return place

    def _take(self, entries: list[Entry]) -> None:
        fold = self._get()
        heads = read_heads(entries)
        unknown = fold.unknown(heads)
        ended = self._table.known(unknown) if unknown else unknown
        shown, waiting = fold.take(entries, heads, ended, self._clock())
        self._ring.add(shown)
        for row in waiting:
            if not row.record.final:
                self._plan.add(row)
        self._waits += len(waiting)
        if fold.unreadable > self._told_unreadable:
            self._tell_unreadable(fold.unreadable)
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(SAVE_SECONDS, self._save_in_time)
        self._trim()

    def _tell_unreadable(self, number: int) -> None:
        now = time.monotonic()
        if now >= self._tell_unreadable_at:
            self._tell_unreadable_at = now + COMPLAINT_SECONDS
            logger.warning("%d entries in the log of %s are no events: skipped", number, self.queue)
            self._told_unreadable = number

    async def _watch(self) -> None:
        """See now and then what the server has trimmed, and what has become too old."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._notice(await self._look())
            except BrokerError as error:
                logger.debug("the bounds of the log of %s cannot be read: %s", self.queue, error)

    async def _notice(self, bounds: Bounds) -> None:
        if self._fold is not None and bounds.identity != self._fold.place.identity:
            self._throw_away("other-log")
            self._follow_anew()
        else:
            await self._forget(bounds)

    async def _forget(self, bounds: Bounds) -> None:
        """What the server has trimmed, and what has become too old."""
        fold = self._fold
        if fold is None:
            return
        trimmed = min(max(bounds.first - 1, fold.outlived(self._clock())), fold.place.offset)
        for step in fold.steps(trimmed):
            if fold is self._fold and step > fold.trimmed:
                with self._asking():
                    self._save(step)
                await asyncio.sleep(0)

    # Keeping and forgetting

    def _resume(self) -> tuple[Fold | None, Plan]:
        """Runs in a thread, as it may be long."""
        saved = self._table.open()
        if saved is None:
            return None, Plan({}, None)
        fold = Fold(saved.checkpoint, self._retention, saved.live, saved.marks)
        plan = Plan(fold.live, self._reply_within)
        for row in saved.live:
            plan.add(row)
        return fold, plan

    def _has_much_unsaved(self) -> bool:
        fold = self._get()
        return len(fold.unsaved) + len(fold.refused) >= SAVE_ROWS

    async def _keep(self) -> None:
        """Let the event loop do something else between pieces of work, of which keeping what was folded is several."""
        await asyncio.sleep(0)
        if self._has_much_unsaved():
            self._save()
            await asyncio.sleep(0)
        if self._table.should_commit:
            self._table.commit()
            await asyncio.sleep(0)
            self._table.checkpoint()
            await asyncio.sleep(0)

    def _save(self, trimmed: int = 0) -> None:
        """What has changed; and forget what lies up to this offset. Raises `Damaged`."""
        fold = self._fold
        if fold is None or not (fold.unsaved or fold.refused or trimmed > fold.trimmed):
            return
        forgotten = self._table.save(fold, trimmed)
        fold.saved()
        if trimmed > fold.trimmed:
            fold.trim(trimmed, forgotten)
            self._ring.forget(trimmed)

    def _save_in_time(self) -> None:
        self._saving = None
        with suppress(BrokerUnavailable), self._asking() as table:
            self._save()
            table.commit()

    def _trim(self) -> None:
        fold = self._fold
        if fold is not None and (trimmed := fold.outlived(self._clock())) > fold.trimmed:
            with self._asking():
                self._save(trimmed)

    @contextmanager
    def _asking(self) -> Iterator[Table]:
        """What is asked of the table fails for now where that is damaged, and all is folded again."""
        try:
            yield self._table
        except Damaged as error:
            self._replace_table(error)
            self._follow_anew()
            raise BrokerUnavailable(f"the log of {self.queue} is being folded again") from error

    def _replace_table(self, error: Damaged) -> None:
        logger.warning("%s; the log of %s is folded again", error, self.queue)
        self._rebuild(damaged=True)

    def _rebuild(self, *, damaged: bool = False) -> None:
        """Fold the same log again: readers wait until it has come to where they are."""
        self._table.renew(damaged=damaged)
        self._fold = None
        self._upto, self._own = -1, 0
        self._beginnings += 1
        self._wake()

    def _throw_away(self, reason: str) -> None:
        """The log is not the one any more that was folded."""
        logger.warning("the log of %s cannot be followed (%s) and is folded anew", self.queue, reason)
        # The numbers of a log with an identity end with it.
        own = 0 if reason == "other-log" else self._own
        self._rebuild()
        self._own = own
        self._resets.append(reason)
        self._wake()

    def _follow_anew(self) -> None:
        if self._follower is not None and not self._stopped:
            self._follower.cancel()
            self._follower = asyncio.create_task(self._follow(), name=f"queuecast projection {self.queue}")

    def _get(self) -> Fold:
        if self._stopped:
            raise BrokerUnavailable("the broker is closed")
        if self._fold is None:
            raise BrokerUnavailable(f"the log of {self.queue} has not been read yet")
        return self._fold

    def _wake(self) -> None:
        """Wake everyone who waits now; whoever waits later waits for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self) -> None:
        if not self._stopped:
            await self._changed.wait()
        if self._stopped:
            raise BrokerUnavailable("the broker is closed")


class Look:
    """Asks for a log's bounds as they are now. Those who ask while one look is under way share the next one."""

    def __init__(self, driver: Driver, queue: str) -> None:
        self._driver = driver
        self._queue = queue
        self._turn = asyncio.Lock()
        self._begun = 0
        self._seen: tuple[int, Bounds] | None = None
        """The newest bounds, with the number of the look that brought them."""

    async def __call__(self) -> Bounds:
        """Raises `BrokerError`."""
        wanted = self._begun + 1
        async with self._turn:
            if self._seen is None or self._seen[0] < wanted:
                self._begun += 1
                number = self._begun
                self._seen = number, await self._driver.bounds(self._queue)
            return self._seen[1]


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
