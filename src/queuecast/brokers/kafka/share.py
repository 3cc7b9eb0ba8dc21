"""A partition of tasks while this process has it: what waits, what is held, what is finished."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, NamedTuple

from ..folded.wire import Message
from .finished import Told

if TYPE_CHECKING:
    from .intake import KafkaHanded

MANY: Final = 2_000
FEW: Final = 500
"""Records of a partition that wait here: at so many it is paused, and at so few it goes on."""

MANY_BYTES: Final = 8_000_000
"""Bytes of them, likewise."""


class Record(NamedTuple):
    offset: int
    ready: float
    """POSIX time before which it is not handed out; 0 for at once."""
    timestamp: int
    """When it was written, in milliseconds, by the clock of its writer."""
    message: Message
    again: bool
    """Somebody may have been handed it before."""


class Share:
    """Used in two threads, under its member's lock."""

    def __init__(self, number: int, told: Told, low: int) -> None:
        """`low` is the first offset that the partition still has."""
        self.number = number
        self.finished, reach = told
        self.finished.begin_at(low)
        self._reach_before = reach
        self.reach = reach or 0
        """What is told in commits: nothing beyond it has been handed out by anybody."""
        self.held: dict[int, KafkaHanded] = {}
        self.is_closing = False
        """It is given up: nothing more of it is handed out."""
        self.is_gone = False
        """Somebody else may have it."""
        self.is_changed = False
        """More is finished than the last commit told."""
        self.is_paused = False
        self.next = self.finished.before
        """The offset that is expected next from the server."""
        self._beyond = self.finished.before
        """The offset after the last that was handed out here."""
        self._waiting: list[tuple[float, int, Record]] = []
        self._bytes = 0

    def take(self, record: Record) -> None:
        """From the server, in the order of the offsets."""
        for missing in range(self.next, record.offset):
            self.finished.add(missing)  # No record has this offset: it ended a foreign program's transaction.
        self.next = record.offset + 1
        if record.offset not in self.finished:
            self._push(record)

    def told(self) -> str:
        """What a commit says of it beside the watermark; what is finished from now on is for the next one."""
        self.is_changed = False
        return self.finished.told(self.reach)

    def may_have_been_handed_out(self, offset: int) -> bool:
        """By an earlier holder."""
        return self._reach_before is None or offset < self._reach_before

    def head(self) -> Record | None:
        """What may be handed out next, once it is ready."""
        if self.is_closing or not self._waiting:
            return None
        record = self._waiting[0][2]
        return record if self.finished.may_hand_out(record.offset, len(self.held)) else None

    def pop(self) -> Record:
        record = heappop(self._waiting)[2]
        self._bytes -= len(record.message.body)
        self._beyond = max(self._beyond, record.offset + 1)
        return record

    def settle(self, offset: int) -> None:
        del self.held[offset]
        self.finished.add(offset)
        self.is_changed = True

    def give_back(self, record: Record) -> None:
        del self.held[record.offset]
        self._push(record._replace(again=True))

    def close(self) -> None:
        self.is_closing = True
        self._waiting.clear()
        # Whoever has it next may be certain of what was never handed out.
        self.reach = max(self._beyond, self._reach_before or 0)
        self.is_changed = True

    @property
    def has_many(self) -> bool:
        return len(self._waiting) >= MANY or self._bytes >= MANY_BYTES

    @property
    def has_few(self) -> bool:
        return len(self._waiting) <= FEW and self._bytes <= MANY_BYTES // 2

    def _push(self, record: Record) -> None:
        heappush(self._waiting, (record.ready, record.offset, record))
        self._bytes += len(record.message.body)
