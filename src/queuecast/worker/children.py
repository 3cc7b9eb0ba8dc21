"""Child processes that run one handler at a time and can be killed, as the worker sees them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any, Final

import msgspec
from msgspec import Raw

from ..handler import Handler
from ..processes import Process
from .context import RunContext
from .outcome import HandlerRaised, ProcessDied
from .wire import (
    CHILD_FD,
    CHILD_PYTHONPATH,
    Assignment,
    Output,
    Raised,
    Reported,
    Returned,
    decode_answer,
    encode,
    read_frame,
)

KILL_GRACE: Final = 5.0
"""Seconds between asking a child to end (SIGTERM) and killing it (SIGKILL)."""

LAST_ANSWER_SECONDS: Final = 0.2
"""Seconds to read what a child had said before it ended."""

MAX_IDLE_CHILDREN: Final = 4
"""Idle children kept warm; more are ended as they become idle."""


class Children:
    """The worker's pool of child processes. A child that was asked to end, or died, is not used again."""

    def __init__(self) -> None:
        self._idle: list[Child] = []

    @asynccontextmanager
    async def lease(self, handler: Handler[Any, Any, Any]) -> AsyncIterator[Child]:
        child = await self._from_idle() or await Child.start()
        try:
            yield child
        finally:
            if child.reusable and len(self._idle) < MAX_IDLE_CHILDREN:
                self._idle.append(child)
            else:
                await child.kill()

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().kill()

    async def _from_idle(self) -> Child | None:
        while self._idle:
            child = self._idle.pop()
            if child.alive:
                return child
            await child.kill()
        return None


class Child:
    """One process and the socket to it."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reusable = False
        self._process = process
        self._reader = reader
        self._writer = writer
        self._killer: asyncio.TimerHandle | None = None

    @classmethod
    async def start(cls) -> Child:
        ours, theirs = socket.socketpair()
        with theirs, ExitStack() as undo:
            undo.callback(ours.close)
            process = Process(
                # The program's own arguments: where the handler lives in the program, it is run once more there.
                [sys.executable, "-P", "-m", "queuecast.worker.child", *sys.argv[1:]],
                [theirs.fileno()],
                _environment(theirs.fileno()),
            )
            undo.pop_all()
        reader, writer = await asyncio.open_connection(sock=ours)
        child = cls(process, reader, writer)
        process.exit.add_done_callback(child._exited)
        return child

    @property
    def alive(self) -> bool:
        return not self._process.exit.done() and not _has_ended(self._process.pid)

    async def run(self, handler: Handler[Any, Any, Any], context: RunContext, args: Raw) -> Any:
        """What the handler returned, as JSON. Raises `HandlerRaised`, or `ProcessDied` with how."""
        self.reusable = False
        main = sys.modules["__main__"]
        self._writer.write(
            encode(
                Assignment(
                    url=handler.queue.app.url,
                    module=handler.function.__module__,
                    main=getattr(main, "__file__", None) if handler.function.__module__ == "__main__" else None,
                    queue=handler.queue.name,
                    name=handler.name,
                    id=context.id,
                    attempt=context.attempt,
                    args=args,
                )
            )
        )
        while True:
            answer = await self._answer()
            if isinstance(answer, Reported):
                context.progress(answer.current, answer.total, answer.note)
            elif isinstance(answer, Output):
                await context.output(answer.value)
            else:
                self.reusable = self._killer is None
                return _returned(answer)

    async def _answer(self) -> Reported | Output | Returned | Raised:
        try:
            return decode_answer(await read_frame(self._reader))
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.MsgspecError) as error:
            if isinstance(error, msgspec.MsgspecError):
                self._kill()  # it would wait for more work
            code = await asyncio.shield(self._process.exit)
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise ProcessDied(f"the process that ran it ended with {how}") from error

    def end(self) -> None:
        """Ask the handler to end, and kill the process when it has not after the grace."""
        self.reusable = False
        if self.alive and self._killer is None:
            self._process.signal(signal.SIGTERM)
            self._killer = asyncio.get_running_loop().call_later(KILL_GRACE, self._kill)

    async def kill(self) -> None:
        if self._killer is not None:
            self._killer.cancel()
        self._kill()
        self._writer.close()
        await asyncio.shield(self._process.exit)

    def _kill(self) -> None:
        """With all that it started: it leads a process group of its own."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _exited(self, _: asyncio.Future[int]) -> None:
        # What it had started may live on and hold the socket open, so that its end alone would not be noticed.
        asyncio.get_running_loop().call_later(LAST_ANSWER_SECONDS, self._writer.transport.abort)


def _has_ended(pid: int) -> bool:
    """Asks the kernel, which knows before the event loop has been told; leaves the exit code for that one."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return False
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _environment(fd: int) -> dict[str, str]:
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    own = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": paths, CHILD_PYTHONPATH: own, CHILD_FD: str(fd)}


def _returned(answer: Returned | Raised) -> Raw:
    if isinstance(answer, Raised):
        raise HandlerRaised(answer.error)
    return answer.result
