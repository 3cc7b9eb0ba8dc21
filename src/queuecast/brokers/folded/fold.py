"""One log folded: the tasks that live, what was refused, and how far it is kept. Pure; `Table` keeps it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from itertools import pairwise, takewhile
from sys import intern
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct

from ...codec import read_head
from ...cursor import Cursor, cursor_at
from ...event import Head
from ...lifecycle import Record, apply, whole_life
from ...task import STATES, State, timestamp
from ..base import Bounds, Entry, Retention
from .row import Row, seconds_of

SEGMENTS: Final = 64
"""A log is forgotten segment by segment: each at most this part of what is kept, by time and by size."""

SEGMENT_BYTES: Final = 1 << 18
"""Bytes of a segment at most, so that forgetting one is quick."""


class Mark(NamedTuple):
    """Where a segment begins: its first event, when that was written, and the bytes of all events before it."""

    offset: int
    time: str
    size: int


class Checkpoint(Struct, frozen=True):
    """How far a log was folded: everything but the tasks, the refused offsets and the marks."""

    place: Cursor
    """The last entry folded, shown or not."""
    trimmed: int
    """The last offset that is not shown any more."""
    last: int
    """The last one shown."""
    counts: dict[State, int]
    time: str = ""
    """Of the last event shown, or the latest before it."""
    size: int = 0
    """Bytes of all events ever shown."""


Story: TypeAlias = list[tuple[int, Head]]
"""One task's events among some entries, each with its place there."""


class Taken(NamedTuple):
    """What became of some entries."""

    shown: Sequence[Entry]
    size: int
    """Bytes of those."""
    waiting: list[Row]
    """Tasks that have begun to wait, some of which may wait no more."""


class Fold:
    """Folds entries in the order of the log.

    The times of events are compared as they are written: RFC 3339 in UTC sorts by itself. A time ahead of the clock
    counts as now, and one before its predecessor's as that.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        retention: Retention,
        live: Sequence[Row] = (),
        marks: Sequence[Mark] = (),
    ) -> None:
        self.place = checkpoint.place
        self.trimmed = checkpoint.trimmed
        self.last = checkpoint.last
        self.counts = dict.fromkeys(STATES, 0) | checkpoint.counts
        self.live = {row.id: row for row in live}
        self.unsaved: dict[str, Row] = {}
        """Every task that has changed since the last save."""
        self.refused: list[int] = []
        """Offsets refused since then, in order."""
        self.new_marks: list[Mark] = []
        self.unreadable = 0
        """Entries that were no events at all, since this began."""
        self._retention = retention
        self._marks = deque(marks)
        self._time = checkpoint.time
        self._size = checkpoint.size
        self._segment = min(SEGMENT_BYTES, retention.size // SEGMENTS)
        self._plan_mark()

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.place, self.trimmed, self.last, self.counts, self._time, self._size)

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.trimmed + 1, max(self.last, self.trimmed), self.place.identity)

    def row(self, id: str) -> Row | None:
        return self.live.get(id) or self.unsaved.get(id)

    # Folding

    def unknown(self, heads: Sequence[Head | None]) -> set[str]:
        """Tasks that may have ended before the last save: the table must tell."""
        ids = {head.id for head in heads if head is not None}
        return ids - self.live.keys() - self.unsaved.keys()

    def take(self, entries: Sequence[Entry], ended: Callable[[Collection[str]], Container[str]], now: float) -> Taken:
        """Fold entries, at least one. `ended` tells which of these tasks, all unknown here, have ended before.

        What becomes of a task rests on its own events alone. So those of each task are folded together, and most is
        done once for a task and not for each event: a gateway that begins comes through here for all there are.
        """
        heads = [read_head(entry.body) for entry in entries]
        stories: defaultdict[str, Story] = defaultdict(list)
        refused: list[int] = []
        for place, head in enumerate(heads):
            if head is None:
                refused.append(place)
            else:
                stories[head.id].append((place, head))
        self.unreadable += len(refused)
        live, unsaved, waiting = self.live, self.unsaved, list[Row]()
        over = ended([id for id in stories if id not in live and id not in unsaved])
        for id, story in stories.items():
            row = live.get(id)
            if row is None and (id in unsaved or id in over):
                refused += [place for place, _ in story]
            else:
                self._tell(row, story, entries, refused, waiting)
        self.place = cursor_at(self.place.identity, *entries[-1])
        if refused:
            self.refused += [entries[place].offset for place in sorted(refused)]
            left = sorted(set(range(len(entries))).difference(refused))
            entries, heads = [entries[place] for place in left], [heads[place] for place in left]
        return Taken(entries, self._measure(entries, heads, now), waiting)

    def _tell(
        self, row: Row | None, story: Story, entries: Sequence[Entry], refused: list[int], waiting: list[Row]
    ) -> None:
        """Fold one task's events, where it may not have ended before."""
        known = record = None if row is None else row.record
        last = -1
        if row is None and (end := whole_life([head for _, head in story])) is not None:
            (first, head), (last, _) = story[0], story[-1]
            row, record, story = _new_row(head, end, entries[first].offset), end, []
            waiting.append(row)
        for place, head in story:
            after = apply(record, head)
            if after is None:
                refused.append(place)
                continue
            record, last = after, place
            if row is None:
                row = _new_row(head, record, entries[place].offset)
            if head.type == "task":
                row.name = row.name or intern(head.task.name)
                if record.state != "running":
                    row.time, row.delay = head.time, head.task.delay or 0.0
                    waiting.append(row)
        if row is None or record is None or last < 0:
            return
        row.record = record
        row.last, row.body = entries[last]
        self.unsaved[row.id] = row
        if known is not None:
            self.counts[known.state] -= 1
        self.counts[record.state] += 1
        if not record.final:
            self.live[row.id] = row
        elif known is not None:
            del self.live[row.id]

    def _measure(self, shown: Sequence[Entry], heads: Sequence[Head | None], now: float) -> int:
        """The bytes of what is shown, which lie in segments from now on."""
        size, time, latest = self._size, "", timestamp(now)
        for (offset, body), head in zip(shown, heads, strict=True):
            time = head.time  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
            if size >= self._next_mark_size or time >= self._next_mark_time:
                self._mark(offset, min(time, latest), size)
            size += len(body)
        if shown:
            self.last = shown[-1].offset
            self._time = max(self._time, min(time, latest))
        grown, self._size = size - self._size, size
        return grown

    def _mark(self, offset: int, time: str, size: int) -> None:
        if self._marks:
            time = max(time, self._marks[-1].time)
        mark = Mark(offset, time, size)
        self._marks.append(mark)
        self.new_marks.append(mark)
        self._plan_mark()

    def _plan_mark(self) -> None:
        """When the next segment begins: at once where there is none."""
        if not self._marks:
            self._next_mark_size, self._next_mark_time = 0, ""
            return
        mark = self._marks[-1]
        self._next_mark_size = mark.size + self._segment
        began = seconds_of(mark.time)
        self._next_mark_time = "" if began is None else timestamp(began + self._retention.age / SEGMENTS)

    # Forgetting

    def outlived(self, now: float) -> int:
        """The last offset that is not to be shown any more, by our own retention."""
        oldest = timestamp(now - self._retention.age)
        trimmed = self.trimmed
        for mark, end, time in self._segments():
            if time >= oldest and self._size - mark.size <= self._retention.size:
                break
            trimmed = end
        return trimmed

    def before(self, size: int) -> int:
        """An event after which lie so many bytes or a little more; the place before the first where there are fewer."""
        for mark in reversed(self._marks):
            if self._size - mark.size >= size and mark.offset > self.trimmed:
                return mark.offset
        return self.trimmed

    def steps(self, trimmed: int) -> list[int]:
        """The way to this offset in steps that take a few milliseconds each."""
        ends = [end for _, end, _ in takewhile(lambda segment: segment[1] < trimmed, self._segments())]
        return [*ends, trimmed] if trimmed > self.trimmed else []

    def _segments(self) -> Iterator[tuple[Mark, int, str]]:
        """Each one's beginning, the last offset before the next one, and when that was written at the latest."""
        for mark, following in pairwise(self._marks):
            yield mark, following.offset - 1, following.time
        if self._marks:
            yield self._marks[-1], self.last, max(self._time, self._marks[-1].time)

    def trim(self, trimmed: int, forgotten: Mapping[State, int]) -> None:
        """Show nothing up to this offset; so many tasks that had ended by then are forgotten with it."""
        self.trimmed = trimmed
        marks = self._marks
        while (segment := next(self._segments(), None)) is not None and segment[1] <= trimmed:
            marks.popleft()
        if not marks:
            self._plan_mark()
        for state, number in forgotten.items():
            self.counts[state] -= number

    def saved(self) -> None:
        """What has changed is on disk now."""
        self.unsaved.clear()
        self.refused.clear()
        self.new_marks.clear()


def _new_row(head: Head, record: Record, offset: int) -> Row:
    owner = None if head.owner is None else intern(head.owner)
    if head.type != "task":
        return Row(head.id, "", owner, offset, offset, record)
    task = head.task
    return Row(
        head.id,
        intern(task.name),
        owner,
        offset,
        offset,
        record,
        expires_at=task.expires_at,
        fingerprint=task.fingerprint,
    )
