"""One queue's log on a server, folded in this process and kept: the half of a projection that writes.

A background task reads the raw log, refuses what the fold refuses, and keeps the newest events in a ring. All is
rebuilt from the log where its table cannot be used, or the log is not what it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Final

from ...cursor import Cursor, beginning
from ...errors import BrokerError, BrokerUnavailable, ResetRequired
from ..base import Bounds, Entry, Retention
from .agenda import Plan
from .driver import Driver
from .fold import Checkpoint, Fold
from .ring import Ring
from .table import Damaged, Table

logger = logging.getLogger(__name__)

FOLD_BATCH: Final = 1_000
"""Entries folded before the event loop does something else: about 3 ms."""

SAVE_ROWS: Final = 1_500
"""Tasks and refused offsets that wait to be saved at most: about 10 ms."""

SAVE_SECONDS: Final = 1.0
"""Seconds after which they are saved though they are few. After a kill, what they are made of is folded again."""

LOOK_SECONDS: Final = 30.0
"""How often the log's bounds are asked for, to see what the server has trimmed, and what has become too old."""

RETRY_SECONDS: Final = 0.5
"""Seconds after which the log is read again once that has failed."""

COMPLAINT_SECONDS: Final = 60.0
"""How often it is logged at most that entries are no events."""


class Folding:
    """Belongs to one event loop. What is no coroutine answers at once, of what is folded so far."""

    def __init__(
        self,
        driver: Driver,
        queue: str,
        retention: Retention,
        table: Table,
        *,
        reply_within: float | None,
        clock: Callable[[], float],
    ) -> None:
        self.ring = Ring(0)
        self.plan = Plan({}, None)
        self.upto = -1
        """Everything up to this offset is folded; there may be no event at it."""
        self.own = 0
        """The driver's appends up to this number are folded."""
        self.beginnings = 0
        """How often all was thrown away."""
        self.resets: list[str] = []
        """The reasons for which readers have to be told so."""
        self.waits = 0
        """How often a task has begun to wait."""
        self.look = Look(driver, queue)
        self._driver = driver
        self._queue = queue
        self._retention = retention
        self._table = table
        self._reply_within = reply_within
        self._clock = clock
        self._fold: Fold | None = None
        self._changed = asyncio.Event()
        self._stopped = False
        self._failing = False
        """It was told already that the log cannot be read."""
        self._opening: asyncio.Future[tuple[Fold | None, Plan]] | None = None
        self._follower: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._saving: asyncio.TimerHandle | None = None
        self._told_unreadable = 0
        self._tell_unreadable_at = 0.0

    # Its life

    async def start(self) -> None:
        """Begin to follow the log in the background, from where the table has got to."""
        self._opening = asyncio.ensure_future(asyncio.to_thread(self._resume))
        fold, self.plan = await asyncio.shield(self._opening)
        if fold is not None:
            self._fold, self.ring = fold, Ring(fold.place.offset)
        self._follower = asyncio.create_task(self._follow(), name=f"queuecast projection {self._queue}")
        self._watcher = asyncio.create_task(self._watch(), name=f"queuecast projection {self._queue}, bounds")

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
        if self._fold is not None:
            with suppress(Damaged):
                self.save()
                self._table.commit()
        self._fold = None
        self._table.close()

    # What others see of it

    @property
    def fold(self) -> Fold:
        """Raises `BrokerUnavailable` where nothing can be told."""
        if self._stopped:
            raise BrokerUnavailable("the broker is closed")
        if self._fold is None:
            raise BrokerUnavailable(f"the log of {self._queue} has not been read yet")
        return self._fold

    @property
    def can_tell(self) -> bool:
        """Not while it is folded from its beginning again. Once it has stopped, `fold` says so."""
        return self._fold is not None or self._stopped

    async def change(self) -> None:
        """Returns when something has changed. Raises `BrokerUnavailable`."""
        if not self._stopped:
            await self._changed.wait()
        if self._stopped:
            raise BrokerUnavailable("the broker is closed")

    async def reach(self, end: Bounds) -> bool:
        """Whether the log was folded as far as this, once it is; not where all was thrown away meanwhile."""
        beginnings = self.beginnings
        while (fold := self._fold) is None or fold.place.identity != end.identity or self.upto < end.last:
            await self.change()
            if beginnings != self.beginnings:
                return False
        return True

    @contextmanager
    def asking(self) -> Iterator[Table]:
        """What is asked of the table fails for now where that is damaged, and all is folded again."""
        try:
            yield self._table
        except Damaged as error:
            self._replace_table(error)
            self._follow_anew()
            raise BrokerUnavailable(f"the log of {self._queue} is being folded again") from error

    def save(self, trimmed: int = 0) -> None:
        """What has changed; and forget what lies up to this offset. Raises `Damaged`."""
        fold = self._fold
        if fold is None:
            return
        if fold.unsaved or fold.refused:
            self._table.save(fold)
            fold.saved()
        if trimmed > fold.trimmed:
            fold.trim(trimmed, self._table.forget(trimmed))
            self._table.save(fold)
            self.ring.forget(trimmed)

    def trim(self) -> None:
        """Show no more than is to be kept. Raises `BrokerUnavailable`."""
        fold = self._fold
        if fold is not None and (trimmed := fold.outlived(self._clock())) > fold.trimmed:
            with self.asking():
                self.save(trimmed)

    # Following

    async def _follow(self) -> None:
        while True:
            try:
                await self._read_on(await self.look())
            except ResetRequired as reset:
                self._throw_away(reset.reason)
            except BrokerError as error:
                if not self._failing:
                    logger.warning("the log of %s cannot be read, trying again: %s", self._queue, error)
                self._failing = True
            except Damaged as error:
                self._replace_table(error)
            except Exception:
                # A projection that ended would leave its readers with keepalives and never an event again.
                logger.exception("the log of %s cannot be folded; trying again from its beginning", self._queue)
                self._rebuild()
            await asyncio.sleep(RETRY_SECONDS)

    async def _read_on(self, bounds: Bounds) -> None:
        turn = 0
        place = self._place_in(bounds)
        await self._forget(bounds)
        async with aclosing(self._driver.read(self._queue, place)) as pages:
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
                self.upto, self.own = page.upto, max(self.own, page.own)
                self._wake()

    def _place_in(self, bounds: Bounds) -> Cursor:
        """Where to go on in the log as it is now."""
        if self._fold is None:
            start = bounds.first - 1
            checkpoint = Checkpoint(beginning(bounds.identity, start), start, start, {})
            self._fold, self.ring = Fold(checkpoint, self._retention), Ring(start)
            self.plan = Plan(self._fold.live, self._reply_within)
        place = self._fold.place
        if place.identity != bounds.identity:
            raise ResetRequired("other-log")
        if place.offset == bounds.first - 1 and bounds.identity is not None:
            return beginning(place.identity, place.offset)  # what could be compared is gone, and nothing was missed
        return place

    def _take(self, entries: list[Entry]) -> None:
        fold = self.fold
        taken = fold.take(entries, self._table.known, self._clock())
        self.ring.add(taken.shown, taken.size)
        for row in taken.waiting:
            if not row.record.final:
                self.plan.add(row)
        self.waits += len(taken.waiting)
        if fold.unreadable > self._told_unreadable:
            self._tell_unreadable(fold.unreadable)
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(SAVE_SECONDS, self._save_in_time)
        self.trim()

    def _tell_unreadable(self, number: int) -> None:
        now = time.monotonic()
        if now >= self._tell_unreadable_at:
            self._tell_unreadable_at = now + COMPLAINT_SECONDS
            logger.warning("%d entries in the log of %s are no events: skipped", number, self._queue)
            self._told_unreadable = number

    async def _watch(self) -> None:
        """See now and then what the server has trimmed, and what has become too old."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._notice(await self.look())
            except BrokerError as error:
                logger.debug("the bounds of the log of %s cannot be read: %s", self._queue, error)

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
                with self.asking():
                    self.save(step)
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
        fold = self.fold
        return len(fold.unsaved) + len(fold.refused) >= SAVE_ROWS

    async def _keep(self) -> None:
        """Let the event loop do something else between pieces of work, of which keeping what was folded is several."""
        await asyncio.sleep(0)
        if self._has_much_unsaved():
            self.save()
            await asyncio.sleep(0)
        if self._table.should_commit:
            self._table.commit()
            await asyncio.sleep(0)
            self._table.checkpoint()
            await asyncio.sleep(0)

    def _save_in_time(self) -> None:
        self._saving = None
        with suppress(BrokerUnavailable), self.asking() as table:
            self.save()
            table.commit()

    def _replace_table(self, error: Damaged) -> None:
        logger.warning("%s; the log of %s is folded again", error, self._queue)
        self._rebuild(damaged=True)

    def _rebuild(self, *, damaged: bool = False) -> None:
        """Fold the same log again: readers wait until it has come to where they are."""
        self._table.renew(damaged=damaged)
        self._fold = None
        self.upto, self.own = -1, 0
        self.beginnings += 1
        self._wake()

    def _throw_away(self, reason: str) -> None:
        """The log is not the one any more that was folded."""
        logger.warning("the log of %s cannot be followed (%s) and is folded anew", self._queue, reason)
        # The numbers of a log with an identity end with it.
        own = 0 if reason == "other-log" else self.own
        self._rebuild()
        self.own = own
        self.resets.append(reason)
        self._wake()

    def _follow_anew(self) -> None:
        if self._follower is not None and not self._stopped:
            self._follower.cancel()
            self._follower = asyncio.create_task(self._follow(), name=f"queuecast projection {self._queue}")

    def _wake(self) -> None:
        """Wake everyone who waits now; whoever waits later waits for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()


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
