"""How long to wait before a failed task's next attempt; pure, with the randomness passed in."""

from __future__ import annotations

from typing import Final

FIRST_DELAY: Final = 1.0
"""Seconds before the second attempt, before jitter; each later wait doubles."""

MAX_RETRY_DELAY: Final = 600.0
"""Seconds; no wait grows beyond it, so that a task with many retries still comes back within minutes."""


def retry_delay(attempt: int, random: float) -> float:
    """Seconds to wait after `attempt` (from 1) failed. `random` lies in [0, 1).

    Exponential with equal jitter: half the wait is certain, so a retry never comes at once, and half is spread,
    so that tasks which failed together do not return together (AWS Architecture Blog, "Exponential Backoff And
    Jitter", 2015).
    """
    whole = min(MAX_RETRY_DELAY, FIRST_DELAY * 2.0 ** min(attempt - 1, 32))
    return whole / 2 * (1 + random)


def retries_left(attempt: int, retries: int) -> bool:
    """Whether a task that may be retried `retries` times has a try left after `attempt` (from 1)."""
    return attempt <= retries
