"""One transaction: each row it touches is loaded once, the events are folded in order, what changed is written once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, NamedTuple

import msgspec

from ...codec import decode_task, encode_event
from ...cursor import Cursor, beginning, cursor_at
from ...event import ErrorInfo, Event, ended
from ...lifecycle import Record, apply
from ...task import STATES, State, Task
from ..base import CONTROL, Receipt, Retention
from .database import FINAL, new_token, offset_of, position

TRIM_STEP: Final = 1_000
"""Events trimmed from one log in one transaction; the rest follows in the next, so that others get their turn."""

PAGES_OF_A_COMMIT: Final = 8
"""Pages that the smallest transaction writes: the leaf of each table and index."""

PAGE_BYTES: Final = 4_096

NOT_BEGUN: Final[frozenset[State]] = frozenset({"scheduled", "queued"})
"""A task in one of these still expires; once it has run it is held to its retries."""

_QUEUE_COLUMNS: Final = ("no", "name", "identity", "head", "trimmed", "bytes", "oldest", *STATES)
_LOAD_QUEUE: Final = f"SELECT {', '.join(_QUEUE_COLUMNS)} FROM queue WHERE name = ?"
_SAVE_QUEUE: Final = (
    "UPDATE queue SET head = ?, trimmed = ?, bytes = ?, oldest = ?, "
    f"{', '.join(f'{state} = ?' for state in STATES)} WHERE no = ?"
)

_RECORD: Final = "state, attempt, run, seq, earlier, alone, losses"
_ROW: Final = f"pos, id, {_RECORD}, next_attempt, due, claim, expires, last"
_LOAD_ROWS: Final = f"SELECT {_ROW} FROM task WHERE queue = ? AND id IN (SELECT value FROM json_each(?))"

# Only numbers, `str` and `bytearray` reach SQLite as they are; for each None, bool and bytes Python's module looks for
# an adapter first, and finds none. So what is mostly NULL is written as '' or stands in the statement.
_TOLD: Final = "attempt = ?, run = nullif(?, ''), seq = ?, earlier = nullif(?, ''), alone = ?, losses = ?, last = ?"
_FOLDED: Final = f"state = ?, {_TOLD}"
_SAVE_TOLD: Final = f"UPDATE task SET {_TOLD} WHERE pos = ?"
_SAVE_RECORD: Final = f"UPDATE task SET {_FOLDED} WHERE pos = ?"
_SAVE_ROW: Final = f"UPDATE task SET {_FOLDED}, next_attempt = ?, due = ?, claim = ?, expires = ? WHERE pos = ?"
_LET_GO: Final = f"UPDATE task SET {_FOLDED}, due = NULL, claim = NULL, expires = NULL WHERE pos = ?"
_ADD_ROW: Final = (
    f"INSERT INTO task ({_RECORD}, last, next_attempt, due, expires, pos, queue, id, name, owner, body) "
    "VALUES (?, ?, nullif(?, ''), ?, nullif(?, ''), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, ''), ?)"
)

NEXT_DUE: Final = "SELECT due FROM task WHERE queue = ? AND due IS NOT NULL ORDER BY due LIMIT 1"


class Named(msgspec.Struct):
    """Of an event only whose it is."""

    id: str


_decode_named = msgspec.json.Decoder(Named).decode


@dataclass(slots=True)
class QueueRow:
    """One queue's row."""

    no: int
    name: str
    identity: str
    head: int = 0
    trimmed: int = 0
    bytes: int = 0
    oldest: float | None = None
    counts: dict[State, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    changed: bool = False
    grew: bool = False
    stirred: bool = False
    """A task of it was given another time to be delivered."""


class Row(msgspec.Struct, gc=False):
    """One task's row, without its body."""

    queue: QueueRow
    pos: int
    id: str
    record: Record
    next_attempt: int
    due: float | None
    claim: str | None
    expires: float | None
    last: int
    task: Task | None = None
    """Together with `body` while the row has yet to be inserted."""
    body: bytes = b""

    # SQLite renews every index on a column that is set, so what stayed as it is goes without.
    turned: bool = False
    """It is in another state."""
    moved: bool = False
    """It was given another place."""

    def folded(self) -> tuple[object, ...]:
        record = self.record
        return (
            record.state,
            record.attempt,
            record.run or "",
            record.seq,
            " ".join(record.earlier),
            int(record.alone),
            record.losses,
            self.last,
        )

    def let_go(self) -> bool:
        """Nobody holds it or waits for it any more."""
        return self.due is None and self.claim is None and self.expires is None

    def place(self) -> tuple[object, ...]:
        return self.next_attempt, self.due, self.claim, self.expires


class Whose(NamedTuple):
    """Of a task what an event says of it; from its row, as its body may be damaged."""

    id: str
    queue: str
    owner: str | None


class Claimed(NamedTuple):
    """A task as it is handed to a consumer. `claim` proves that this holder still has it."""

    task: Task
    attempt: int
    suspect: bool
    losses: int
    claim: str


class Ledger:
    """Lives as long as its transaction. `now` is POSIX time."""

    def __init__(self, db: sqlite3.Connection, retention: Retention, now: float) -> None:
        self.db = db
        self.now = now
        self.queues: dict[str, QueueRow] = {}
        self.load = PAGES_OF_A_COMMIT
        """An estimate of the pages this transaction adds to the write-ahead log."""
        self._retention = retention
        self._rows: dict[tuple[str, str], Row] = {}
        self._changed: dict[int, Row] = {}
        self._fresh: list[Row] = []
        self._entries: list[tuple[int, float, bytearray]] = []
        self.expires_next = inf
        """When the first of the tasks offered here expires."""
        self.behind = False
        """Some log still holds more than it should: trimming takes another transaction."""

    # What stands in the file

    def queue(self, name: str) -> QueueRow:
        """The queue of this name, made where there is none."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = self._load_queue(name) or self._add_queue(name)
        return queue

    def _load_queue(self, name: str) -> QueueRow | None:
        found = self.db.execute(_LOAD_QUEUE, (name,)).fetchone()
        if found is None:
            return None
        no, name, identity, head, trimmed, size, oldest, *counts = found
        return QueueRow(no, name, identity, head, trimmed, size, oldest, dict(zip(STATES, counts, strict=True)))

    def _add_queue(self, name: str) -> QueueRow:
        identity = new_token()
        added = self.db.execute("INSERT INTO queue (name, identity) VALUES (?, ?)", (name, identity))
        return QueueRow(added.lastrowid or 0, name, identity)

    def load_rows(self, wanted: Mapping[str, Iterable[str]]) -> None:
        """All rows that the transaction is going to ask for, by queue and id."""
        for name, ids in wanted.items():
            queue = self.queue(name)
            for found in self.db.execute(_LOAD_ROWS, (queue.no, msgspec.json.encode(list(ids)).decode())):
                row = _row(queue, found)
                self._rows[name, row.id] = row

    def row(self, name: str, id: str) -> Row | None:
        return self._rows.get((name, id))

    # What is done to it

    def log(self, queue: QueueRow, body: bytes) -> int:
        """Append to the log as it is; the new offset."""
        queue.head += 1
        queue.bytes += len(body)
        queue.changed = queue.grew = True
        if queue.oldest is None:
            queue.oldest = self.now
        self._entries.append((position(queue.no, queue.head), self.now, bytearray(body)))
        return queue.head

    def append(self, name: str, event: Event, body: bytes) -> None:
        """Fold the event in. What the fold refuses, and what belongs to no known task, never enters the log."""
        row = self._rows.get((name, event.id))
        record = apply(row.record, event) if row else None
        if row is None or record is None:
            return
        queue, before = row.queue, row.record.state
        if record.state != before:
            queue.counts[before] -= 1
            queue.counts[record.state] += 1
            row.turned = True
        row.last = self.log(queue, body)
        row.record = record
        if row.expires is not None and record.state not in NOT_BEGUN:
            row.expires, row.moved = None, True
        if row.due is not None and record.final:
            row.due, row.moved = None, True
        self._changed[row.pos] = row

    def task(self, name: str, id: str) -> Task | None:
        """The task as it was submitted."""
        row = self.row(name, id)
        if row is None:
            return None
        self.flush()
        (body,) = self.db.execute("SELECT body FROM task WHERE pos = ?", (row.pos,)).fetchone()
        return decode_task(body)

    def take(self, task: Task, body: bytes, event: Event, event_body: bytes) -> Receipt:
        """Add the task with its first event, or tell of the earlier one."""
        known = self.row(task.queue, task.id)
        if known is not None:
            return Receipt(task.id, known.record.state, self._cursor(known), created=False)
        record = apply(None, event)
        assert record is not None, "the first event of a task is always accepted"
        queue = self.queue(task.queue)
        first = self.log(queue, event_body)
        due = task.not_before or task.submitted_at
        pos = position(queue.no, first)
        row = Row(queue, pos, task.id, record, 1, due, None, task.expires_at, first, task, body)
        self._rows[task.queue, task.id] = row
        self._fresh.append(row)
        queue.counts[record.state] += 1
        self._offer(row)
        return Receipt(task.id, record.state, cursor_at(queue.identity, first, event_body), created=True)

    def fail(self, whose: Whose, error: ErrorInfo) -> None:
        """End a task that no run is going to end. Its row is loaded."""
        row = self.row(whose.queue, whose.id)
        attempt = row.next_attempt if row else 1
        event = ended(whose, "failed", self.now, attempt=attempt, error=error)
        self.append(whose.queue, event, encode_event(event))

    def settle(self, name: str, id: str, claim: str, due: float, attempt: int) -> None:
        """Let go of a task that this claim still holds; one that has not ended is delivered again at `due`."""
        row = self.row(name, id)
        if row is None or row.claim != claim:
            return
        row.claim, row.moved = None, True
        if not row.record.final:
            row.due, row.next_attempt = due, attempt
            self._offer(row)
        self._changed[row.pos] = row

    def _offer(self, row: Row) -> None:
        row.queue.stirred = True
        if row.expires is not None:
            self.look_for_expired(row.expires)

    def look_for_expired(self, at: float) -> None:
        self.expires_next = min(at, self.expires_next)

    def claim(self, queue: int, room: int, claim: str) -> list[Claimed]:
        """Up to `room` tasks that are due, in the order in which they became so. After `flush`.

        A claim is still there only where its holder died or stood still, and the task may be why, even when nothing
        of its run has reached the log. One that cannot be read goes to the dead letters: nobody could run it.
        """
        found = self.db.execute(
            "SELECT pos, id, owner, body, next_attempt, state = 'running' OR claim IS NOT NULL, "
            "losses + (state = 'running' AND alone) FROM task "
            "WHERE queue = ? AND due <= ? AND (expires IS NULL OR expires > ?) ORDER BY due, pos LIMIT ?",
            (queue, self.now, self.now, room),
        ).fetchall()
        claimed: list[Claimed] = []
        places: list[int] = []
        damaged: list[tuple[str, str | None, Exception]] = []
        for pos, id, owner, body, attempt, suspect, losses in found:
            try:
                claimed.append(Claimed(decode_task(body), attempt, bool(suspect), losses, claim))
                places.append(pos)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                damaged.append((id, owner, error))
        if claimed:
            self.db.execute(
                "UPDATE task SET claim = ?, due = NULL WHERE pos IN (SELECT value FROM json_each(?))",
                (claim, msgspec.json.encode(places).decode()),
            )
            self.load += len(claimed) // 8
        if damaged:
            self._bury(queue, damaged)
        return claimed

    def _bury(self, queue: int, damaged: Iterable[tuple[str, str | None, Exception]]) -> None:
        (name,) = self.db.execute("SELECT name FROM queue WHERE no = ?", (queue,)).fetchone()
        self.load_rows({name: [id for id, *_ in damaged]})
        for id, owner, error in damaged:
            self.fail(Whose(id, name, owner), ErrorInfo("undecodable", f"the stored task cannot be read: {error}"))
            if row := self.row(name, id):
                row.claim = None
        self.flush()

    def next_due(self, queue: int) -> float:
        """When a task of this queue can be delivered next, in the past when one can be now, infinity for never."""
        found = self.db.execute(NEXT_DUE, (queue,)).fetchone()
        return float(found[0]) if found else inf

    def grown(self) -> list[int]:
        """The queues whose logs this transaction made longer."""
        return [queue.no for queue in self.queues.values() if queue.grew]

    def stirred(self) -> set[int]:
        """The queues of which a task was given another time to be delivered."""
        return {queue.no for queue in self.queues.values() if queue.stirred}

    # Writing it back

    def flush(self) -> None:
        """Write what has changed so far; may be repeated."""
        # Tables in key order, each in one go: neighbours share their pages.
        for row in self._fresh:
            self._changed.pop(row.pos, None)
        self.db.executemany(_ADD_ROW, map(_new_columns, self._fresh))
        told, turned, moved, let_go = [], [], [], []
        for row in self._changed.values():
            if not row.moved and not row.turned:
                told.append((*row.folded()[1:], row.pos))
            elif not row.moved:
                turned.append((*row.folded(), row.pos))
            elif row.let_go():
                let_go.append((*row.folded(), row.pos))
            else:
                moved.append((*row.folded(), *row.place(), row.pos))
        self.db.executemany(_SAVE_TOLD, told)
        self.db.executemany(_SAVE_RECORD, turned)
        self.db.executemany(_SAVE_ROW, moved)
        self.db.executemany(_LET_GO, let_go)
        self.db.executemany("INSERT INTO event VALUES (?, ?, ?)", self._entries)
        written = sum(len(body) for *_, body in self._entries) + sum(len(row.body) for row in self._fresh)
        self.load += written // PAGE_BYTES + (len(self._fresh) + len(self._changed)) // 4
        for row in self._fresh:
            row.task = None
        self._fresh.clear()
        self._changed.clear()
        self._entries.clear()

    def finish(self) -> None:
        """Trim what is over the retention's bounds and write the queues back; the last step."""
        self.flush()
        for queue in self.queues.values():
            if self._over(queue, queue.bytes, queue.oldest):
                self._trim(queue)
                self.behind |= self._over(queue, queue.bytes, queue.oldest)
        self.db.executemany(
            _SAVE_QUEUE,
            [
                (queue.head, queue.trimmed, queue.bytes, queue.oldest, *queue.counts.values(), queue.no)
                for queue in self.queues.values()
                if queue.changed
            ],
        )

    def overdue(self) -> list[str]:
        """The queues that hold more than they should, once this transaction is done."""
        found = self.db.execute(
            "SELECT name FROM queue WHERE bytes > ? OR oldest < ?",
            (self._retention.size, self.now - self._retention.age),
        )
        return [name for (name,) in found]

    def _over(self, queue: QueueRow, size: int, oldest: float | None) -> bool:
        return oldest is not None and (size > self._retention.size or oldest < self.now - self._retention.age)

    def _trim(self, queue: QueueRow) -> None:
        first = position(queue.no, queue.trimmed + 1)
        events = self.db.execute(
            "SELECT pos, at, body FROM event WHERE pos BETWEEN ? AND ? ORDER BY pos LIMIT ?",
            (first, position(queue.no, queue.head), TRIM_STEP + 1),
        )
        gone: list[bytes] = []
        queue.oldest = None
        for pos, at, body in events:
            if len(gone) == TRIM_STEP or not self._over(queue, queue.bytes, at):
                queue.oldest = at
                break
            queue.trimmed = offset_of(pos)
            queue.bytes -= len(body)
            gone.append(body)
        events.close()
        queue.changed = True
        self.db.execute("DELETE FROM event WHERE pos BETWEEN ? AND ?", (first, position(queue.no, queue.trimmed)))
        if queue.name != CONTROL:
            self._forget(queue, {_decode_named(body).id for body in gone})

    def _forget(self, queue: QueueRow, ids: set[str]) -> None:
        """Finished tasks go with their last event."""
        forgotten = self.db.execute(
            f"DELETE FROM task WHERE queue = ? AND last <= ? AND state IN ({FINAL}) "
            "AND id IN (SELECT value FROM json_each(?)) RETURNING state",
            (queue.no, queue.trimmed, msgspec.json.encode(list(ids)).decode()),
        )
        for (state,) in forgotten.fetchall():
            queue.counts[state] -= 1

    def _cursor(self, row: Row) -> Cursor:
        self.flush()
        queue = row.queue
        found = self.db.execute("SELECT body FROM event WHERE pos = ?", (position(queue.no, row.last),)).fetchone()
        return cursor_at(queue.identity, row.last, found[0]) if found else beginning(queue.identity, queue.trimmed)


def _row(queue: QueueRow, found: tuple[Any, ...]) -> Row:
    pos, id, state, attempt, run, seq, earlier, alone, losses, next_attempt, due, claim, expires, last = found
    runs = tuple(earlier.split(" ")) if earlier else ()
    record = Record(state, attempt, run, seq, runs, bool(alone), losses)
    return Row(queue, pos, id, record, next_attempt, due, claim, expires, last)


def _new_columns(row: Row) -> tuple[object, ...]:
    task = row.task
    assert task is not None, "only a row that has yet to be inserted is fresh"
    return (
        *row.folded(),
        row.next_attempt,
        row.due,
        row.expires,
        row.pos,
        row.queue.no,
        task.id,
        task.name,
        task.owner or "",
        bytearray(row.body),
    )
