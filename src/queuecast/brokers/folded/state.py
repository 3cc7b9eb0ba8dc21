"""Where this process keeps what it has folded: `state folder / broker / slot / queue.db`.

A process takes the first slot that nobody holds, so one that is started again goes on where its predecessor stopped,
and several at the same time have a slot each. All of it may be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from .table import Table

logger = logging.getLogger(__name__)

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600


class State:
    """One process's slot, until `close`; a temporary one is deleted then."""

    def __init__(self, folder: Path, lock: int, *, temporary: bool = False) -> None:
        self.folder = folder
        self._lock = lock
        self._temporary = temporary

    def table(self, queue: str) -> Table:
        """The table of one queue's log, not opened yet."""
        return Table(self.folder / f"{queue}.db")

    def close(self) -> None:
        """Let the next process have it. The tables must be closed. May be repeated."""
        lock, self._lock = self._lock, -1
        if lock < 0:
            return
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(lock)


def state_for(url: str, folder: str | None = None) -> State:
    """A slot for this broker, under this folder or the user's cache. Falls back to a temporary one, with a warning."""
    try:
        broker = (cache_folder() if folder is None else Path(folder)) / _name_of(url)
        broker.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        return _first_free(broker)
    except OSError as error:
        made = Path(tempfile.mkdtemp(prefix="queuecast-"))
        logger.warning("what queuecast folds is kept in %s and lost at the end: %s", made, error)
        lock = _take(made)
        assert lock is not None  # nobody else knows of it
        return State(made, lock, temporary=True)


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/queuecast`, or `~/.cache/queuecast`. Raises `OSError` for a user without a home."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if chosen.startswith("/"):  # the specification has others ignored
        return Path(chosen) / "queuecast"
    try:
        return Path.home() / ".cache" / "queuecast"
    except RuntimeError as error:
        raise OSError(str(error)) from error


def _first_free(broker: Path) -> State:
    for number in count():
        folder = broker / str(number)
        folder.mkdir(FOLDER_MODE, exist_ok=True)
        lock = _take(folder)
        if lock is not None:
            return State(folder, lock)
    raise AssertionError("unreachable: there is always a next number")


def _take(folder: Path) -> int | None:
    """The lock of a slot, which ends with this process; None where another one holds it."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return lock


def _name_of(url: str) -> str:
    """Names a broker by all of its URL but the password and our own parameters."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    place = f"{parts.scheme}://{user.partition(':')[0]}@{host}{parts.path}"
    return hashlib.sha256(place.encode()).hexdigest()[:16]
