"""The task ref: what submit returns, to await the result, follow the events, or cancel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from .errors import AttemptRestarted, TaskCancelled, TaskError, TaskFailed
from .event import Event
from .handler import decode_hook

if TYPE_CHECKING:
    from .queue import Queue

Y = TypeVar("Y")
R = TypeVar("R")


class TaskRef(Generic[Y, R]):
    """One task, from wherever it is asked for. `cursor` is the place in its queue's log where it was submitted."""

    def __init__(self, queue: Queue, id: str, cursor: str = "", returns: Any = Any, yields: Any = Any) -> None:
        self.id = id
        self.queue = queue.name
        self.cursor = cursor
        self._queue = queue
        self._returns = returns
        self._yields = yields
        self._outputs_after: str | None = None

    def __repr__(self) -> str:
        return f"<TaskRef {self.queue}/{self.id}>"

    async def result(self, timeout: float | None = None) -> R:
        """The handler's result, converted to its return annotation. `timeout` is seconds; None waits for ever.

        Raises `TaskFailed`, `TaskCancelled`, `ResultExpired` (unknown, or older than the log's retention) and
        `TimeoutError`; the task goes on after a timeout. `TaskError` where the result does not fit the annotation.
        """
        async with asyncio.timeout(timeout):
            session = await self._queue.app.session()
            ending = await session.wait_for_result(self.queue, self.id)
        if ending.state == "succeeded":
            result: R = self._converted(ending.result, self._returns)
            return result
        raise _refusal(ending.state, ending.error)

    def events(self, after: str | None = None) -> AsyncGenerator[Event, None]:
        """The task's events, from its first or after a cursor, to its result.

        Raises `ResetRequired` for a cursor that cannot be honoured, `ResultExpired` for an unknown task.
        """
        return self._queue.events_of(self.id, after)

    async def outputs(self) -> AsyncGenerator[Y, None]:
        """What a generator handler yields, converted to its annotation.

        Raises `AttemptRestarted` when the run whose outputs were followed is given up for another: called again, it
        follows that one from its beginning. Otherwise raises as `result` does.
        """
        run: str | None = None
        before = self._outputs_after
        async with aclosing(self.events(before)) as events:
            async for event in events:
                if event.type == "result":
                    if event.state != "succeeded":
                        raise _refusal(event.state, event.error)
                elif run not in (None, event.run) and event.run is not None:
                    self._outputs_after = before
                    raise AttemptRestarted(f"task {self.id} began again with run {event.run}")
                elif event.type == "output":
                    run = event.run
                    yield self._converted(event.output, self._yields)
                before = event.cursor

    async def cancel(self) -> None:
        """Ask for the task to be cancelled, wherever it is; nothing happens when it has ended.

        A handler in an event loop is cancelled, one in a process is killed after a grace, one in a thread is asked.
        """
        await self._queue.cancel(self.id)

    def _converted(self, value: Any, annotation: Any) -> Any:
        try:
            return msgspec.convert(value, annotation, dec_hook=decode_hook)
        except (msgspec.ValidationError, NotImplementedError) as error:
            raise TaskError(f"what task {self.id} gave does not fit its handler's annotation: {error}") from error


def _refusal(state: str, error: Any) -> TaskFailed | TaskCancelled:
    if state == "cancelled":
        return TaskCancelled("the task was cancelled")
    return TaskFailed(error.type, error.message) if error else TaskFailed("failed", "")
