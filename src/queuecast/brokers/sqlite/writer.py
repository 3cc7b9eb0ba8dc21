"""The one thread of a process that writes: everything that waits goes into one transaction.

It never waits in order to batch. While a transaction is being synced to the disk more operations come; together they
are the next one, so many callers share a sync and a lone one waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, NamedTuple

from ...errors import BrokerError, BrokerUnavailable, OutcomeUnknown, QueuecastError, StorageFull
from ..base import Retention
from .database import Sync, connect, open_database, translated
from .ledger import Claimed, Ledger
from .operations import (
    Consumer,
    Depart,
    Duty,
    Expire,
    HandBack,
    Leave,
    Operation,
    Renew,
    Settle,
    Trim,
    Want,
    load_for,
)
from .peers import Change, Peers, encode
from .place import Place, Turn

logger = logging.getLogger(__name__)

LEASE_SECONDS: Final = 60.0
"""A process that stands still for so long loses what it holds to others. One that dies loses it at once."""

RENEWALS_PER_LEASE: Final = 4

WAIT_SECONDS: Final = 10.0
"""How long an operation waits for its turn; then it is withdrawn with `BrokerUnavailable`. One that was begun and
has no outcome after so long is answered with `OutcomeUnknown`."""

MAX_BATCH: Final = 2_000
"""Operations in one transaction, so that other processes get their turn; the rest waits for the next."""

CHECKPOINT_PAGES: Final = 2_000
"""Pages in the write-ahead log, about 8 MB, after which they are copied into the database."""

FIRST_PAUSE: Final = 0.05
MAX_PAUSE: Final = 2.0
"""Seconds before a failed transaction is tried again for a worker's results; each pause doubles up to the second."""


class Delivered(NamedTuple):
    consumer: Consumer
    claimed: Claimed


@dataclass(slots=True)
class Outcome:
    """What the event loop has to be told of one transaction."""

    answers: list[tuple[Operation, Any]] = field(default_factory=list)
    """Each operation with its result, or with the exception that it raised."""
    deliveries: list[Delivered] = field(default_factory=list)
    grown: list[int] = field(default_factory=list)
    """The queues whose logs grew."""
    held: list[tuple[str, str, str]] | None = None
    """After a renewal: every claim that this process still has."""
    lost_peer: bool = False
    """A process is gone, perhaps before it could wake anyone: look everywhere."""


@dataclass(slots=True)
class _Batch:
    """One transaction in the making. What it changes here counts only once it is committed."""

    ledger: Ledger
    demand: dict[Consumer, int]
    marker: str
    outcome: Outcome = field(default_factory=Outcome)
    changes: list[Change] = field(default_factory=list)
    due: dict[int, float] = field(default_factory=dict)
    """For each queue with a hungry consumer: when it can be delivered to next."""
    load: int = 0


class _CommitUnknown(Exception):
    """COMMIT failed where it may have landed."""


class Writer:
    """Owns the writing connection. Operations are handed over in the event loop, everything else is its thread's.

    `tell` is called in the event loop with each outcome, in order.
    """

    def __init__(
        self, place: Place, retention: Retention, sync: Sync, token: str, lease: float, tell: Callable[[Outcome], None]
    ) -> None:
        self.peers = Peers(place.folder, token)
        self._place = place
        self._retention = retention
        self._durably = 2 if sync == "full" else 1
        self._token = token
        self._lease = lease
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="queuecast sqlite", daemon=True)
        self._opened: asyncio.Future[list[sqlite3.Connection]] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()

        self._waiting: deque[Operation] = deque()
        self._begun: list[Operation] = []
        self._begun_at = inf
        self._asleep = False
        self._closing = False
        self._looks: set[int] = set()
        self._look_everywhere = False

        self._turn: Turn | None = None
        self._db: sqlite3.Connection | None = None
        self._readers: list[sqlite3.Connection] = []
        self._synchronous = 0
        self._batches = 0
        self._kept: list[Operation] = []
        self._pause = 0.0
        self._pause_until = 0.0
        self._demand: dict[Consumer, int] = {}
        self._due: dict[int, float] = {}
        self._renew_at = inf
        self._expire_at = 0.0
        self._check_peers = True
        self._trim = True
        self._full_load = 0

    # In the event loop
