"""The worker as a child of the gateway's process: started again whenever it dies, and never left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Self

from .exits import CommandError, Exit

logger = logging.getLogger(__name__)

QUICK_SECONDS: Final = 10.0
"""A worker that lived shorter than this has died quickly."""

RESTART_SECONDS: Final = 0.5
"""Seconds before a new start after the second quick death in a row, doubled with each; after the first, at once."""

MAX_RESTART_SECONDS: Final = 30.0
"""Seconds that the doubling ends at."""

STOP_SECONDS: Final = 35.0
"""Seconds the worker has to stop in, a little more than it allows itself. Then it is killed."""

HOPELESS: Final = frozenset({Exit.USAGE, Exit.STARTUP})
"""A worker that exits with one of these has said what must be changed; starting it again would not help."""


class WorkerChild:
    """`queuecast worker` with these arguments, as a process of its own.

    Leaving the block stops it, waits for it, and raises the `CommandError` of a worker that could not start.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self._process: Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._stopping = False
        # The child reads this pipe, into which nobody writes: it ends when this process does, however that happens.
        self._theirs, self._ours = os.pipe()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._keeping is not None:
                # Asked a second time the worker would give up what it is about to finish.
                if not self._stopping:
                    self.stop()
                await self._ended(self._keeping)
        finally:
            os.close(self._theirs)
            os.close(self._ours)

    def start(self, on_failure: Callable[[], None]) -> None:
        """Start the worker and keep it running; `on_failure` is called when it never will."""

        def done(keeping: asyncio.Task[None]) -> None:
            if not keeping.cancelled() and keeping.exception() is not None:
                on_failure()

        self._keeping = asyncio.create_task(self._keep_running(), name="queuecast worker child")
        self._keeping.add_done_callback(done)

    def stop(self) -> None:
        """Ask the worker to stop; asked again, it does so at once."""
        self._stopping = True
        if self._lives:
            self._signal(signal.SIGTERM)
        elif self._keeping is not None:
            self._keeping.cancel()

    def kill(self) -> None:
        """End the worker as a crash would. Another one is started."""
        self._signal(signal.SIGKILL)

    @property
    def _lives(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._lives:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _ended(self, keeping: asyncio.Task[None]) -> None:
        _, late = await asyncio.wait({keeping}, timeout=STOP_SECONDS)
        if late:
            logger.error("the worker did not stop within %.0f seconds: killing it", STOP_SECONDS)
            self._signal(signal.SIGKILL)
        with suppress(asyncio.CancelledError):
            await keeping

    async def _keep_running(self) -> None:
        quick_deaths = 0
        while not self._stopping:
            lived, code = await self._live()
            if self._stopping:
                return
            if code in HOPELESS:
                raise CommandError("the worker cannot start, as it says above", Exit.STARTUP)
            quick_deaths = quick_deaths + 1 if lived < QUICK_SECONDS else 0
            delay = _delay(quick_deaths)
            when = f"in {delay:g} seconds" if delay else "at once"
            logger.error("the worker ended with %s: starting it again %s", _how(code), when)
            await asyncio.sleep(delay)

    async def _live(self) -> tuple[float, int]:
        """One worker's life: for how many seconds, and the exit code."""
        loop = asyncio.get_running_loop()
        born = loop.time()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "queuecast", "worker", *self._arguments, "--parent", str(self._theirs)),
            pass_fds=[self._theirs],
            # A Ctrl-C at the terminal is for this process, which tells the worker.
            start_new_session=True,
        )
        if self._stopping:
            self.stop()
        code = await self._process.wait()
        return loop.time() - born, code


def _delay(quick_deaths: int) -> float:
    if quick_deaths <= 1:
        return 0.0
    return min(RESTART_SECONDS * 2.0 ** (quick_deaths - 2), MAX_RESTART_SECONDS)


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
