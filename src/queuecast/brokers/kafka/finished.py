"""Which records of a partition have been dealt with, in the words of a commit.

A group keeps one offset for each partition, and a text beside it. The offset is the first record that is not finished;
the text tells what is finished beyond it, so that one long task makes nobody repeat what came after it, and up to
where records may have been handed out at all.
"""

from __future__ import annotations

from bisect import bisect_right
from math import inf
from typing import Final, NamedTuple

MAX_RUNS: Final = 300
"""Gaps between what is finished. Kafka keeps 4,096 bytes of text, and each gap may take 12 of them."""

MAX_SPAN: Final = 99_999
"""Offsets between the first that is not finished and the last that is handed out: five digits."""


class Run(NamedTuple):
    """Finished records without a gap, `end` excluded."""

    start: int
    end: int


class Finished:
    def __init__(self, before: int) -> None:
        self.before = before
        """Everything before this offset is finished."""
        self._runs: list[Run] = []

    def __contains__(self, offset: int) -> bool:
        if offset < self.before:
            return True
        place = bisect_right(self._runs, (offset, inf)) - 1
        return place >= 0 and offset < self._runs[place].end

    def add(self, offset: int) -> None:
        if offset in self:
            return
        runs = self._runs
        place = bisect_right(runs, (offset, offset))
        start, end, first, last = offset, offset + 1, place, place
        if place and runs[place - 1].end == offset:
            start, first = runs[place - 1].start, place - 1
        if place < len(runs) and runs[place].start == end:
            end, last = runs[place].end, place + 1
        if start == self.before:
            # It is the lowest of all, since nothing unfinished lies below it.
            self.before = end
            del runs[:last]
        else:
            runs[first:last] = [Run(start, end)]

    def begin_at(self, low: int) -> None:
        """What lies before this offset is not there any more."""
        while self._runs and self._runs[0].start <= max(low, self.before):
            low = max(low, self._runs.pop(0).end)
        self.before = max(self.before, low)

    def skip(self, gap: int, length: int) -> None:
        """Finished are so many records after so many that are not, behind all that was said before."""
        start = gap + (self._runs[-1].end if self._runs else self.before)
        self._runs.append(Run(start, start + length))

    def may_hand_out(self, offset: int, held: int) -> bool:
        """Whether all can still be told in a commit once this one is out too, whatever is finished first."""
        return len(self._runs) + held < MAX_RUNS and offset - self.before <= MAX_SPAN

    def told(self, reach: int) -> str:
        """The text of a commit: records before `reach` may have been handed out."""
        numbers = [max(0, reach - self.before)]
        at = self.before
        for run in self._runs:
            numbers += [run.start - at, run.end - run.start]
            at = run.end
        return ".".join(map(str, numbers))


class Told(NamedTuple):
    """What a commit tells."""

    finished: Finished
    reach: int | None
    """Records before it may have been handed out; None where that is not known, so any may."""


def read(before: int, text: str | None) -> Told:
    """A text that is none of ours, as of somebody who has reset the group's offsets, tells nothing."""
    finished = Finished(before)
    try:
        reach, *numbers = map(int, (text or "").split("."))
    except ValueError:
        return Told(finished, None)
    for gap, length in zip(numbers[::2], numbers[1::2], strict=False):
        finished.skip(gap, length)
    return Told(finished, before + reach)
