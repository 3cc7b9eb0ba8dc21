"""What the hub counts, as plain numbers for whoever exports them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    streams_open: Counter[str] = field(default_factory=Counter)
    """By queue. A stream of several queues counts in each of them."""
    streams_closed: Counter[str] = field(default_factory=Counter)
    """By reason: `client`, `finished`, `stalled`, `drain`, `broker`, `failed`, `shutdown`."""
    streams_refused: Counter[str] = field(default_factory=Counter)
    """By reason: `full`, `draining`, `broker`."""
    stream_resumes: Counter[str] = field(default_factory=Counter)
    """Streams that came with a cursor, by result: `replayed`, `reset`, `live` (nothing was missed)."""
    replays: int = 0
    """How often a log was read again for one client."""
