"""Where a handler's body runs: in the event loop, in a thread, or in a process of its own.

Each runner has two verbs: `run` gives what the handler returned or raises what it raised, `stop` asks it to end.
"""

from __future__ import annotations

import asyncio
import contextvars
from contextlib import aclosing, closing
from functools import partial
from typing import Any, NamedTuple, Protocol

from msgspec import Raw

from ..context import Context
from ..handler import Handler
from .children import Child, Children
from .context import RunContext
from .threads import Threads


class Call(NamedTuple):
    """A handler and its arguments, checked again: whoever submitted may have had other code."""

    handler: Handler[Any, Any, Any]
    args: Raw
    named: dict[str, Any]

    @classmethod
    def of(cls, handler: Handler[Any, Any, Any], args: Raw) -> Call:
        """Raises `InvalidInput` for arguments that do not fit the handler."""
        return cls(handler, args, handler.signature.decode(args))

    @property
    def generates(self) -> bool:
        return self.handler.signature.generates

    def begin(self, context: Context) -> Any:
        """Call the user's function: gives what it returns, a coroutine or a generator."""
        function = self.handler.function
        return function(context, **self.named) if self.handler.signature.wants_context else function(**self.named)


class Runner(Protocol):
    async def run(self, call: Call, context: RunContext) -> Any: ...

    def stop(self) -> None:
        """Called once at most, while `run` runs."""
        ...


class LoopRunner:
    """For `async def`: the handler is the running asyncio task, and is cancelled."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None

    async def run(self, call: Call, context: RunContext) -> Any:
        self._task = asyncio.current_task()
        called = call.begin(context)
        if not call.generates:
            return await called
        async with aclosing(called) as outputs:
            async for value in outputs:
                await context.output(value)
        return None

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()


class ThreadRunner:
    """For `def`: a thread cannot be stopped from outside, so it is waited for; its context tells it."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    async def run(self, call: Call, context: RunContext) -> Any:
        body = partial(_drain, call) if call.generates else call.begin
        return await self._threads.run(contextvars.copy_context().run, body, context)

    def stop(self) -> None:
        return


class ProcessRunner:
    """For `process=True`, and for a task whose worker died of it perhaps: asked to end, then killed after a grace."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._child: Child | None = None
        self._stopped = False

    async def run(self, call: Call, context: RunContext) -> Any:
        async with self._children.lease(call.handler) as child:
            self._child = child
            if self._stopped:
                child.end()
            return await child.run(call.handler, context, call.args)

    def stop(self) -> None:
        self._stopped = True
        if self._child is not None:
            self._child.end()


def _drain(call: Call, context: RunContext) -> None:
    with closing(call.begin(context)) as values:
        for value in values:
            context.output_from_thread(value)
