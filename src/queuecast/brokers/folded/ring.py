"""The newest shown events of a log, in memory: whoever reads near the end reads here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter
from typing import Final

from ..base import Entry

RING_ENTRIES: Final = 20_000
"""Entries. At more, the older half goes; who has not read it yet reads the server's log."""

RING_BYTES: Final = 16 << 20
"""Bytes of bodies; the same."""

_offset: Final = itemgetter(0)


class Ring:
    """Holds everything that is shown after `start`: an older half, which goes as a whole, and a newer one that grows.

    So nothing is done for each entry, unless it is asked for.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self._older: list[Entry] = []
        self._newer: list[Entry] = []
        self._size = 0
        """Bytes of the newer half."""

    def add(self, entries: Sequence[Entry], size: int) -> None:
        """Entries with so many bytes together."""
        self._newer += entries
        self._size += size
        if len(self._newer) > RING_ENTRIES // 2 or self._size > RING_BYTES // 2:
            if self._older:
                self.start = self._older[-1].offset
            self._older, self._newer, self._size = self._newer, [], 0

    def forget(self, trimmed: int) -> None:
        """Drop what lies up to this offset."""
        for half in (self._older, self._newer):
            del half[: _place(half, trimmed)]
        self.start = max(self.start, trimmed)

    def after(self, offset: int, limit: int) -> list[Entry]:
        """What lies after an offset that is not before `start`."""
        place = _place(self._older, offset)
        found = self._older[place : place + limit]
        if len(found) < limit:
            place = _place(self._newer, offset)
            found += self._newer[place : place + limit - len(found)]
        return found

    def before(self, count: int) -> int | None:
        """The entry after which there are so many; None where it does not hold it."""
        for half in (self._newer, self._older):
            if count < len(half):
                return half[-count - 1].offset
            count -= len(half)
        return None

    def body(self, offset: int) -> bytes | None:
        found = self.after(offset - 1, 1)
        return found[0].body if found and found[0].offset == offset else None


def _place(entries: list[Entry], offset: int) -> int:
    """Of the first entry after an offset."""
    return bisect_right(entries, offset, key=_offset)
