"""Reading: pages of a log, and what each task is now. Each read is short, so that the write-ahead log can be reused."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from math import inf
from typing import Any, Final, NamedTuple

from ...codec import decode_event, decode_task
from ...cursor import beginning, cursor_at
from ...errors import ResetRequired
from ...task import STATES, State, Task
from ..base import CONTROL, Bounds, Entry, Status, snapshot_of
from .database import OFFSET_BITS, offset_of, position

# CROSS JOIN keeps SQLite from beginning with the queue, which would need sorting.
_STATUS: Final = (
    "SELECT task.id, task.name, state, attempt, owner, pos, last, identity, trimmed, "
    f"(SELECT event.body FROM event WHERE event.pos = task.queue << {OFFSET_BITS} | last) "
    "FROM task {index} CROSS JOIN queue ON no = task.queue WHERE "
)

FEW: Final = 10_000
"""Tasks in a state that are all looked through for one owner's. Of more, the owner's are looked through instead."""


class Page(NamedTuple):
    """How much of a log is read at once. It ends after the entry that reaches `size`."""

    entries: int
    size: int


def page(db: sqlite3.Connection, queue: int, after: int, limit: Page) -> list[Entry]:
    """What lies after the offset; [] at the end of the log.

    Raises `ResetRequired`: "trimmed" or "ahead". Offsets are dense, so a gap tells what is gone.
    """
    rows = db.execute(
        "SELECT pos, body FROM event WHERE pos > ? AND pos < ? ORDER BY pos LIMIT ?",
        (position(queue, after), position(queue + 1, 0), limit.entries),
    )
    entries: list[Entry] = []
    size = 0
    for pos, body in rows:
        entries.append(Entry(offset_of(pos), body))
        size += len(body)
        if size >= limit.size:
            break
    rows.close()
    if not entries:
        _check_end(db, queue, after)
    elif entries[0].offset != after + 1:
        raise ResetRequired("trimmed")
    return entries


def _check_end(db: sqlite3.Connection, queue: int, after: int) -> None:
    head, trimmed = db.execute("SELECT head, trimmed FROM queue WHERE no = ?", (queue,)).fetchone()
    if after > head:
        raise ResetRequired("ahead")
    if after < trimmed:
        raise ResetRequired("trimmed")


def bounds(db: sqlite3.Connection, queue: int) -> Bounds:
    trimmed, head, identity = db.execute("SELECT trimmed, head, identity FROM queue WHERE no = ?", (queue,)).fetchone()
    return Bounds(trimmed + 1, head, identity)


def status(db: sqlite3.Connection, queue: int, name: str, id: str) -> Status | None:
    found = db.execute(_STATUS.format(index="") + "task.queue = ? AND task.id = ?", (queue, id)).fetchone()
    return _status(name, found) if found else None


def statuses(
    db: sqlite3.Connection,
    queue: int,
    name: str,
    *,
    state: State | None,
    owner: str | None,
    before: str | None,
    limit: int,
) -> list[Status]:
    """Newest first; both indexes lie in this order."""
    number = inf if state is None else counts(db)[name][state]
    index, conditions = "", ["task.queue = ?", "pos > ?", "pos < ?"]
    parameters: list[object] = [queue, position(queue, 0), _position_of(db, queue, before)]
    if state is not None:
        index = "INDEXED BY task_state"
        conditions.append("state = ?")
        parameters.append(state)
    if owner is not None:
        conditions.append("owner = ?")
        parameters.append(owner)
        if number > FEW:
            index = "INDEXED BY task_owner"
    sql = f"{_STATUS.format(index=index)} {' AND '.join(conditions)} ORDER BY pos DESC LIMIT ?"
    return [_status(name, row) for row in db.execute(sql, (*parameters, min(limit, number)))]


def _position_of(db: sqlite3.Connection, queue: int, id: str | None) -> int:
    """Where a page of a list that ended at this task goes on: before all where it is unknown, as it is the oldest."""
    if id is None:
        return position(queue + 1, 0)
    found = db.execute("SELECT pos FROM task WHERE queue = ? AND id = ?", (queue, id)).fetchone()
    return int(found[0]) if found else 0


def counts(db: sqlite3.Connection) -> Mapping[str, Mapping[State, int]]:
    rows = db.execute(f"SELECT name, {', '.join(STATES)} FROM queue WHERE name <> ?", (CONTROL,))
    return {name: dict(zip(STATES, numbers, strict=True)) for name, *numbers in rows}


def oldest_due(db: sqlite3.Connection, queue: int, now: float) -> float | None:
    (due,) = db.execute("SELECT min(due) FROM task WHERE queue = ? AND due <= ?", (queue, now)).fetchone()
    return None if due is None else float(due)


def load(db: sqlite3.Connection, queue: int, id: str) -> Task | None:
    found = db.execute("SELECT body FROM task WHERE queue = ? AND id = ?", (queue, id)).fetchone()
    return decode_task(found[0]) if found else None


def _status(queue: str, found: tuple[Any, ...]) -> Status:
    id, name, state, attempt, owner, pos, last, identity, trimmed, body = found
    progress = result = error = None
    if body is not None:
        progress, result, error = snapshot_of(decode_event(body))
    return Status(
        id=id,
        queue=queue,
        name=name,
        state=state,
        attempt=attempt,
        cursor=cursor_at(identity, last, body) if body is not None else beginning(identity, trimmed),
        first=offset_of(pos),
        owner=owner,
        progress=progress,
        result=result,
        error=error,
    )
