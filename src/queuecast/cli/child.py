"""A process of ours as a child of another one: started again whenever it dies, and never left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Self

from ..processes import Process
from .exits import CommandError, Exit

logger = logging.getLogger(__name__)

QUICK_SECONDS: Final = 10.0
"""A child that lived shorter than this has died quickly."""

RESTART_SECONDS: Final = 0.5
"""Seconds before a new start after the second quick death in a row, doubled with each; after the first, at once."""

MAX_RESTART_SECONDS: Final = 30.0
"""Seconds that the doubling ends at."""

STOP_SECONDS: Final = 35.0
"""Seconds a child has to stop in, a little more than worker and gateway allow themselves. Then it is killed."""

HOPELESS: Final = {
    Exit.USAGE: ("cannot start", Exit.STARTUP),
    Exit.STARTUP: ("cannot start", Exit.STARTUP),
    Exit.BROKER_LOST: ("cannot go on", Exit.BROKER_LOST),
}
"""A child that exits with one of these has said what must be done; starting it again would not help. What that means,
and with which code its parent ends."""


class KeptChild:
    """`queuecast` with these arguments as a process of its own, which inherits these file descriptors.

    `name` is what the log calls it. Leaving the block stops it, waits for it, and raises the `CommandError` of a child
    that could not start or go on.
    """

    def __init__(self, name: str, arguments: Sequence[str], inherited: Sequence[int] = ()) -> None:
        self._name = name
        self._arguments = arguments
        self._inherited = inherited
        self._process: Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._killing: asyncio.TimerHandle | None = None
        """Counts the seconds since it was asked to stop."""
        # The child reads this pipe, into which nobody writes: it ends when this process does, however that happens.
        self._theirs, self._ours = os.pipe()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._keeping is not None:
                # Asked a second time it would give up what it is about to finish.
                if not self._stopping:
                    self.stop()
                with suppress(asyncio.CancelledError):
                    await self._keeping
        finally:
            if self._killing is not None:
                self._killing.cancel()
            os.close(self._theirs)
            os.close(self._ours)

    def start(self, on_failure: Callable[[], None]) -> None:
        """Start it and keep it running; `on_failure` is called when it never will."""

        def done(keeping: asyncio.Task[None]) -> None:
            if not keeping.cancelled() and keeping.exception() is not None:
                on_failure()

        self._keeping = asyncio.create_task(self._keep_running(), name=f"queuecast keeps {self._name}")
        self._keeping.add_done_callback(done)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to stop, by this signal; asked again, it does so at once."""
        if self._killing is None:
            self._killing = asyncio.get_running_loop().call_later(STOP_SECONDS, self._kill_late)
        if self._lives:
            self._signal(number)
        elif self._keeping is not None:
            self._keeping.cancel()

    def kill(self) -> None:
        """End it as a crash would. Another one is started."""
        self._signal(signal.SIGKILL)

    @property
    def _lives(self) -> bool:
        return self._process is not None and not self._process.exit.done()

    @property
    def _stopping(self) -> bool:
        return self._killing is not None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.signal(number)

    def _kill_late(self) -> None:
        if self._lives:
            logger.error("%s did not stop within %.0f seconds: killing it", self._name, STOP_SECONDS)
            self.kill()

    async def _keep_running(self) -> None:
        quick_deaths = 0
        while not self._stopping:
            lived, code = await self._live()
            if self._stopping:
                return
            if code in HOPELESS:
                what, exit = HOPELESS[Exit(code)]
                raise CommandError(f"{self._name} {what}, as it says above", exit)
            quick_deaths = quick_deaths + 1 if lived < QUICK_SECONDS else 0
            delay = _delay(quick_deaths)
            when = f"in {delay:g} seconds" if delay else "at once"
            logger.error("%s ended with %s: starting it again %s", self._name, _how(code), when)
            await asyncio.sleep(delay)

    async def _live(self) -> tuple[float, int]:
        """One life: for how many seconds, and the exit code."""
        loop = asyncio.get_running_loop()
        born = loop.time()
        self._process = Process(
            [sys.executable, "-m", "queuecast", *self._arguments, "--parent", str(self._theirs)],
            [self._theirs, *self._inherited],
        )
        code = await asyncio.shield(self._process.exit)
        return loop.time() - born, code


def _delay(quick_deaths: int) -> float:
    if quick_deaths <= 1:
        return 0.0
    return min(RESTART_SECONDS * 2.0 ** (quick_deaths - 2), MAX_RESTART_SECONDS)


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
