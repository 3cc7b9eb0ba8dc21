"""The cohort: subscriptions that stand at the same index and move together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .subscription import Subscription

MAX_MEMBERS: Final = 256
"""Subscriptions of a cohort: as many writes are made before the event loop does something else."""


class Cohort:
    """What is written to one is written to all of them, at the same moment."""

    __slots__ = ("index", "subs", "wrote_at")

    def __init__(self, index: int, now: float) -> None:
        self.index = index
        self.wrote_at = now
        self.subs: dict[Subscription, Callable[[bytes], object]] = {}
        """Each with its `write`, so that a pass need not visit thousands of objects to find it."""

    def __repr__(self) -> str:
        return f"<Cohort of {len(self.subs)} at {self.index}>"

    def write(self, chunk: bytes, index: int, now: float) -> None:
        """Bring all to this index."""
        self.index = index
        self.wrote_at = now
        # A copy, because who cannot take more leaves at once.
        for write in tuple(self.subs.values()):
            write(chunk)

    def has_room_for(self, other: Cohort) -> bool:
        return self.index == other.index and len(self.subs) + len(other.subs) <= MAX_MEMBERS

    def add(self, sub: Subscription) -> None:
        self.subs[sub] = sub.write
        sub.cohort = self

    def take(self, other: Cohort) -> None:
        for sub in other.subs:
            self.add(sub)
