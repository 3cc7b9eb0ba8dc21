"""One task as the projection knows it: the fold's record, where its events lie, and since when it waits."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from zlib import crc32

from msgspec import Struct

from ...cursor import Cursor, beginning
from ...lifecycle import Record
from ...task import State

WAITING: Final[frozenset[State]] = frozenset({"scheduled", "queued", "retrying"})


class Row(Struct, gc=False):
    """Of a task that has ended only what a list shows is kept; its record then holds the state and the attempt."""

    id: str
    name: str
    """"" while only outputs and results of it have been seen, as its beginning is gone."""
    owner: str | None
    first: int
    last: int
    """Offset of its last event."""
    record: Record
    time: str = ""
    """Of the event since which it waits: it was submitted, queued or given back."""
    delay: float = 0.0
    """Seconds after `time` until it is due."""
    expires_at: str | None = None
    fingerprint: str | None = None
    check: int = 0
    """Digest of its last event, as a number; of `body` where that is still here."""
    body: bytes | None = None
    """Its last event, until the row is saved."""

    @property
    def begun(self) -> bool:
        return self.record.run is not None

    def since(self) -> float | None:
        """POSIX time from which it could have been running, when it waited last; None where it was never seen to."""
        since = seconds_of(self.time)
        return None if since is None else since + self.delay

    def due(self) -> float | None:
        """The same while it waits; None while it runs and once it has ended."""
        return self.since() if self.record.state in WAITING else None

    def expires(self) -> float | None:
        """A task that has begun does not expire."""
        return None if self.expires_at is None or self.begun else seconds_of(self.expires_at)

    def seal(self) -> None:
        """Let go of the body, and keep its digest."""
        if self.body is not None:
            self.check, self.body = crc32(self.body), None

    def cursor(self, identity: str | None, trimmed: int) -> Cursor:
        """The place of its last event, or the log's beginning where that is gone."""
        if self.last <= trimmed:
            return beginning(identity, trimmed)
        check = self.check if self.body is None else crc32(self.body)
        return Cursor(identity, self.last, f"{check:08x}")


def seconds_of(time: str) -> float | None:
    """POSIX time of an event's; None where a foreign hand wrote no time there."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
