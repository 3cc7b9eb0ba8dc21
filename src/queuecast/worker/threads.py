"""Threads for `def` handlers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeAlias

_Work: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[_Ending]"]
_Ending: TypeAlias = tuple[Any, BaseException | None]


class Threads:
    """As many threads as run at once, kept for what comes next.

    Not `ThreadPoolExecutor`: its threads are waited for when the process exits, so one handler that never ends would
    keep a stopped worker alive. And an exception crosses over as a value, because no asyncio future takes a
    `StopIteration` (python/cpython#112182).
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._count = 0
        self._idle = 0

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """What the function returns or raises. When this is cancelled its thread is left behind."""
        future: asyncio.Future[_Ending] = asyncio.get_running_loop().create_future()
        if self._idle:
            self._idle -= 1
        else:
            self._count += 1
            threading.Thread(target=self._serve, name=f"queuecast handler {self._count}", daemon=True).start()
        self._work.put((function, args, future))
        result, error = await future
        if error is None:
            return result
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def close(self) -> None:
        """End each thread once its function has returned."""
        for _ in range(self._count):
            self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            function, args, future = work
            ending = _ending(function, args)
            with suppress(RuntimeError):  # the loop is closed: this thread was left behind
                future.get_loop().call_soon_threadsafe(self._ended, future, ending)
            del work, function, args, future, ending

    def _ended(self, future: asyncio.Future[_Ending], ending: _Ending) -> None:
        self._idle += 1
        if not future.done():
            future.set_result(ending)


def _ending(function: Callable[..., Any], args: tuple[Any, ...]) -> _Ending:
    try:
        return function(*args), None
    except BaseException as error:
        return None, error
