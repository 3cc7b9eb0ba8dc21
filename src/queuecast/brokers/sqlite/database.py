"""The tables, opening a connection to them, and SQLite's errors in our own words."""

from __future__ import annotations

import secrets
import sqlite3
from typing import Final

from ...errors import BrokerError, BrokerUnavailable, ConfigurationError, StorageFull
from ...task import FINAL_STATES, STATES
from .place import Place

OLDEST_SQLITE: Final = (3, 37, 0)
"""STRICT tables. What Python 3.11 comes with is newer nearly everywhere."""

APPLICATION: Final = 0x71636173
"""`PRAGMA application_id`: tells our files from any other program's ("qcas")."""

VERSION: Final = 2
"""Of the tables. A file of a newer one is refused, since this program would not keep its rules; one of an older one is
brought up to this by `UPGRADES`."""

OFFSET_BITS: Final = 40
"""A position is `queue number << 40 | offset`: a million million events a queue, eight million queues."""

BUSY_SECONDS: Final = 5.0
"""How long a statement waits for a foreign program's lock; then the operation fails as `BrokerUnavailable`."""

CACHE_KIB: Final = 8_000
"""Page cache of one connection, filled only as needed."""

WAL_KEPT_BYTES: Final = 64 << 20
"""A write-ahead log that once grew beyond this is cut back to it. Below, it keeps its size: syncing bytes that
replace others takes half the time of syncing a file that grows (0.16 and 0.35 ms on ext4)."""

FINAL: Final = ", ".join(f"'{state}'" for state in sorted(FINAL_STATES))

_COUNTS: Final = ", ".join(f"{state} INTEGER NOT NULL DEFAULT 0" for state in STATES)

SCHEMA: Final = f"""
-- Every queue's log and the control log. `head` is the last offset given, `trimmed` the last that is gone, `oldest`
-- when the first event kept was appended. The states count tasks, so that nobody has to count a million rows.
CREATE TABLE queue (
    no INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    identity TEXT NOT NULL,
    head INTEGER NOT NULL DEFAULT 0,
    trimmed INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    oldest REAL,
    {_COUNTS}
) STRICT;

CREATE TABLE event (pos INTEGER PRIMARY KEY, at REAL NOT NULL, body BLOB NOT NULL) STRICT;

-- `pos` is the position of the task's first event, so rows lie in the order of submission. From `state` to `losses`
-- it is the fold's record. `due` is when the task may be delivered next: NULL while it is held and once it has ended.
-- `claim` is `token.number` of who holds it, or of a holder that died. `expires` is NULL once that is decided.
CREATE TABLE task (
    pos INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    owner TEXT,
    body BLOB NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    run TEXT,
    seq INTEGER NOT NULL,
    earlier TEXT,
    alone INTEGER NOT NULL,
    losses INTEGER NOT NULL,
    next_attempt INTEGER NOT NULL,
    due REAL,
    claim TEXT,
    expires REAL,
    last INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX task_id ON task (queue, id);
CREATE INDEX task_due ON task (queue, due) WHERE due IS NOT NULL;
CREATE INDEX task_claim ON task (claim) WHERE claim IS NOT NULL;
CREATE INDEX task_expires ON task (expires) WHERE expires IS NOT NULL;
CREATE INDEX task_owner ON task (queue, owner) WHERE owner IS NOT NULL;
CREATE INDEX task_state ON task (queue, state);

-- The processes that hold tasks; `until` is the end of their lease by the machine's monotonic clock.
CREATE TABLE holder (token TEXT PRIMARY KEY, until REAL NOT NULL) STRICT, WITHOUT ROWID;

-- `batch` names the last transaction, to find out whether a COMMIT that failed has landed; `load` estimates the pages
-- in the write-ahead log.
CREATE TABLE marker (batch TEXT NOT NULL, load INTEGER NOT NULL) STRICT;
INSERT INTO marker VALUES ('', 0);

-- For people.
CREATE VIEW events AS
    SELECT name AS queue, pos & {(1 << OFFSET_BITS) - 1} AS offset,
        strftime('%Y-%m-%dT%H:%M:%fZ', at, 'unixepoch') AS at, CAST(body AS TEXT) AS body
    FROM event JOIN queue ON no = pos >> {OFFSET_BITS};
CREATE VIEW tasks AS
    SELECT queue.name AS queue, task.id, task.name, task.state, attempt, owner, claim,
        strftime('%Y-%m-%dT%H:%M:%fZ', due, 'unixepoch') AS due
    FROM task JOIN queue ON no = task.queue;
"""

UPGRADES: Final[dict[int, str]] = {
    1: "CREATE INDEX task_state ON task (queue, state); DROP INDEX task_ended_badly;",
}
"""What makes of a version's tables the next one's."""


def position(queue: int, offset: int) -> int:
    return queue << OFFSET_BITS | offset


def offset_of(position: int) -> int:
    return position & (1 << OFFSET_BITS) - 1


def new_token() -> str:
    """Names a process's broker, or a log: eight hex digits."""
    return secrets.token_hex(4)


def connect(place: Place, *, writes: bool = False) -> sqlite3.Connection:
    """Raises `sqlite3.Error`. May be used from any thread, but from one at a time."""
    db = sqlite3.connect(place.file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        # Checkpoints are made under the turn only: in SQLite before 3.51.3 one that meets a commit of another
        # connection can corrupt the file (sqlite.org/wal.html, "the WAL-reset bug").
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        db.execute(f"PRAGMA journal_size_limit={WAL_KEPT_BYTES}")
        db.execute(f"PRAGMA query_only={int(not writes)}")
    except sqlite3.Error:
        db.close()
        raise
    return db


def open_database(place: Place) -> sqlite3.Connection:
    """The writing connection, its tables made where the file is new. Needs the turn.

    Raises `ConfigurationError` with what to do when this file can never be ours, `BrokerUnavailable`.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old; queuecast needs 3.37 or newer")
    db = None
    try:
        place.create()
        db = connect(place, writes=True)
        _prepare(db, place)
    except BaseException as error:
        if db is not None:
            db.close()
        if isinstance(error, sqlite3.Error):
            raise _opening(error, place) from error
        if isinstance(error, OSError):
            raise ConfigurationError(f"cannot create {place.file}: {error.strerror}") from error
        raise
    return db


def _prepare(db: sqlite3.Connection, place: Place) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application != APPLICATION:
        raise ConfigurationError(f"{place.file} is another program's database: choose another file")
    if version > VERSION:
        raise ConfigurationError(
            f"{place.file} was written by a newer queuecast (tables {version}, this one knows {VERSION}): upgrade"
        )
    (mode,) = db.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise ConfigurationError(f"{place.file} cannot have a write-ahead log here: put it on a local disk")
    if not tables:
        _change(db, f"{SCHEMA} PRAGMA application_id={APPLICATION};")
    elif version < VERSION:
        _change(db, " ".join(UPGRADES[each] for each in range(version, VERSION)))


def _change(db: sqlite3.Connection, statements: str) -> None:
    """All of it or nothing."""
    db.executescript(f"BEGIN IMMEDIATE; {statements} PRAGMA user_version={VERSION}; COMMIT;")


def _opening(error: sqlite3.Error, place: Place) -> Exception:
    hopeless = {
        sqlite3.SQLITE_NOTADB: "is not a SQLite database; it is left as it is: choose another file",
        sqlite3.SQLITE_CANTOPEN: "cannot be opened by this user: check the file's owner and mode",
        sqlite3.SQLITE_READONLY: "cannot be written by this user: check the file's owner and mode",
        sqlite3.SQLITE_PERM: "cannot be used by this user: check the file's owner and mode",
        sqlite3.SQLITE_CORRUPT: "is damaged: restore it from a backup, or move it away to begin anew",
    }
    text = hopeless.get(_primary(error))
    return ConfigurationError(f"{place.file} {text}") if text else translated(error)


def translated(error: sqlite3.Error) -> BrokerError:
    """SQLite's error where nothing was written."""
    # A quota or a file-size limit shows as a failed write.
    if _primary(error) == sqlite3.SQLITE_FULL or _code(error) == sqlite3.SQLITE_IOERR_WRITE:
        return StorageFull(f"no room for the database: {error}")
    return BrokerUnavailable(f"SQLite: {error}")


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", None) or 0


def _primary(error: sqlite3.Error) -> int:
    return _code(error) & 0xFF
