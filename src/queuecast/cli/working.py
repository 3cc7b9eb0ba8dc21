"""The worker's process: runs until a signal says stop, and always comes to an end then."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import FrameType
from typing import Any, Final, NoReturn, TypeVar

from ..app import Queuecast
from ..worker.worker import CONCURRENCY, KILL_PATIENCE, STOP_GRACE, Worker
from .exits import CommandError, Exit

logger = logging.getLogger(__name__)

T = TypeVar("T")

STOP_SECONDS: Final = STOP_GRACE + KILL_PATIENCE + 3.0
"""Seconds from the first signal to the end. After that the process exits with whatever still runs: a handler in a
thread can refuse to end, and its task is then run again as that of a worker that was lost."""

GC_THRESHOLD: Final = 20_000
"""New objects after which the youngest are looked through for garbage; 700 is Python's own (bench/sqlite_tasks.py)."""

FLUSH_SECONDS: Final = 1.0
"""Seconds for what was printed to be written, at an exit that waits for nobody. Then it is lost."""


def run_in_loop(work: Coroutine[Any, Any, T]) -> T:
    """In uvloop where there is one."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _collect_rarely() -> None:
    """What is imported stays, and of what a task makes little is a cycle: to look for more costs a tenth of the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


async def work(app: Queuecast, queues: tuple[str, ...], concurrency: int | None) -> None:
    """Run the application's handlers until SIGTERM or SIGINT; at a second one exit at once.

    Raises `ConfigurationError` for queues or a broker that can never work, `BrokerUnavailable`, and `CommandError` when
    the broker has ended under it.
    """
    _collect_rarely()
    stop = asyncio.Event()
    _stop_at_signals(stop)
    session = await app.session()
    session.when_ended(lambda _: stop.set())
    worker = Worker(app, session, queues=queues or None, concurrency=concurrency or CONCURRENCY)
    async with worker.running():
        logger.info("%r on %s is ready", worker, app.url)
        await stop.wait()
        if not session.ended:
            logger.info("stopping: what runs has %.0f seconds to finish, then it is given back", STOP_GRACE)
    await app.close()
    if session.ended:
        raise CommandError(session.ended, Exit.BROKER_LOST)


def _stop_at_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def on_signal(signum: int, _frame: FrameType | None) -> None:
        """A handler of the interpreter and not of the loop, which a handler of the user's may be blocking."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _exit_at_once)
        _exit_after(STOP_SECONDS, 128 + signum)
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def _exit_at_once(signum: int, _frame: FrameType | None) -> NoReturn:
    _exit(128 + signum)


def _exit_after(seconds: float, code: int) -> None:
    timer = threading.Timer(seconds, _exit, [code])
    timer.daemon = True
    timer.start()


def end_with(parent: int) -> None:
    """Exit at once when the process that holds the other end of this pipe is gone, even while the loop is blocked."""

    def watch() -> None:
        os.read(parent, 1)
        _exit(1)

    threading.Thread(target=watch, name="queuecast parent", daemon=True).start()


def _exit(code: int) -> NoReturn:
    """Without waiting for threads, which the interpreter would do for ever."""
    flushing = threading.Thread(target=_flush, daemon=True)
    flushing.start()
    # A thread that is left behind may hold the lock of a stream.
    flushing.join(FLUSH_SECONDS)
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
