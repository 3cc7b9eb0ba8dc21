"""Times at which something is due for a task, in order. What has become void is thrown out in passing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from math import inf
from typing import Final, NamedTuple

from .row import Row

SLACK: Final = 1_000
"""Void items that may lie about before all are thrown out at once; beyond it, as many as there are valid ones."""


class Item(NamedTuple):
    when: float
    id: str


class Agenda:
    """`holds` says whether an item is still valid. A task may be there more than once, with one valid item."""

    def __init__(self, holds: Callable[[Item], bool]) -> None:
        self._holds = holds
        self._heap: list[Item] = []
        self._bound = SLACK
        self._come: dict[str, Item] = {}

    def add(self, item: Item) -> None:
        heappush(self._heap, item)
        if len(self._heap) > self._bound:
            self._heap = [each for each in self._heap if self._holds(each)]
            heapify(self._heap)
            self._bound = 2 * len(self._heap) + SLACK

    def first(self) -> Item | None:
        """The earliest of those whose time had not come when `come` was called last."""
        while self._heap and not self._holds(self._heap[0]):
            heappop(self._heap)
        return self._heap[0] if self._heap else None

    def come(self, now: float) -> list[Item]:
        """Those whose time has come, again and again until they are void."""
        while (item := self.first()) is not None and item.when <= now:
            self._come[item.id] = heappop(self._heap)
        self._come = {id: item for id, item in self._come.items() if self._holds(item)}
        return list(self._come.values())


class Plan:
    """When live tasks become due, and when nobody will have begun them, or answered, in time."""

    def __init__(self, live: Mapping[str, Row], reply_within: float | None) -> None:
        self._live = live
        self._reply_within = reply_within
        self._waiting = Agenda(self._still_waits)
        self._ending = Agenda(self._still_ends)

    def add(self, row: Row) -> None:
        """Its waiting has begun."""
        due, end = row.due(), self._end(row)
        if due is not None:
            self._waiting.add(Item(due, row.id))
        if end is not None:
            self._ending.add(Item(end[0], row.id))

    def oldest_due(self, now: float) -> float | None:
        first = self._waiting.first()
        return first.when if first is not None and first.when <= now else None

    def ends(self, now: float) -> list[tuple[Row, bool]]:
        """Whose time is over, and whether it is an answer that did not come; again and again until they have ended."""
        rows = [self._live[item.id] for item in self._ending.come(now)]
        return [(row, end[1]) for row in rows if (end := self._end(row)) is not None]

    def next_end(self) -> float:
        first = self._ending.first()
        return inf if first is None else first.when

    def _end(self, row: Row) -> tuple[float, bool] | None:
        expires, since = row.expires(), row.since()
        ends = [] if expires is None else [(expires, False)]
        if self._reply_within is not None and since is not None:
            ends.append((since + self._reply_within, True))
        return min(ends, default=None)

    def _still_waits(self, item: Item) -> bool:
        row = self._live.get(item.id)
        return row is not None and row.due() == item.when

    def _still_ends(self, item: Item) -> bool:
        row = self._live.get(item.id)
        end = None if row is None else self._end(row)
        return end is not None and end[0] == item.when
