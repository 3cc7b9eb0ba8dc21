"""The wheel: one timer that looks after all streams, a few at each tick."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from .subscription import Subscription

logger = logging.getLogger(__name__)

KEEPALIVE_SECONDS: Final = 15.0
"""Seconds without a byte before a stream gets a sign of life; proxies and browsers cut silent ones from 30 s on."""

STALL_SECONDS: Final = 20.0
"""Seconds in which a client takes nothing of what waits for it. Then it is cut, and may come back with its cursor."""

VISIT_SECONDS: Final = 5.0
"""Seconds between two visits to the same stream: how exact the others are."""

SLOTS: Final = 20
"""Parts in which all streams are visited, so that thousands of keepalives are not written at once."""


class Wheel:
    """Turns while it holds a stream."""

    def __init__(self) -> None:
        self._slots: list[set[Subscription]] = [set() for _ in range(SLOTS)]
        self._held = 0
        self._next = 0
        self._at = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, sub: Subscription) -> None:
        sub.slot = self._next = (self._next + 1) % SLOTS
        self._slots[sub.slot].add(sub)
        self._held += 1
        if self._timer is None:
            self._turn_on()

    def remove(self, sub: Subscription) -> None:
        self._slots[sub.slot].discard(sub)
        self._held -= 1

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _turn_on(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(VISIT_SECONDS / SLOTS, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        self._at = (self._at + 1) % SLOTS
        try:
            for sub in tuple(self._slots[self._at]):
                self._visit(sub, now)
        finally:
            self._timer = None
            if self._held:
                self._turn_on()

    def _visit(self, sub: Subscription, now: float) -> None:
        try:
            visit(sub, now)
        except Exception:
            # One bad stream must not be the end of all others' keepalives.
            logger.exception("%r cannot be looked after; it is cut", sub)
            sub.abort("failed")


def visit(sub: Subscription, now: float) -> None:
    """Cut it, keep it alive, or leave it be."""
    if sub.closed:
        return
    if sub.stalled_for(now) >= STALL_SECONDS:
        sub.abort("stalled")
    elif not sub.backlog and sub.silent_for(now) >= KEEPALIVE_SECONDS - VISIT_SECONDS / 2:
        sub.keep_alive(now)
