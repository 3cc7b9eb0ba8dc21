"""The writing connection: one transaction at a time, and the truth about each, also when COMMIT fails."""

from __future__ import annotations

import contextlib
import itertools
import logging
import sqlite3
from collections.abc import Callable
from typing import Any, Final, TypeVar

from ...errors import OutcomeUnknown, StorageFull
from .database import connect, open_database, translated
from .place import DatabaseGoneError, Place, Turn

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECKPOINT_PAGES: Final = 4_000
"""Pages in the write-ahead log, about 16 MB, after which they are copied into the database."""


class Store:
    """Belongs to one thread. Everything but `peek` and `tidy` needs the turn."""

    def __init__(self, place: Place, token: str, *, syncs: bool) -> None:
        """Where it never `syncs`, a power cut may undo every commit since the last checkpoint; a kill undoes none."""
        self.turn = Turn(place)
        self._place = place
        self._syncs = syncs
        self._markers = (f"{token}.{number}" for number in itertools.count())
        self._identity: list[object] | None = None
        self._db: sqlite3.Connection | None = None
        self._syncing: bool | None = None
        self._pages = 0

    def open(self) -> None:
        """Raises `ConfigurationError`, `BrokerUnavailable`."""
        self._db = open_database(self._place)
        self._identity = self._place.identity()

    def look(self) -> None:
        """Raises `DatabaseGoneError` where another file is where this one was opened, or none."""
        if self._identity is not None and self._identity != self._place.identity():
            raise DatabaseGoneError(self._place.file)

    def write(self, work: Callable[[sqlite3.Connection], tuple[T, int]], *, durable: bool) -> T:
        """Run `work` in one transaction; it returns its result and an estimate of the pages it wrote.

        Where not `durable`, a power cut may undo it. Raises `BrokerUnavailable` (nothing was written) or
        `OutcomeUnknown`.
        """
        try:
            db = self._connection()
            self._sync_at_commit(db, durable and self._syncs)
            changes = db.total_changes
            db.execute("BEGIN IMMEDIATE")
            result, pages = work(db)
            marker = self._mark(db, pages) if db.total_changes != changes else ""
            self._commit(db, marker)
        except BaseException as error:
            self._roll_back()
            refusal = translated(error) if isinstance(error, sqlite3.Error) else error
            if isinstance(refusal, StorageFull):
                self.checkpoint()
            raise refusal from (None if refusal is error else error)
        return result

    def tidy(self) -> None:
        """A checkpoint when it is time for one; after the last transaction was answered, as it takes a while."""
        if self._pages > CHECKPOINT_PAGES:
            with self.turn:
                self.checkpoint()

    def peek(self, sql: str, parameters: tuple[object, ...]) -> Any:
        """One value, read outside of any transaction. Raises `BrokerUnavailable`."""
        try:
            found = self._connection().execute(sql, parameters).fetchone()
        except sqlite3.Error as error:
            raise translated(error) from error
        return found[0] if found else None

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the database, as far as no reader needs it; what is left follows next time.

        The log keeps its size and is written again from its beginning, which also makes room on a full disk.
        """
        self._pages = 0
        if self._db is None:
            return
        try:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._db.execute("UPDATE marker SET load = 0")
        except sqlite3.Error as error:
            logger.info("the write-ahead log is not copied yet: %s", error)

    def close(self) -> None:
        """The last connection of all processes copies the write-ahead log and removes it."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            self.look()  # SQLite would make a new file where there is none.
            self._db = connect(self._place, writes=True)
            self._syncing = None
        return self._db

    def _sync_at_commit(self, db: sqlite3.Connection, wanted: bool) -> None:
        if wanted is not self._syncing:
            db.execute(f"PRAGMA synchronous={'FULL' if wanted else 'NORMAL'}")
            self._syncing = wanted

    def _mark(self, db: sqlite3.Connection, pages: int) -> str:
        marker = next(self._markers)
        (self._pages,) = db.execute(
            "UPDATE marker SET batch = ?, load = load + ? RETURNING load", (marker, pages)
        ).fetchone()
        return marker

    def _commit(self, db: sqlite3.Connection, marker: str) -> None:
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            refusal = translated(error)
            # Where a write failed the transaction's last page, which makes it valid, is not in the log.
            if isinstance(refusal, StorageFull) or not self._landed(marker):
                raise refusal from error

    def _landed(self, marker: str) -> bool:
        """Close, open anew and look.

        After a failed sync no connection may see the transaction, and yet it comes back when all processes die before
        the next one overwrites it. So another is written at once: only then is the answer true for good.
        """
        try:
            self.close()
            db = self._connection()
            self._sync_at_commit(db, wanted=True)
            (found,) = db.execute("SELECT batch FROM marker").fetchone()
            db.execute("UPDATE marker SET batch = ?", (next(self._markers),))
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self.close()
            raise OutcomeUnknown(f"SQLite failed in the middle of a commit: {error}") from error
        return bool(found == marker)

    def _roll_back(self) -> None:
        if self._db is None or not self._db.in_transaction:
            return
        try:
            self._db.execute("ROLLBACK")
        except sqlite3.Error:
            self.close()
