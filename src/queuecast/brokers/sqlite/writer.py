"""The one thread of a process that writes: everything that waits goes into one transaction.

It never waits in order to batch. While a transaction is being synced to the disk more operations come; together they
are the next one, so many callers share a sync and a lone one waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

from ...errors import BrokerError, BrokerUnavailable, OutcomeUnknown, QueuecastError
from ..base import Retention
from .database import connect, translated
from .demand import Delivered, Demand
from .desk import STUCK, Desk
from .duties import Duties
from .ledger import NEXT_DUE, Ledger
from .operations import Claim, Depart, Duty, Operation, Want, load_for
from .peers import Change, Peers, encode
from .place import DatabaseGoneError, Place
from .room import Room
from .store import Store

logger = logging.getLogger(__name__)

OPEN_SECONDS: Final = 10.0
"""How long opening and closing wait for the turn."""

MAX_BATCH: Final = 2_000
"""Operations in one transaction, so that other processes get their turn; the rest waits for the next."""

LOOK_SECONDS: Final = 1.0
"""How often a busy writer makes sure that its database is still where it was; one at rest does so with its duties."""

FIRST_PAUSE: Final = 0.05
MAX_PAUSE: Final = 2.0
"""Seconds before a failed transaction is tried again; each pause doubles, up to the second."""


@dataclass(slots=True)
class Outcome:
    """What the event loop has to be told of one transaction."""

    answers: list[tuple[Operation, Any]] = field(default_factory=list)
    """Each operation with its result, or with the exception that it raised."""
    deliveries: list[Delivered] = field(default_factory=list)
    grown: list[int] = field(default_factory=list)
    """The queues whose logs grew."""
    held: list[Claim] | None = None
    """After a renewal: every claim that this process still has."""
    lost_peer: bool = False
    """A process is gone, perhaps before it could wake anyone: look everywhere."""


@dataclass(slots=True)
class _Batch:
    """One transaction as it was made; it counts once it is committed."""

    ledger: Ledger
    duties: list[tuple[Duty, Any]]
    demand: Demand
    left: set[int]
    outcome: Outcome


class Writer:
    """Runs from `open` to `close`. `tell` is called in the event loop with each outcome, in order.

    `lost` is called there with the reason when the thread cannot go on; what it has is let go of at `close`.
    `token` names this process's broker among its peers, `syncs` is told in `Store`.
    """

    def __init__(
        self,
        place: Place,
        retention: Retention,
        token: str,
        *,
        syncs: bool,
        tell: Callable[[Outcome], None],
        lost: Callable[[str], None],
    ) -> None:
        self._store = Store(place, token, syncs=syncs)
        self.peers = Peers(place.folder, token)
        self._place = place
        self._retention = retention
        self._token = token
        self._tell = tell
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self.desk = Desk(self._loop, self.peers.ring)
        self._duties = Duties(token, self.peers.alive)
        self._demand = Demand()
        self._claims = 0
        self._kept: list[Operation] = []
        """What a worker handed over and could not be written yet."""
        self._pause = 0.0
        self._paused_until = 0.0
        self._look_at = 0.0
        self._room = Room(place.file)
        self._failure = ""
        """Why the thread cannot go on."""
        self._readers: list[sqlite3.Connection] = []
        self._opened: asyncio.Future[list[sqlite3.Connection]] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="queuecast sqlite", daemon=True)

    # In the event loop

    async def open(self) -> list[sqlite3.Connection]:
        """Two connections to read with. Raises `ConfigurationError`, `BrokerUnavailable`."""
        self._thread.start()
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                readers = await asyncio.shield(self._opened)
        except TimeoutError:
            self.desk.close()
            raise BrokerUnavailable(STUCK) from None
        if self._failure:
            self.desk.close()
            raise BrokerUnavailable(self._failure)
        return readers

    async def close(self) -> None:
        """Finish what was handed over, offer to others what is still held, and end."""
        self.desk.close()
        await asyncio.wait([self._ended], timeout=OPEN_SECONDS)

    def _give_up(self, error: Exception) -> None:
        """The thread cannot go on, and waits until nothing of what it has is used here any more."""
        reason = f"the thread that writes to {self._place.file} has ended: {error!r}"
        self._failure = reason = str(error) if isinstance(error, DatabaseGoneError) else reason
        self._lost(reason)
        self._tell(Outcome([(operation, OutcomeUnknown(reason)) for operation in self._kept]))
        self.desk.refuse(reason)

    def abandon(self) -> None:
        """In a forked child: let go of what is shared with the parent. SQLite's connections are left alone."""
        self.peers.let_go()
        self._store.turn.close()

    # In the thread

    def _run(self) -> None:
        try:
            if self._open():
                while not self.desk.closing.is_set() or self.desk.busy or self._kept:
                    self.desk.sleep(self._wait)
                    self._round()
                self._transact([Depart(self._token)], set())
        except Exception as error:
            if isinstance(error, DatabaseGoneError):
                logger.critical("%s", error)
            else:
                logger.exception("the thread that writes to %s has ended", self._place.file)
            self._in_loop(self._give_up, error)
            self.desk.closing.wait()
        finally:
            try:
                self._close()
            finally:
                self._in_loop(_resolve, self._ended, None)

    def _open(self) -> bool:
        try:
            with self._store.turn:
                self._store.open()
                self._readers = [connect(self._place) for _ in range(2)]
                self._duties.lost_peer |= self.peers.join()
        except sqlite3.Error as error:
            self._in_loop(_resolve, self._opened, translated(error))
        except Exception as error:
            self._in_loop(_resolve, self._opened, error)
        else:
            self._in_loop(_resolve, self._opened, self._readers)
            return True
        return False

    def _close(self) -> None:
        with self._store.turn:
            for db in self._readers:
                db.close()
            self._store.close()
            self.peers.leave()
        self._store.turn.close()

    def _wait(self) -> None:
        paused = self._paused_until - time.monotonic()
        seconds = paused if paused > 0 else min(self._duties.seconds(), self._demand.next_due() - time.time())
        self._duties.lost_peer |= self.peers.wait(seconds)

    def _round(self) -> None:
        """One transaction, if there is anything to write."""
        if self._look_at <= time.monotonic():
            self._store.look()
            self._look_at = time.monotonic() + LOOK_SECONDS
        if self.desk.greeted:
            self.desk.greeted = False
            self._duties.lost_peer |= self.peers.scan()
        looks = self.desk.looks() | self._demand.overdue(time.time())
        paused = self._paused_until > time.monotonic()
        duties = [] if paused else self._duties.due()
        if duties or self._duties.lost_peer:
            # Also for what was not seen: a look whose transaction failed, work left to a peer that stands still.
            looks |= self._demand.due.keys()
        if duties or self.desk.busy or (self._kept and not paused) or self._any_due(looks):
            self._transact(duties, looks)

    def _any_due(self, queues: set[int]) -> bool:
        """Look before taking the turn: of several processes that were woken one was faster."""
        try:
            for queue in queues & self._demand.due.keys():
                due = self._store.peek(NEXT_DUE, (queue,))
                self._demand.due[queue] = inf if due is None else due
        except BrokerError as error:
            self._failed(self._kept, error)
            return False
        return bool(self._demand.overdue(time.time()))

    def _transact(self, duties: Sequence[Duty], looks: set[int]) -> None:
        taken = [*self._kept]
        try:
            with self._store.turn:
                taken += self.desk.take(MAX_BATCH)
                if self._duties.lost_peer:
                    self.peers.bury()
                durable = any(operation.durable for operation in (*duties, *taken))
                batch = self._store.write(lambda db: self._make(db, duties, taken, looks), durable=durable)
        except DatabaseGoneError:
            raise
        except BrokerError as error:
            self._failed(taken, error)
        except Exception as error:
            logger.exception("a defect of queuecast; nothing of this was written")
            refusal = BrokerUnavailable(f"a defect of queuecast: {error!r}; nothing was written")
            self._failed(taken, refusal, again=False)
        else:
            self._committed(batch)
            self._store.tidy()
        self.desk.done()

    def _make(
        self, db: sqlite3.Connection, duties: Sequence[Duty], taken: Sequence[Operation], looks: set[int]
    ) -> tuple[_Batch, int]:
        ledger = Ledger(db, self._retention, time.time())
        demand = self._demand.copy()
        outcome = Outcome()
        if not self._duties.holds and any(isinstance(operation, Want) for operation in taken):
            duties = [self._duties.renewal(), *duties]
        done = [(duty, duty.run(ledger)) for duty in duties]
        load_for(taken, ledger)
        queues = set(looks)
        for operation in taken:
            outcome.answers.append((operation, _result(operation, ledger)))
            queues |= demand.heed(operation)
        ledger.flush()
        self._claims += 1
        outcome.deliveries, left = demand.serve(ledger, queues, f"{self._token}.{self._claims}")
        ledger.finish()
        outcome.grown = ledger.grown()
        return _Batch(ledger, done, demand, left, outcome), ledger.load

    def _committed(self, batch: _Batch) -> None:
        self._pause = 0.0
        self._kept = []
        self._demand = batch.demand
        outcome = batch.outcome
        outcome.lost_peer = self._duties.lost_peer
        outcome.held = self._duties.done(batch.duties, batch.ledger)
        if outcome.grown:
            self._room.grew(time.monotonic())
        changed = batch.left.union(outcome.grown)
        # The others first: once our own event loop is awake it wants this thread's processor.
        try:
            self.peers.tell(encode([Change(queue, queue in batch.left) for queue in changed]))
        except Exception:
            # It is committed, whoever hears of it.
            logger.exception("the other processes could not be woken")
        self._in_loop(self._tell, outcome)

    def _failed(self, taken: Sequence[Operation], error: BrokerError, *, again: bool = True) -> None:
        """Nothing was written. What a worker handed over is tried again while its patience lasts: the work is done.

        Not `again` after a defect, which would fail whatever shares its transaction; but a consumer is never forgotten.
        """
        now = time.monotonic()
        self._look_at = now
        self._room.failed(error, now)
        self._pause = min(MAX_PAUSE, self._pause * 2 or FIRST_PAUSE)
        self._paused_until = now + self._pause
        lasting = [each for each in taken if each.lasting and (again or each.patience == inf)]
        self._kept = [each for each in lasting if now < each.born + each.patience]
        refused = [(each, error) for each in taken if each not in self._kept]
        for each, _ in refused:
            each.give_up()
        if refused:
            self._in_loop(self._tell, Outcome(refused))

    def _in_loop(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            # The loop was closed without closing the broker.
            self.desk.close()


def _result(operation: Operation, ledger: Ledger) -> Any:
    try:
        return operation.run(ledger)
    except QueuecastError as refusal:
        return refusal


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
