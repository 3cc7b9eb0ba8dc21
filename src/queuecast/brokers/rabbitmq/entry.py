"""An entry of a stream holds many events, so that each costs a fraction of a message: one on each line.

An event's offset is its entry's times MAX_EVENTS + 1, plus its line from 1: a multiple is the place before an entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from ..base import Entry
from ..folded.wire import Header

MAX_EVENTS: Final = 1_023
"""Events of an entry. More begin the next one."""

MAX_BYTES: Final = 1 << 18
"""Bytes of an entry after which the next one begins. A single event may be larger."""

CONTENT_TYPE: Final = "application/x-ndjson"

FROM: Final = "qc-from"
"""Header of an entry: who appended it."""

NUMBER: Final = "qc-number"
"""Header of an entry: the number of its writer's last call that is complete with it."""

MARK: Final = "qc-mark"
"""Header of an entry without events: what it was written for."""

_SPAN: Final = MAX_EVENTS + 1


class Piece(NamedTuple):
    """An entry as it is delivered."""

    place: int
    """Its offset in the stream."""
    headers: Mapping[str, Header]
    body: bytes


def join(bodies: Sequence[bytes]) -> bytes:
    return b"\n".join(bodies)


def events(piece: Piece, after: int = 0) -> list[Entry]:
    """Its events, without so many at its beginning."""
    if not piece.body:
        return []
    bodies = piece.body.split(b"\n", MAX_EVENTS)[:MAX_EVENTS]
    start = first_of(piece.place)
    pairs = list(map(Entry._make, zip(range(start, start + len(bodies)), bodies, strict=True)))
    return pairs[after:] if after else pairs


def first_of(place: int) -> int:
    """The offset of an entry's first event."""
    return place * _SPAN + 1


def last_of(place: int) -> int:
    """The last offset that an entry may have."""
    return place * _SPAN + MAX_EVENTS


def before(place: int) -> int:
    """The offset before an entry."""
    return place * _SPAN


def place_of(offset: int) -> tuple[int, int]:
    """The entry of an offset, and how many of its events lie up to it."""
    return divmod(offset, _SPAN)
