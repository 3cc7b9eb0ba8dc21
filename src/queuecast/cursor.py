"""The cursor: a place in a log, as the opaque id that every SSE frame carries.

`identity.offset.digest`: the log's identity (or `0` where the backend has none), the event's offset, and a short
digest of the event there, so that a log which was recreated, restored or truncated is noticed on resume. Only
`A-Za-z0-9._-`, so that browsers send it across origins without a preflight (whatwg/fetch#568).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from zlib import crc32

from .errors import ResetRequired

MAX_CURSOR_CHARS: Final = 1_024
"""Characters of a cursor. A longer one is `malformed` and the stream answers with a reset."""

MAX_STREAM_QUEUES: Final = 16
"""Queues on one stream: as many as fit into MAX_CURSOR_CHARS. More are refused with a 400."""

_CURSOR: Final = re.compile(r"([A-Za-z0-9]{1,16})\.([0-9]{1,18})\.([0-9a-f]{1,8})")
_VECTOR: Final = re.compile(r"v([0-9a-f]{1,8})((?:-[A-Za-z0-9.]+){1,16})")
NO_IDENTITY: Final = "0"


class Cursor(NamedTuple):
    """A place in one log: everything up to and including `offset` has been seen."""

    identity: str | None
    offset: int
    digest: str

    def __str__(self) -> str:
        return f"{self.identity or NO_IDENTITY}.{self.offset}.{self.digest}"


def digest(body: bytes) -> str:
    """Eight hex digits that tell one event from another at the same offset. Not a defence against forgery."""
    return f"{crc32(body):08x}"


def cursor_at(identity: str | None, offset: int, body: bytes) -> Cursor:
    return Cursor(identity, offset, digest(body))


def text_at(identity: str | None, offset: int, body: bytes) -> str:
    """The text of `cursor_at`, at once: a hub needs it of every event, and nothing else of the cursor."""
    return f"{identity or NO_IDENTITY}.{offset}.{crc32(body):08x}"


def beginning(identity: str | None, offset: int = 0) -> Cursor:
    """A cursor at a place where no event can be compared: before the first one, or an emptied log's end."""
    return Cursor(identity, offset, "0")


def parse_cursor(text: str) -> Cursor:
    """Raises `ResetRequired` ("malformed")."""
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise ResetRequired("malformed")
    identity, offset, check = match.groups()
    return Cursor(None if identity == NO_IDENTITY else identity, int(offset), check)


def format_vector(cursors: Mapping[str, Cursor | str]) -> str:
    """The cursor of a stream of several queues: the cursors, or their texts, in the order of the queues' names."""
    names = sorted(cursors)
    return f"v{_set_digest(names)}-" + "-".join(str(cursors[name]) for name in names)


def parse_vector(text: str, queues: frozenset[str]) -> dict[str, Cursor]:
    """Raises `ResetRequired`: "malformed", or "other-log" when it belongs to another set of queues."""
    match = _VECTOR.fullmatch(text)
    if match is None or len(text) > MAX_CURSOR_CHARS:
        raise ResetRequired("malformed")
    names = sorted(queues)
    parts = match[2][1:].split("-")
    if match[1] != _set_digest(names) or len(parts) != len(names):
        raise ResetRequired("other-log")
    return {name: parse_cursor(part) for name, part in zip(names, parts, strict=True)}


def _set_digest(names: list[str]) -> str:
    return digest(",".join(names).encode())
