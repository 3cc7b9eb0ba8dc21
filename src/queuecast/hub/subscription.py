"""The subscription: one client's place in a stream. No queue, no task, no timer of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from .. import sse
from .frame import drain_frame

if TYPE_CHECKING:
    from .cohort import Cohort
    from .fanout import Fanout
    from .replay import Replay


class Sink(Protocol):
    """Where a client's bytes go. It tells its subscription of `pause`, `resume` and `lost`."""

    @property
    def write(self) -> Callable[[bytes], object]:
        """Hand over bytes, at once and in order. The same bytes are written to many sinks: never altered."""

    def backlog(self) -> int:
        """Bytes that were written and have not left this process."""

    def close(self) -> None:
        """End the stream after what was written."""

    def abort(self) -> None:
        """End it now; what has not gone out is lost."""


class Subscription:
    """A cursor: `index` in the window, or a `replay` that reads the log for it.

    It is `live` while it moves along with all others. It is `ready` while its client takes what is written; one that
    is not skips everything and catches up later.
    """

    __slots__ = (
        "backlog",
        "closed",
        "cohort",
        "cursor",
        "fanout",
        "index",
        "live",
        "moved_at",
        "owner",
        "ready",
        "replay",
        "sink",
        "slot",
        "task",
        "told",
        "write",
        "wrote_at",
    )

    def __init__(self, fanout: Fanout, sink: Sink, task: str | None, owner: str | None, now: float) -> None:
        self.fanout = fanout
        self.sink = sink
        self.write = sink.write
        self.task = task
        self.owner = owner
        self.index = 0
        self.cursor = ""
        """Its place as an SSE id, kept while it is not live."""
        self.live = False
        self.ready = True
        self.closed = False
        self.cohort: Cohort | None = None
        self.replay: Replay | None = None
        self.told = ""
        """The last cursor told by an id-only block."""
        self.wrote_at = now
        self.backlog = 0
        """Bytes that waited at the last visit, and since when this number has not changed."""
        self.moved_at = now
        self.slot = 0

    def __repr__(self) -> str:
        state = "closed" if self.closed else "live" if self.live else "replaying" if self.replay else "behind"
        return f"<Subscription {self.task or self.owner or 'all'} {state} at {self.index}>"

    @property
    def filtered(self) -> bool:
        return self.task is not None or self.owner is not None

    # What its sink tells it

    def pause(self) -> None:
        """The client does not take more for now."""
        self.ready = False
        self.fanout.pause(self)

    def resume(self) -> None:
        self.ready = True
        self.fanout.resume(self)

    def lost(self) -> None:
        """The client is gone."""
        self._leave("client")

    # How it ends otherwise

    def close(self, reason: str) -> None:
        """End the stream after what was written."""
        if self._leave(reason):
            self.sink.close()

    def abort(self, reason: str) -> None:
        if self._leave(reason):
            self.sink.abort()

    def send_away(self, reason: str, retry_ms: int) -> None:
        """Tell the client its cursor and when to come back, and end the stream."""
        if not self.closed:
            self.write(drain_frame(self.fanout.cursor_of(self), retry_ms))
            self.close(reason)

    def _leave(self, reason: str) -> bool:
        if self.closed:
            return False
        self.closed = True
        self.fanout.leave(self, reason)
        return True

    # What the wheel asks

    def silent_for(self, now: float) -> float:
        """Seconds in which nothing was written."""
        wrote_at = self.wrote_at if self.cohort is None else max(self.wrote_at, self.cohort.wrote_at)
        return now - wrote_at

    def stalled_for(self, now: float) -> float:
        """Seconds in which nothing that waits has gone out."""
        backlog = self.sink.backlog()
        if backlog != self.backlog or not backlog:
            self.backlog = backlog
            self.moved_at = now
        return now - self.moved_at

    def keep_alive(self, now: float) -> None:
        """A sign of life; to a filtered stream also how far it has come, so that a resume need not search again."""
        self.wrote_at = now
        if self.filtered and self.live:
            cursor = self.fanout.cursor_of(self)
            if cursor != self.told:
                self.told = cursor
                self.write(sse.id_block(cursor))
                return
        self.write(sse.KEEPALIVE)
