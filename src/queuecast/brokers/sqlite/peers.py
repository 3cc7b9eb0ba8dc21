"""The other processes that have the database open: waking them, and noticing when one dies.

Each owns a FIFO in the folder beside the database and keeps it open; whoever commits writes the numbers of the
queues that changed into the others' FIFOs. A FIFO whose reader is gone refuses to be opened for writing (ENXIO), and
the kernel tells everyone who has it open (POLLERR), so a death is noticed at once and nothing is ever polled.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

SUFFIX: Final = ".fifo"
ATOMIC_BYTES: Final = 512
"""What any system writes into a pipe whole or not at all (POSIX, PIPE_BUF)."""

FULL_BYTES: Final = 3_500
"""A reader that finds this much may have missed more: the smallest pipe holds 4,096 bytes, and who finds it full
does not wait. So it takes everything for changed."""


class Change(NamedTuple):
    """A queue's log grew; `work`: one of its tasks has another time to be delivered."""

    queue: int
    work: bool


class News(NamedTuple):
    """What the FIFO said. `everything`: some of it may be missing, look everywhere."""

    changes: list[Change]
    newcomer: bool
    everything: bool


def encode(changes: Iterable[Change]) -> bytes:
    words = [change.queue << 1 | change.work for change in changes]
    return struct.pack(f"={len(words)}I", *words)


HELLO: Final = struct.pack("=I", 0)
"""No queue has the number 0: a process has joined."""


def decode(data: bytes) -> News:
    words = struct.unpack(f"={len(data) // 4}I", data)
    changes = [Change(word >> 1, bool(word & 1)) for word in dict.fromkeys(words) if word]
    return News(changes, 0 in words, len(data) >= FULL_BYTES)


class Peers:
    """Belongs to the writer's thread, but for `inbox`, which the event loop reads, and `ring`."""

    def __init__(self, folder: Path, token: str) -> None:
        self.inbox = -1
        self._folder = folder
        self._fifo = folder / (token + SUFFIX)
        self._token = token
        self._tokens: dict[int, str] = {}
        self._fds: dict[str, int] = {}
        self._poll = select.poll()
        self._bell, self._clapper = os.pipe()
        for end in (self._bell, self._clapper):
            os.set_blocking(end, False)
        self._poll.register(self._bell, select.POLLIN)

    def join(self) -> bool:
        """Make the own FIFO and greet the others. Needs the turn, else a half-made one would be taken for dead.

        True when one is found whose owner is dead: nobody else may be there to bury it.
        """
        os.mkfifo(self._fifo, 0o600)
        # Open for writing as well, so that it never reads as ended while no peer has it open.
        self.inbox = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        found_dead = self.scan()
        self.tell(HELLO)
        return found_dead

    def scan(self) -> bool:
        """Open the FIFOs of newcomers. True when one is found whose owner is dead."""
        found_dead = False
        for path in self._folder.glob("*" + SUFFIX):
            token = path.name.removesuffix(SUFFIX)
            if token != self._token and token not in self._fds:
                found_dead |= not self._reach(token)
        return found_dead

    def alive(self, token: str) -> bool:
        return token == self._token or token in self._fds or self._reach(token)

    def bury(self) -> None:
        """Remove the FIFOs of the dead. Needs the turn."""
        for path in self._folder.glob("*" + SUFFIX):
            if not self.alive(path.name.removesuffix(SUFFIX)):
                path.unlink(missing_ok=True)

    def tell(self, message: bytes) -> None:
        """To everyone. Whoever's FIFO is full is going to look everywhere; who is gone shows in `wait`."""
        parts = [message[start : start + ATOMIC_BYTES] for start in range(0, len(message), ATOMIC_BYTES)]
        for fd in self._tokens:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                for part in parts:
                    os.write(fd, part)

    def wait(self, seconds: float | None) -> bool:
        """Sleep until `ring`, a death or the timeout. True when a process has died or left."""
        millis = None if seconds is None else max(0.0, seconds * 1000)
        lost = False
        for fd, _ in self._poll.poll(millis):
            if fd == self._bell:
                os.read(fd, 4096)
            else:
                self._forget(fd)
                lost = True
        return lost

    def ring(self) -> None:
        """Wake the thread in `wait`, or the next one to call it. From any thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._clapper, b"!")

    def leave(self) -> None:
        self._fifo.unlink(missing_ok=True)
        self.let_go()

    def let_go(self) -> None:
        """Close everything and leave the files as they are, as a forked child must."""
        for fd in (self.inbox, self._bell, self._clapper, *self._tokens):
            if fd >= 0:
                os.close(fd)
        self.inbox = self._bell = self._clapper = -1
        self._tokens.clear()
        self._fds.clear()

    def _reach(self, token: str) -> bool:
        """Open a peer's FIFO. False when its owner is dead; short of descriptors it is unreachable, but not dead."""
        try:
            fd = os.open(self._folder / (token + SUFFIX), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            return error.errno not in {errno.ENXIO, errno.ENOENT}
        self._fds[token], self._tokens[fd] = fd, token
        self._poll.register(fd, 0)
        return True

    def _forget(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._fds[self._tokens.pop(fd)]
        os.close(fd)
