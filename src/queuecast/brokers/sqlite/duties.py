"""What the writer does of itself, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from .ledger import Ledger
from .operations import Claim, Duty, Expire, HandBack, Renew, Trim

LEASE_SECONDS: Final = 60.0
"""A process that stands still for so long loses what it holds to others. One that dies loses it at once."""

TICKS_PER_LEASE: Final = 4
"""How often a lease is renewed, others' leases are looked at, and logs at rest are trimmed."""


class Duties:
    """Leases are measured by the machine's monotonic clock, so that nobody who sets its time can end one."""

    def __init__(self, token: str, alive: Callable[[str], bool]) -> None:
        self.holds = False
        """This process has consumers, and so a lease."""
        self.lost_peer = False
        """A process is gone, perhaps before it could wake anyone."""
        self._token = token
        self._lease = LEASE_SECONDS
        self._alive = alive
        self._tick_at = 0.0
        self._expire_at = 0.0
        self._behind = False

    def seconds(self) -> float:
        """Until the next of them."""
        if self._behind or self.lost_peer:
            return 0.0
        return min(self._tick_at - time.monotonic(), self._expire_at - time.time())

    def due(self) -> list[Duty]:
        """In this order: our own lease first, so that standing still does not make us take our own tasks again."""
        tick = self._tick_at <= time.monotonic()
        duties: list[Duty] = []
        if tick and self.holds:
            duties.append(self.renewal())
        if tick or self.lost_peer:
            duties.append(HandBack(self._is_dead))
        if tick or self._expire_at <= time.time():
            duties.append(Expire())
        if tick or self._behind:
            duties.append(Trim())
        return duties

    def renewal(self) -> Renew:
        return Renew(self._token, time.monotonic() + self._lease)

    def done(self, results: list[tuple[Duty, Any]], ledger: Ledger) -> list[Claim] | None:
        """They are committed. After a renewal: every claim that this process still has."""
        held: list[Claim] | None = None
        for duty, result in results:
            match duty:
                case Renew():
                    self.holds, held = True, result
                case HandBack():
                    self.lost_peer = False
                    self._tick_at = time.monotonic() + self._lease / TICKS_PER_LEASE
                case Expire():
                    self._expire_at = result
        self._expire_at = min(self._expire_at, ledger.expires_next)
        self._behind = ledger.behind
        return held

    def _is_dead(self, token: str, until: float) -> bool:
        return token != self._token and (until < time.monotonic() or not self._alive(token))
