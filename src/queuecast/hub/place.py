"""The place: how far a stream has come in each of its queues' logs, and the SSE id that says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ..cursor import Cursor, format_vector, parse_cursor, parse_vector

Place: TypeAlias = dict[str, Cursor]
"""Queue → cursor: everything up to and including it has been seen."""


def text_of(place: Place) -> str:
    """A plain cursor where there is one queue, else a vector."""
    if len(place) == 1:
        [cursor] = place.values()
        return str(cursor)
    return format_vector(place)


def parse_place(text: str, queues: Sequence[str]) -> Place:
    """Raises `ResetRequired`: "malformed", or "other-log" for a vector of other queues."""
    if len(queues) == 1:
        return {queues[0]: parse_cursor(text)}
    return parse_vector(text, frozenset(queues))
