"""Starting processes and waiting for them, from an event loop.

Not by the event loop's own means: uvloop forks, and runs Python in the copy before that becomes the program that was
asked for. When the garbage collector comes by there, it destroys the clients of a broker whose threads the copy does
not have, which takes two seconds and ends with SIGSEGV. `subprocess` executes nothing of ours in between.
"""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final


class Process:
    """A program as the leader of a session of its own: a Ctrl-C at the terminal is for this process alone, which
    decides what becomes of those it has started. It inherits these file descriptors.

    Raises `OSError` where it cannot be started.
    """

    def __init__(
        self, arguments: Sequence[str], inherited: Sequence[int], environment: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, pass_fds=inherited, start_new_session=True, env=environment
        )
        self.pid: Final = self._process.pid
        self._loop = asyncio.get_running_loop()
        self.exit: Final[asyncio.Future[int]] = self._loop.create_future()
        """The exit code, or minus the number of the signal that ended it."""
        threading.Thread(target=self._wait, name=f"queuecast waits for {self.pid}", daemon=True).start()

    def signal(self, number: int) -> None:
        """Does nothing once it has ended."""
        if not self.exit.done():
            self._process.send_signal(number)

    def _wait(self) -> None:
        code = self._process.wait()
        with suppress(RuntimeError):  # The event loop has ended, and whoever waited in it.
            self._loop.call_soon_threadsafe(self._ended, code)

    def _ended(self, code: int) -> None:
        if not self.exit.done():
            self.exit.set_result(code)
