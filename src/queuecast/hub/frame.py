"""The frame: an event encoded once as SSE bytes for all clients, with what is needed to know whom it concerns."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from .. import sse
from ..cursor import MAX_CURSOR_CHARS

NOBODY: Final = ""
"""The task of a frame that concerns nobody: an entry of the log that is no event. It only moves cursors."""


class Frame(Struct, frozen=True, gc=False):
    """`id` is the stream's cursor once the frame has been seen, `cursor` its part for the frame's own queue, as text.

    `task` is None in a control frame, which concerns everybody; `final` marks the task's result.
    """

    data: bytes
    queue: str
    cursor: str
    id: str
    task: str | None = None
    owner: str | None = None
    final: bool = False

    def concerns(self, task: str | None, owner: str | None) -> bool:
        """Whether a stream with this filter shows it."""
        return self.task is None or (task in {None, self.task} and owner in {None, self.owner})


class _Head(Struct, gc=False):
    type: str
    id: str
    owner: str | None = None


_head = msgspec.json.Decoder(_Head).decode


def event_frame(queue: str, body: bytes, cursor: str, id: str, named: bool) -> Frame:
    """Encode one entry of the log."""
    try:
        head = _head(body)
    except msgspec.DecodeError:
        return Frame(b"", queue, cursor, id, NOBODY)
    data = sse.frame(body, id, head.type if named else None)
    return Frame(data, queue, cursor, id, head.id, head.owner, head.type == "result")


def reset_frame(reason: str, asked: str, going_on_at: str) -> bytes:
    """What a client gets whose cursor cannot be honoured: why, what it asked for, where the stream goes on."""
    told = {"reason": reason, "asked": asked[:MAX_CURSOR_CHARS], "cursor": going_on_at}
    return sse.frame(msgspec.json.encode(told), going_on_at, "reset")


def drain_frame(cursor: str, retry_ms: int) -> bytes:
    """The farewell of a server that stops: where to go on, and how long to wait before."""
    told = {"cursor": cursor, "retry": retry_ms}
    return sse.retry(retry_ms) + sse.frame(msgspec.json.encode(told), cursor, "drain")
