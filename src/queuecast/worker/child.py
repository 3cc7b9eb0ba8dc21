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
from contextlib import aclosing, closing
from types import FrameType, ModuleType
from typing import Any

import msgspec

from ..app import Queuecast
from ..context import Context
from ..errors import TaskCancelled
from ..handler import Handler
from ..queue import Queue
from .context import PROGRESS_INTERVAL, reported
from .outcome import describe, sendable
from .runners import Call
from .wire import CHILD_FD, CHILD_PYTHONPATH, Answer, Assignment, Output, Raised, Reported, Returned, encode


class ChildContext(Context):
    """Sends what the handler says to the worker; asked to stop, it says so and raises."""

    def __init__(self, assignment: Assignment, state: Any, link: Link) -> None:
        self.id = assignment.id
        self.attempt = assignment.attempt
        self.state = state
        self._link = link
        self._latest: Reported | None = None
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()

    @property
    def cancelled(self) -> bool:
        return self._link.ended

    def progress(self, current: float, total: float | None = None, note: str = "") -> None:
        progress = reported(current, total, note)
        with self._lock:
            self._latest = Reported(progress.current, progress.total, progress.note)
            if self._timer is None:
                self._send_latest()

    def output(self, value: Any) -> None:
        body = sendable(value, "output")
        self.flush()
        self._link.send(Output(body))

    def flush(self) -> None:
        with self._lock:
            latest, self._latest = self._latest, None
            if latest is not None:
                self._link.send(latest)

    def close(self) -> None:
        """The run has ended: say what was reported last."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self.flush()

    def _send_latest(self) -> None:
        """Send the newest progress, and look again after the interval; stop looking when nothing new came."""
        with self._lock:
            self._timer = None
            if self._latest is not None:
                self._timer = threading.Timer(PROGRESS_INTERVAL, self._send_latest)
                self._timer.daemon = True
                self._timer.start()
                self.flush()


class Link:
    """The socket to the worker. It is read in a thread of its own, so that the worker's end is noticed at once."""

    def __init__(self, fd: int) -> None:
        self.ended = False
        self._lock = threading.Lock()
        self._sender: int | None = None
        self._held_back = False
        self.assignments: queues.SimpleQueue[Assignment] = queues.SimpleQueue()
        self._socket = socket.socket(fileno=fd)
        self._decode = msgspec.json.Decoder(Assignment).decode
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, answer: Answer) -> None:
        """Whole or not at all: what the worker got half it could not read on from."""
        frame = encode(answer)
        with self._lock:
            self._sender = threading.get_ident()
            self._socket.sendall(frame)
            self._sender = None
        if self._held_back:
            self._held_back = False
            raise TaskCancelled("this run was asked to stop")

    def interrupt(self) -> None:
        """Raise in the main thread, from a signal's handler; after its frame, where it is in the middle of one."""
        if self._sender == threading.get_ident():
            self._held_back = True
        else:
            raise TaskCancelled("this run was asked to stop")

    def _listen(self) -> None:
        try:
            with self._socket.makefile("rb") as stream:
                while head := stream.read(4):
                    self.assignments.put(self._decode(stream.read(int.from_bytes(head, "big"))))
        finally:
            # The worker is gone (with a reset, where it was killed before it had read everything): its task will be
            # run again elsewhere, so this run must not go on.
            os._exit(1)


class ChildMain:
    """One process: an event loop for async handlers, the main thread for the others."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._runner = asyncio.Runner()
        self._running = False
        self._task: asyncio.Task[Any] | None = None
        self._states: dict[int, Any] = {}

    def serve(self) -> None:
        signal.signal(signal.SIGTERM, self._end)
        while True:
            assignment = self._link.assignments.get()
            answer = self._run(assignment)
            # A child is killed, not ended: what its handlers printed would be lost in a buffer.
            sys.stdout.flush()
            self._link.send(answer)

    def _run(self, assignment: Assignment) -> Returned | Raised:
        try:
            handler = _load(assignment)
            state = self._state_of(handler.queue.app)
            with closing(ChildContext(assignment, state, self._link)) as context:
                self._running = True
                try:
                    if self._link.ended:
                        self._link.interrupt()
                    result = self._call(Call.of(handler, assignment.args), context)
                finally:
                    self._running = False
            return Returned(sendable(result, "result"))
        except BaseException as error:
            # A handler that exits ends its task, not the process: only what kills it counts as its death.
            return Raised(describe(error))

    def _call(self, call: Call, context: ChildContext) -> Any:
        if call.handler.signature.kind == "async":
            return self._runner.run(self._call_async(call, context))
        called = call.begin(context)
        if not call.generates:
            return called
        with closing(called) as outputs:
            for value in outputs:
                context.output(value)
        return None

    async def _call_async(self, call: Call, context: ChildContext) -> Any:
        self._task = asyncio.current_task()
        try:
            called = call.begin(context)
            if not call.generates:
                return await called
            async with aclosing(called) as outputs:
                async for value in outputs:
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
        elif self._running:
            self._link.interrupt()


async def _enter(manager: Any) -> Any:
    return await manager.__aenter__()


def _load(assignment: Assignment) -> Handler[Any, Any, Any]:
    """Import the handler's module, as the worker did, and find it by queue and name."""
    found = importlib.import_module(assignment.module) if assignment.main is None else _main_module(assignment.main)
    for value in vars(found).values():
        app = _app_of(value)
        if (
            app is not None
            and assignment.queue in app.queues
            and assignment.name in app.queues[assignment.queue].handlers
        ):
            if app.url != assignment.url:
                app.use(assignment.url)
            return app.queues[assignment.queue].handlers[assignment.name]
    raise LookupError(
        f"{assignment.module} has no handler {assignment.name!r} of queue {assignment.queue!r} at its top level"
    )


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


def _restore_path() -> None:
    """A program of another Python that a handler starts must not import from this one's path."""
    own = os.environ.pop(CHILD_PYTHONPATH)
    if own:
        os.environ["PYTHONPATH"] = own
    else:
        del os.environ["PYTHONPATH"]


if __name__ == "__main__":
    _restore_path()
    ChildMain(Link(int(os.environ.pop(CHILD_FD)))).serve()
