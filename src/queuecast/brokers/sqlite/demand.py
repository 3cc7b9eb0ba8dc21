"""Which consumers of this process wait for tasks, and when the next of theirs is due."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from .ledger import Claimed, Ledger
from .operations import Leave, Operation, Settle, Taker, Want


class Delivered(NamedTuple):
    consumer: Taker
    claimed: Claimed


@dataclass(slots=True)
class Demand:
    """Changed in a copy while a transaction is made, which takes this one's place once it is committed."""

    room: dict[Taker, int] = field(default_factory=dict)
    """How many more deliveries each consumer takes."""
    due: dict[int, float] = field(default_factory=dict)
    """Of each queue with a consumer that waits: the POSIX time at which its next task is due."""

    def copy(self) -> Demand:
        return Demand(dict(self.room), dict(self.due))

    def heed(self, operation: Operation) -> set[int]:
        """What an operation means for a consumer's room; the queue where there is more of it now."""
        match operation:
            case Want(consumer=consumer, room=room):
                self.room[consumer] = self.room.get(consumer, 0) + room
            case Settle(consumer=consumer, frees=True) if consumer in self.room:
                self.room[consumer] += 1
            case Leave(consumer=consumer):
                self.room.pop(consumer, None)
                return set()
            case _:
                return set()
        return {consumer.number}

    def serve(self, ledger: Ledger, queues: Collection[int], claim: str) -> tuple[list[Delivered], set[int]]:
        """Claim what is due in these queues for whoever has room. Also the queues that others must look at.

        A queue that a consumer here still waits for is left to it: this process knows when its next task is due.
        When nobody here waits any more, others have to be told of what is left.
        """
        stirred = ledger.stirred()
        delivered: list[Delivered] = []
        left: set[int] = set()
        for queue in stirred.union(queues):
            waited = self.due.pop(queue, None) is not None
            hungry = [consumer for consumer, room in self.room.items() if room and consumer.number == queue]
            for consumer in hungry:
                claimed = ledger.claim(queue, self.room[consumer], claim)
                self.room[consumer] -= len(claimed)
                delivered += [Delivered(consumer, each) for each in claimed]
            if any(self.room[consumer] for consumer in hungry):
                self.due[queue] = next_due = ledger.next_due(queue)
                if next_due <= ledger.now:
                    ledger.look_for_expired(ledger.now)
            elif (waited or queue in stirred) and ledger.next_due(queue) < inf:
                left.add(queue)
        return delivered, left

    def overdue(self, now: float) -> set[int]:
        return {queue for queue, due in self.due.items() if due <= now}

    def next_due(self) -> float:
        return min(self.due.values(), default=inf)
