"""What the fold made of one log, in a private SQLite file that may be thrown away at any time.

Nothing is ever synced: a kill undoes no commit, and a file that an outage of the machine may have torn is not used
(`_BOOT`). A file that is damaged, another program's, or of another version is deleted and begun anew.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from ...lifecycle import LIVE, Record
from ...task import STATES, State
from .fold import Checkpoint, Fold, Mark
from .row import Row

logger = logging.getLogger(__name__)

VERSION: Final = 2
"""Of the tables and of what the fold decides. Raise it with either: files of another one are thrown away."""

CACHE_KIB: Final = 16_000
"""Page cache of one log's file, filled only as needed: the hot end of the indexes of a million tasks."""

WAL_PAGES: Final = 4_000
"""Pages in the write-ahead log, about 16 MB, after which a commit copies them into the file where nobody has."""

COMMIT_ROWS: Final = 8_000
"""Rows in a transaction. Every page is written once in each, however many rows are new on it."""

DAMAGED_AGAIN_SECONDS: Final = 600.0
"""A file that fails a second time within so long will fail again (a full disk): go on in memory."""

ASKED_AT_ONCE: Final = 256
"""Ids in one question."""

SAVED_AT_ONCE: Final = 100
"""Tasks in one statement, where there are so many: a fifth less work than one by one."""

SCHEMA: Final = """
-- A row's key is its first event, so that rows lie in the order of submission. `id` is 16 bytes for a UUID. `live`
-- holds what only a task that has not ended needs.
CREATE TABLE task (
    first INTEGER PRIMARY KEY,
    id NOT NULL,
    name TEXT NOT NULL,
    owner TEXT,
    state INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    last INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    fingerprint BLOB,
    live BLOB
);
CREATE UNIQUE INDEX task_id ON task (id);
CREATE INDEX task_owner ON task (owner) WHERE owner IS NOT NULL;
CREATE INDEX task_ended ON task (last) WHERE live IS NULL;
CREATE INDEX task_state ON task (state);

CREATE TABLE refused (offset INTEGER PRIMARY KEY);
CREATE TABLE mark (offset INTEGER PRIMARY KEY, time TEXT NOT NULL, size INTEGER NOT NULL);
CREATE TABLE checkpoint (only INTEGER PRIMARY KEY CHECK (only = 1), body BLOB NOT NULL);
CREATE TABLE stamp (boot TEXT NOT NULL);
"""


def _saving(rows: int) -> str:
    """The statement that saves so many tasks."""
    values = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"] * rows)
    return (
        f"INSERT INTO task VALUES {values} ON CONFLICT (first) DO UPDATE SET name = excluded.name, "
        "state = excluded.state, attempt = excluded.attempt, last = excluded.last, digest = excluded.digest, "
        "live = excluded.live"
    )


_SAVE: Final = _saving(1)
_SAVE_MANY: Final = _saving(SAVED_AT_ONCE)
_COLUMNS: Final = "first, id, name, owner, state, attempt, last, digest, fingerprint, live"


class Damaged(Exception):
    """The file cannot be used: `renew` and fold the log again."""


class Saved(NamedTuple):
    """What a file holds of a log."""

    checkpoint: Checkpoint
    live: list[Row]
    marks: list[Mark]


class _Live(Struct, frozen=True, array_like=True):
    """What a row has more while its task lives."""

    record: Record
    time: str
    delay: float
    expires_at: str | None


_encode: Final = msgspec.msgpack.encode
_live: Final = msgspec.msgpack.Decoder(_Live).decode
_checkpoint: Final = msgspec.msgpack.Decoder(Checkpoint).decode


class Table:
    """One log's file. May be used from any thread, but from one at a time; all but `open` raise `Damaged`."""

    def __init__(self, file: Path | None) -> None:
        """Without a file all is kept in memory."""
        self._file = file
        self._db: sqlite3.Connection | None = None
        self._uncommitted = 0
        self._newest: str | None = None
        """No UUIDv7 after this one is in it; None where that is not known."""
        self._damaged_at = -inf

    def open(self) -> Saved | None:
        """What the file holds; None where it is begun anew."""
        try:
            return self._open()
        except Damaged as error:
            logger.info("%s; it is begun anew", error)
            self.renew()
            return None

    def renew(self, *, damaged: bool = False) -> None:
        """Delete the file and begin anew; in memory where that fails, or where it is damaged again."""
        now = time.monotonic()
        self.close()
        try:
            if damaged and now - self._damaged_at < DAMAGED_AGAIN_SECONDS:
                raise Damaged(f"{self._file} has failed twice")
            self._remove()
            self._open()
        except (Damaged, OSError) as error:
            logger.warning("what queuecast knows of a log is kept in memory now: %s", error)
            self.close()
            with suppress(OSError):
                self._remove()
            self._file = None
            self._open()
        if damaged:
            self._damaged_at = now

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    # Writing

    def save(self, fold: Fold) -> None:
        """Write what has changed since the last save. A kill undoes it until `commit`."""
        rows = [_row_values(row) for row in fold.unsaved.values()]
        with self._writing() as db:
            many = len(rows) - len(rows) % SAVED_AT_ONCE
            for start in range(0, many, SAVED_AT_ONCE):
                db.execute(_SAVE_MANY, [*chain.from_iterable(rows[start : start + SAVED_AT_ONCE])])
            db.executemany(_SAVE, rows[many:])
            db.executemany("INSERT INTO refused VALUES (?)", [(offset,) for offset in fold.refused])
            db.executemany("INSERT INTO mark VALUES (?, ?, ?)", fold.new_marks)
            db.execute("INSERT OR REPLACE INTO checkpoint VALUES (1, ?)", (_encode(fold.checkpoint),))
        self._uncommitted += len(rows) + len(fold.refused)
        if self._newest is not None:
            self._newest = max([self._newest, *filter(_is_in_order, fold.unsaved)])

    def forget(self, trimmed: int) -> Mapping[State, int]:
        """Forget what had ended by this offset: how many in which state. Save what follows from it next."""
        with self._writing() as db:
            return _forget(db, trimmed)

    @property
    def should_commit(self) -> bool:
        return self._uncommitted >= COMMIT_ROWS

    def commit(self) -> None:
        """From here on only an outage of the machine undoes what was saved."""
        with self._working() as db:
            if db.in_transaction:
                db.execute("COMMIT")
        self._uncommitted = 0

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the file, after a large commit."""
        with self._working() as db:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    # Asking

    def row(self, id: str) -> Row | None:
        with self._working() as db:
            found = db.execute(f"SELECT {_COLUMNS} FROM task WHERE id = ?", (_key(id),)).fetchone()
            return None if found is None else _row(found)

    def known(self, ids: Collection[str]) -> set[str]:
        """Which of these it holds."""
        newest = self._newest
        keys = {_key(id): id for id in ids if newest is None or id <= newest or not _is_in_order(id)}
        asked = list(keys)
        found: set[str] = set()
        if not asked:
            return found
        with self._working() as db:
            for start in range(0, len(asked), ASKED_AT_ONCE):
                some = asked[start : start + ASKED_AT_ONCE]
                holes = ", ".join("?" * len(some))
                found.update(keys[key] for (key,) in db.execute(f"SELECT id FROM task WHERE id IN ({holes})", some))
        return found

    def page(self, *, state: State | None, owner: str | None, before: str | None, limit: int) -> list[Row]:
        """Newest first, before the task `before`, which is not among them."""
        conditions, parameters = ["first < ?"], [self._first_of(before)]
        if state is not None:
            conditions.append(f"state = {STATES.index(state)}")
        if owner is not None:
            conditions.append("owner = ?")
            parameters.append(owner)
        index = "INDEXED BY task_owner" if owner is not None else ""
        sql = f"SELECT {_COLUMNS} FROM task {index} WHERE {' AND '.join(conditions)} ORDER BY first DESC LIMIT ?"
        with self._working() as db:
            return [_row(found) for found in db.execute(sql, (*parameters, limit))]

    def refused(self, first: int, last: int) -> set[int]:
        """Offsets that the fold refused, from `first` to `last`."""
        with self._working() as db:
            return {
                offset
                for (offset,) in db.execute("SELECT offset FROM refused WHERE offset BETWEEN ? AND ?", (first, last))
            }

    def _first_of(self, id: str | None) -> Any:
        if id is None:
            return _ENDLESS
        row = self.row(id)
        return 0 if row is None else row.first

    # The file

    def _open(self) -> Saved | None:
        if self._file is not None and not self._file.exists():
            self._create(self._file)
        self._db = sqlite3.connect(
            self._file or ":memory:", isolation_level=None, check_same_thread=False, cached_statements=512
        )
        self._uncommitted, self._newest = 0, None
        with self._working() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=OFF")
            db.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
            db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if not tables:
                db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
                db.execute("INSERT INTO stamp VALUES (?)", (_BOOT,))
                self._newest = ""
                return None
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version != VERSION:
                raise Damaged(f"{self._file} is of version {version}, and this program's is {VERSION}")
            if db.execute("SELECT boot FROM stamp").fetchone() != (_BOOT,):
                raise Damaged(f"{self._file} is older than the machine's last start")
            return _read_saved(db)

    def _create(self, file: Path) -> None:
        try:
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise Damaged(f"{file} cannot be made: {error.strerror}") from error

    def _remove(self) -> None:
        if self._file is not None:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._file}{suffix}").unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._working() as db:
            if not db.in_transaction:
                db.execute("BEGIN")
            yield db

    @contextmanager
    def _working(self) -> Iterator[sqlite3.Connection]:
        if self._db is None:
            raise Damaged(f"{self._file} is closed")
        try:
            yield self._db
        except (sqlite3.Error, msgspec.MsgspecError, ValueError, IndexError, TypeError) as error:
            raise Damaged(f"{self._file} cannot be used: {error}") from error


def _read_saved(db: sqlite3.Connection) -> Saved | None:
    found = db.execute("SELECT body FROM checkpoint").fetchone()
    if found is None:
        return None
    states = ", ".join(str(STATES.index(state)) for state in LIVE)
    live = db.execute(f"SELECT {_COLUMNS} FROM task WHERE state IN ({states})")
    marks = db.execute("SELECT offset, time, size FROM mark ORDER BY offset")
    return Saved(_checkpoint(found[0]), [_row(values) for values in live], [Mark(*values) for values in marks])


def _forget(db: sqlite3.Connection, trimmed: int) -> dict[State, int]:
    forgotten: dict[State, int] = {}
    for (state,) in db.execute("DELETE FROM task WHERE last <= ? AND live IS NULL RETURNING state", (trimmed,)):
        forgotten[STATES[state]] = forgotten.get(STATES[state], 0) + 1
    db.execute("DELETE FROM refused WHERE offset <= ?", (trimmed,))
    (begun,) = db.execute("SELECT max(offset) FROM mark WHERE offset <= ?", (trimmed + 1,)).fetchone()
    if begun is not None:
        db.execute("DELETE FROM mark WHERE offset < ?", (begun,))
    return forgotten


def _row_values(row: Row) -> tuple[Any, ...]:
    row.seal()
    record = row.record
    fingerprint = None if row.fingerprint is None else row.fingerprint.encode()
    live = None if record.final else _encode(_Live(record, row.time, row.delay, row.expires_at))
    state = _NUMBERS[record.state]
    key = _key(row.id)
    return row.first, key, row.name, row.owner, state, record.attempt, row.last, row.check, fingerprint, live


def _row(values: Sequence[Any]) -> Row:
    first, key, name, owner, state, attempt, last, check, fingerprint, live = values
    id = key if isinstance(key, str) else _id(key)
    fingerprint = None if fingerprint is None else fingerprint.decode()
    if live is None:
        return Row(id, name, owner, first, last, Record(STATES[state], attempt), fingerprint=fingerprint, check=check)
    more = _live(live)
    return Row(id, name, owner, first, last, more.record, more.time, more.delay, more.expires_at, fingerprint, check)


def _is_in_order(id: str) -> bool:
    """Whether it is, or looks like, a UUIDv7: those that are made later sort after it."""
    return len(id) == 36 and id[14] == "7"


def _key(id: str) -> bytes | str:
    """A UUID as its sixteen bytes; what is written in any other way stays text."""
    if len(id) != 36 or id[8:24:5] != "----":
        return id
    digits = id.replace("-", "")
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        return id
    return raw if raw.hex() == digits else id


def _id(raw: bytes) -> str:
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _boot() -> str:
    """Names this run of the machine; "" where the system does not tell."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


_BOOT: Final = _boot()
_NUMBERS: Final[Mapping[State, int]] = {state: number for number, state in enumerate(STATES)}
_ENDLESS: Final = (1 << 63) - 1
"""Beyond every offset."""
