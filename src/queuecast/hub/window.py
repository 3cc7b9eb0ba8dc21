"""The window: the recent frames of one queue, or of several on one stream, ready to be written.

Frames are numbered by an index that only grows; the window holds those from `base` up to `end`. A subscription is
an index: everything before it has been written to its client.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

from ..brokers.base import Entry
from ..cursor import Cursor, cursor_at, format_vector, text_at
from .frame import Frame, event_frame, reset_frame
from .place import Place, text_of

MAX_FRAMES: Final = 10_000
"""Frames in a window. The oldest are dropped; who still needed them reads the log."""

MAX_BYTES: Final = 8 << 20
"""Bytes of frames in a window. The oldest are dropped likewise."""

SLACK_FRAMES: Final = 1_000
"""Frames over MAX_FRAMES before the oldest are dropped, so that it is done in blocks."""

CHUNK_BYTES: Final = 64 << 10
"""Bytes joined into one write, but at least one frame. The rest goes out in the next."""


class _Index:
    """Where one queue's entries stand in the window."""

    __slots__ = ("floor", "indexes", "offsets", "start")

    def __init__(self, start: int, floor: int) -> None:
        self.start = start
        """Offset before the first entry that the window holds."""
        self.floor = floor
        """Index of the first frame that may hold an entry of this log."""
        self.offsets: list[int] = []
        self.indexes: list[int] = []

    def add(self, offsets: list[int], index: int) -> None:
        """The first of them stands at `index`, the others right behind it."""
        self.offsets += offsets
        self.indexes += range(index, index + len(offsets))

    def drop_before(self, base: int) -> None:
        gone = bisect_left(self.indexes, base)
        if gone:
            self.start = self.offsets[gone - 1]
            del self.offsets[:gone]
            del self.indexes[:gone]

    def gap_after(self, offset: int, end: int) -> tuple[int, int]:
        """The indexes between the last entry up to this offset and the first one after it."""
        seen = bisect_right(self.offsets, offset)
        low = self.indexes[seen - 1] + 1 if seen else self.floor
        high = self.indexes[seen] if seen < len(self.indexes) else end
        return low, high


class Window:
    """Begins empty at a place, which `at` keeps up to date. `named` frames carry their event's type as a field."""

    def __init__(self, at: Place, named: bool = False) -> None:
        self.at = dict(at)
        self.queues = tuple(sorted(at))
        self.named = named
        self.base = 0
        self.end = 0
        self._frames: list[Frame] = []
        self._bytes = 0
        self._before = text_of(self.at)
        self._indexes = {queue: _Index(cursor.offset, 0) for queue, cursor in at.items()}
        self._joined: dict[tuple[int, int], tuple[bytes, int]] = {}

    def __repr__(self) -> str:
        return f"<Window {','.join(self.queues)} {self.base}..{self.end} at {text_of(self.at)}>"

    # What comes in, what goes

    def extend(self, queue: str, entries: Sequence[Entry]) -> None:
        """At least one entry."""
        identity = self.at[queue].identity
        alone = len(self.at) == 1
        frames = []
        for offset, body in entries:
            cursor = text_at(identity, offset, body)
            id = cursor if alone else format_vector({**self.at, queue: cursor})
            frames.append(event_frame(queue, body, cursor, id, self.named))
        self._indexes[queue].add([offset for offset, _ in entries], self.end)
        self._add(frames)
        self.at[queue] = cursor_at(identity, *entries[-1])

    def restart(self, queue: str, reason: str, at: Cursor) -> None:
        """The queue's log is another one from here on: everybody is told, in order, by a frame like any other."""
        asked = text_of(self.at)
        self.at[queue] = at
        id = text_of(self.at)
        self._add([Frame(reset_frame(reason, asked, id), queue, str(at), id)])
        self._indexes[queue] = _Index(at.offset, self.end)

    def _add(self, frames: list[Frame]) -> None:
        self._frames += frames
        self._bytes += sum(len(frame.data) for frame in frames)
        self._joined.clear()
        self.end += len(frames)

    def surplus(self) -> int:
        """How many of the oldest frames lie beyond the bounds."""
        count = len(self._frames)
        if count <= MAX_FRAMES + SLACK_FRAMES and self._bytes <= MAX_BYTES:
            return 0
        drop = max(0, count - MAX_FRAMES)
        size = self._bytes - sum(len(frame.data) for frame in self._frames[:drop])
        while size > MAX_BYTES and drop < count:
            size -= len(self._frames[drop].data)
            drop += 1
        return drop

    def drop(self, count: int) -> None:
        """Let the oldest frames go."""
        gone = self._frames[:count]
        del self._frames[:count]
        self._before = gone[-1].id
        self._bytes -= sum(len(frame.data) for frame in gone)
        self._joined.clear()
        self.base += count
        for index in self._indexes.values():
            index.drop_before(self.base)

    # What is read

    def frames(self, start: int, stop: int) -> list[Frame]:
        return self._frames[start - self.base : stop - self.base]

    def chunk(self, start: int, stop: int) -> tuple[bytes, int]:
        """Frames from `start` on, at most up to `stop` and about CHUNK_BYTES, as one piece; and where it ends.

        All who stand at the same index share the same bytes.
        """
        joined = self._joined.get((start, stop))
        if joined is None:
            pieces = []
            size = 0
            for frame in self.frames(start, stop):
                pieces.append(frame.data)
                size += len(frame.data)
                if size >= CHUNK_BYTES:
                    break
            joined = self._joined[start, stop] = b"".join(pieces), start + len(pieces)
        return joined

    def cursor(self, index: int) -> str:
        """The SSE id of a stream that has everything before this index."""
        return self._before if index == self.base else self._frames[index - self.base - 1].id

    def find(self, place: Place) -> int | None:
        """The index from which a stream at this place goes on; None where the window cannot tell."""
        low, high = self.base, self.end
        for queue, cursor in place.items():
            index, at = self._indexes[queue], self.at[queue]
            if cursor.identity != at.identity or not index.start <= cursor.offset <= at.offset:
                return None
            after, before = index.gap_after(cursor.offset, self.end)
            low, high = max(low, after), min(high, before)
        return low if low <= high else None

    def holds(self, queue: str, cursor: Cursor) -> bool:
        """Whether exactly this event of the queue's log is known here: then the log need not be asked."""
        index = self._indexes[queue]
        at = bisect_left(index.offsets, cursor.offset)
        if at < len(index.offsets) and index.offsets[at] == cursor.offset:
            return self._frames[index.indexes[at] - self.base].cursor == str(cursor)
        return cursor == self.at[queue]
