"""Whether the disk has room, said once when that ends and once when it begins again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from ...errors import BrokerError, StorageFull

logger = logging.getLogger(__name__)

CALM_SECONDS: Final = 30.0
"""How long nothing must have been refused before there is said to be room again: on a disk that is nearly full, small
writes land between the refusals of larger ones."""


class Room:
    """Told of every transaction. `now` is the monotonic clock."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._refused_at: float | None = None

    def failed(self, error: BrokerError, now: float) -> None:
        if not isinstance(error, StorageFull):
            return
        if self._refused_at is None:
            logger.warning(
                "%s: %s. New tasks are refused and what workers have done waits; make room, and it goes on by itself",
                self._file,
                error,
            )
        self._refused_at = now

    def grew(self, now: float) -> None:
        """Something was written that takes room."""
        if self._refused_at is not None and now - self._refused_at >= CALM_SECONDS:
            self._refused_at = None
            logger.warning("%s: there is room again", self._file)
