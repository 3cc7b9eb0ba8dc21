"""Where a handler's body runs: in the event loop, in a thread, or in a process of its own.

Each runner has two verbs: `run` gives what the handler returned or raises what it raised, `stop` asks it to end.
"""

from __future__ import annotations

import asyncio
import contextvars
from contextlib import aclosing, closing
from typing import Any, Protocol

from msgspec import Raw

from ..handler import Handler
from .children import Child, Children
from .context import RunContext
from .threads import Threads


class Runner(Protocol):
    async def run(self, handler: Handler[Any, Any, Any], context: RunContext, args: Raw) -> Any: ...

    def stop(self) -> None:
        """Called once at most, while `run` runs."""
        ...


class LoopRunner:
    """For `async def`: the handler is the running asyncio task, and is cancelled."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None

    async def run(self, handler: Handler[Any, Any, Any], context: RunContext, args: Raw) -> Any:
        self._task = asyncio.current_task()
        called = call(handler, context, args)
        if not handler.signature.generates:
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

    async def run(self, handler: Handler[Any, Any, Any], context: RunContext, args: Raw) -> Any:
        body = _drain if handler.signature.generates else call
        return await self._threads.run(contextvars.copy_context().run, body, handler, context, args)

    def stop(self) -> None:
        return


class ProcessRunner:
    """For `process=True`, and for a task whose worker died of it perhaps: asked to end, then killed after a grace."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._child: Child | None = None
        self._stopped = False

    async def run(self, handler: Handler[Any, Any, Any], context: RunContext, args: Raw) -> Any:
        async with self._children.lease(handler) as child:
            self._child = child
            if self._stopped:
                child.end()
            return await child.run(handler, context, args)

    def stop(self) -> None:
        self._stopped = True
        if self._child is not None:
            self._child.end()


def call(handler: Handler[Any, Any, Any], context: Any, args: Raw) -> Any:
    """Call the user's function with its arguments, checked again: whoever submitted may have had other code."""
    named = handler.signature.decode(args)
    return handler.function(context, **named) if handler.signature.wants_context else handler.function(**named)


def _drain(handler: Handler[Any, Any, Any], context: RunContext, args: Raw) -> None:
    with closing(call(handler, context, args)) as values:
        for value in values:
            context.output_from_thread(value)
