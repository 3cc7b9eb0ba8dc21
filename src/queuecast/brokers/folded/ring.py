"""The newest shown events of a log, in memory: whoever reads near the end reads here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from ..base import Entry

RING_ENTRIES: Final = 20_000
"""Entries. At more, the older half goes; who has not read it yet reads the server's log."""

RING_BYTES: Final = 16 << 20
"""Bytes of bodies; the same."""


class Ring:
    """Holds everything that is shown after `start`."""

    def __init__(self, start: int) -> None:
        self.start = start
        self._entries: list[Entry] = []
        self._offsets: list[int] = []
        self._size = 0

    def add(self, entries: Sequence[Entry]) -> None:
        self._entries += entries
        self._offsets += [entry.offset for entry in entries]
        self._size += sum([len(entry.body) for entry in entries])
        while self._entries and (len(self._entries) > RING_ENTRIES or self._size > RING_BYTES):
            self._drop((len(self._entries) + 1) // 2)

    def forget(self, trimmed: int) -> None:
        """Drop what lies up to this offset."""
        self._drop(bisect_right(self._offsets, trimmed))
        self.start = max(self.start, trimmed)

    def after(self, offset: int, limit: int) -> list[Entry]:
        """What lies after an offset that is not before `start`."""
        index = bisect_right(self._offsets, offset)
        return self._entries[index : index + limit]

    def before(self, count: int) -> int | None:
        """The entry after which there are so many; None where it does not hold it."""
        return self._offsets[-count - 1] if count < len(self._offsets) else None

    def body(self, offset: int) -> bytes | None:
        index = bisect_right(self._offsets, offset) - 1
        return self._entries[index].body if index >= 0 and self._offsets[index] == offset else None

    def _drop(self, count: int) -> None:
        if count:
            self.start = max(self.start, self._offsets[count - 1])
            self._size -= sum([len(entry.body) for entry in self._entries[:count]])
            del self._entries[:count], self._offsets[:count]
