"""The child process: runs the handlers it is told to, one at a time, until its worker is gone."""

from __future__ import annotations

import asyncio
import importlib
import os
import queue as queues
import runpy
import signal
import socket
import sys
import threading
import time
from types import FrameType, ModuleType
from typing import Any

import msgspec
from msgspec import Raw

from ..app import Queuecast
from ..context import Context
from ..errors import TaskCancelled
from ..handler import Handler
from ..queue import Queue
from .context import PROGRESS_INTERVAL
from .outcome import describe, sendable
from .runners import call
from .wire import CHILD_FD, Answer, Job, Output, Raised, Reported, Returned, encode


class ChildContext(Context):
    """Sends what the handler says to the worker; asked to stop, it says so and raises."""

    def __init__(self, job: Job, state: Any, link: Link) -> None:
        self.id = job.id
        self.attempt = job.attempt
        self.state = state
        self._link = link
        self._latest: Reported | None = None
        self._quiet_until = 0.0

    @property
    def cancelled(self) -> bool:
        return self._link.ended

    def progress(self, current: float, total: float | None = None, note: str = "") -> None:
        self._latest = Reported(current, total, note)
        if time.monotonic() >= self._quiet_until:
            self.flush()

    def output(self, value: Any) -> None:
        self.flush()
        self._link.send(Output(sendable(value, "output")))

    def flush(self) -> None:
        if self._latest is not None:
            self._quiet_until = time.monotonic() + PROGRESS_INTERVAL
            latest, self._latest = self._latest, None
            self._link.send(latest)


class Link:
    """The socket to the worker. Jobs are read in a thread of its own, so that the worker's end is noticed at once."""

    def __init__(self, fd: int) -> None:
        self.ended = False
        self.jobs: queues.SimpleQueue[Job] = queues.SimpleQueue()
        self._socket = socket.socket(fileno=fd)
        self._decode = msgspec.json.Decoder(Job).decode
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, answer: Answer) -> None:
        self._socket.sendall(encode(answer))

    def _listen(self) -> None:
        with self._socket.makefile("rb") as stream:
            while head := stream.read(4):
                self.jobs.put(self._decode(stream.read(int.from_bytes(head, "big"))))
        # The worker is gone: its task will be run again elsewhere, so this run must not go on.
        os._exit(1)


class Child:
    """One process: an event loop for async handlers, the main thread for the others."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._runner = asyncio.Runner()
        self._task: asyncio.Task[Any] | None = None
        self._states: dict[int, Any] = {}

    def serve(self) -> None:
        signal.signal(signal.SIGTERM, self._end)
        while True:
            job = self._link.jobs.get()
            answer = self._run(job)
            self._link.send(answer)

    def _run(self, job: Job) -> Returned | Raised:
        try:
            handler = _load(job)
            context = ChildContext(job, self._state_of(handler.queue.app), self._link)
            result = self._call(handler, context, job.args)
            context.flush()
            return Returned(sendable(result, "result"))
        except (Exception, asyncio.CancelledError, KeyboardInterrupt) as error:
            return Raised(describe(error))

    def _call(self, handler: Handler[Any, Any, Any], context: ChildContext, args: Raw) -> Any:
        if handler.signature.kind == "async":
            return self._runner.run(self._call_async(handler, context, args))
        called = call(handler, context, args)
        if not handler.signature.generates:
            return called
        for value in called:
            context.output(value)
        return None

    async def _call_async(self, handler: Handler[Any, Any, Any], context: ChildContext, args: Raw) -> Any:
        self._task = asyncio.current_task()
        try:
            called = call(handler, context, args)
            if not handler.signature.generates:
                return await called
            async for value in called:
                context.output(value)
            return None
        finally:
            self._task = None

    def _state_of(self, app: Queuecast) -> Any:
        """What the application's lifespan yields, entered once in this process; it ends with the process."""
        if app.lifespan is None:
            return None
        if id(app) not in self._states:
            self._states[id(app)] = self._runner.run(_enter(app.lifespan()))
        return self._states[id(app)]

    def _end(self, _signal: int, _frame: FrameType | None) -> None:
        self._link.ended = True
        if self._task is not None:
            self._runner.get_loop().call_soon_threadsafe(self._task.cancel)
        else:
            raise TaskCancelled("this run was asked to stop")


async def _enter(manager: Any) -> Any:
    return await manager.__aenter__()


def _load(job: Job) -> Handler[Any, Any, Any]:
    """Import the handler's module, as the worker did, and find it by queue and name."""
    found = importlib.import_module(job.module) if job.main is None else _main_module(job.main)
    for value in vars(found).values():
        app = _app_of(value)
        if app is not None and job.queue in app.queues and job.name in app.queues[job.queue].handlers:
            return app.queues[job.queue].handlers[job.name]
    raise LookupError(f"{job.module} has no handler {job.name!r} of queue {job.queue!r} at its top level")


def _main_module(path: str) -> ModuleType:
    """The program itself, under a name that keeps its main guard from starting it again (as multiprocessing does)."""
    if "__mp_main__" not in sys.modules:
        module = sys.modules["__mp_main__"] = ModuleType("__mp_main__")
        module.__dict__.update(runpy.run_path(path, run_name="__mp_main__"))
    return sys.modules["__mp_main__"]


def _app_of(value: object) -> Queuecast | None:
    if isinstance(value, Handler):
        return value.queue.app
    if isinstance(value, Queue):
        return value.app
    return value if isinstance(value, Queuecast) else None


if __name__ == "__main__":
    Child(Link(int(os.environ.pop(CHILD_FD)))).serve()
