"""One delivery, from its handing-over to its settlement."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from msgspec import Raw

from ..brokers import Delivery
from ..brokers.base import MAX_LONE_LOSSES
from ..errors import BrokerError, InvalidInput, QueuecastError
from ..event import ErrorInfo, Event, ended
from ..handler import Handler
from .context import RunContext
from .outcome import (
    MAX_MESSAGE_CHARS,
    Abandoned,
    Cancelled,
    Died,
    Failed,
    Interrupted,
    Outcome,
    Retrying,
    StopReason,
    Succeeded,
    describe,
    judge,
    printable,
    sendable,
)
from .runners import Call, Runner
from .trail import Trail

if TYPE_CHECKING:
    from .worker import Worker

logger = logging.getLogger(__name__)

AnyHandler = Handler[Any, Any, Any]

SETTLE_AGAIN_SECONDS: Final = 1.0
"""Seconds before a settlement that the broker did not take is tried again."""


class Run:
    """Runs what was delivered and settles it. `stop` may be called at any time, also before the handler began."""

    def __init__(self, worker: Worker, delivery: Delivery) -> None:
        self.delivery = delivery
        self._worker = worker
        self.task = delivery.task
        self._stopped: StopReason | None = None
        self._trail = Trail(delivery, time.time)
        self._context: RunContext | None = None
        self._runner: Runner | None = None

    def __repr__(self) -> str:
        return f"<Run of {self.task.queue}.{self.task.name} {self.task.id}, attempt {self.delivery.attempt}>"

    def stop(self, reason: StopReason) -> None:
        """Ask the handler to end; the first reason counts."""
        if self._stopped is not None:
            return
        self._stopped = reason
        if self._context is not None and self._runner is not None:
            self._context.stop()
            self._runner.stop()

    async def perform(self) -> None:
        """Look whether the task can be run at all; run it; say how it ended."""
        call = self._call()
        if isinstance(call, ErrorInfo):
            await self._bury(call)
            return
        alone = self.delivery.suspect and self._worker.can_isolate(call.handler)
        losses = self.delivery.losses
        while self._stopped is None:
            outcome = await self._execute(call, alone=alone)
            if not isinstance(outcome, Died):
                await self._conclude(outcome)
                return
            # The handler's process died and this worker lives: run it again, alone, and count from then on.
            self._trail = Trail(self.delivery, time.time)
            losses += alone
            alone = True
            if losses >= MAX_LONE_LOSSES:
                await self._bury(_lost(outcome.error.message))
                return
        await self._settle_unbegun()

    async def give_back(self) -> None:
        """After a defect of ours: to be delivered again, as no suspect. Raises `BrokerError`."""
        last: list[Event] = []
        if self._context is not None:
            error = ErrorInfo("interrupted", "the worker met a defect of its own")
            last = [*self._context.unwritten(), self._trail.task("retrying", error=error, delay=0.0)]
        await self.delivery.release(*last)

    def _call(self) -> Call | ErrorInfo:
        """What there is to run, or why this task can never be run."""
        if self.delivery.losses >= MAX_LONE_LOSSES:
            return _lost("its process died each time")
        handler = self._worker.handlers.get((self.task.queue, self.task.name))
        if handler is None:
            return ErrorInfo("unknown-task-name", f"this queue's worker has no handler named {self.task.name!r}")
        try:
            return Call.of(handler, self.task.args)
        except InvalidInput as error:
            # What is wrong may be quoted in full, and would then fit into no event.
            return ErrorInfo("invalid-arguments", printable(str(error), MAX_MESSAGE_CHARS))

    async def _execute(self, call: Call, *, alone: bool) -> Outcome:
        """One run of the handler."""
        self._context = context = RunContext(self.delivery, self._trail, self._worker.state)
        # Before the handler starts, so that one which kills its process has left a trace.
        await context.begin(self._trail.task("running", alone=alone))
        self._runner = self._worker.runner_for(call.handler, alone=alone)
        timer = self._start_timer()
        try:
            ending = await self._ending(self._runner, call, context)
        finally:
            self._runner = None
            if timer is not None:
                timer.cancel()
            context.close()
        if isinstance(ending, BaseException) and self._stopped is None:
            # The user's own exception comes with its traceback; ours say all they know in a sentence.
            ours = isinstance(ending, QueuecastError)
            error = describe(ending)
            logger.warning("%r raised %s: %s", self, error.type, error.message, exc_info=None if ours else ending)
        return judge(
            ending,
            self._stopped,
            attempt=self.delivery.attempt,
            retries=self.task.retries,
            random=random.random(),
        )

    async def _ending(self, runner: Runner, call: Call, context: RunContext) -> Raw | BaseException:
        """What the handler returned, as JSON, or what it raised."""
        if self._stopped is not None:
            return asyncio.CancelledError()  # before it started
        asyncio_task = asyncio.current_task()
        ending: Raw | BaseException
        try:
            ending = sendable(await runner.run(call, context), "result")
        except BaseException as error:
            if not _is_current(asyncio_task):
                raise  # the event loop is gone, and what is left of this run is thrown away
            # A handler that exits ends its task, not the worker.
            ending = error
        if asyncio_task is not None and asyncio_task.cancelling():
            if self._stopped is None and self._worker.is_cancelled and isinstance(ending, asyncio.CancelledError):
                raise ending
            # Else it was meant for the handler, or is its own doing.
            await _absorb_cancellation(asyncio_task)
        return ending

    def _start_timer(self) -> asyncio.TimerHandle | None:
        if self.task.timeout is None:
            return None
        return asyncio.get_running_loop().call_later(self.task.timeout, self.stop, "timeout")

    # How it is settled

    async def _conclude(self, outcome: Outcome) -> None:
        delivery, trail = self.delivery, self._trail
        match outcome:
            case Succeeded(result):
                await self._settle(delivery.ack, trail.result("succeeded", result=result))
            case Cancelled():
                await self._settle(delivery.ack, trail.result("cancelled"))
            case Failed(error):
                await self._settle(partial(delivery.reject, error.type), trail.result("failed", error=error))
            case Retrying(error, delay):
                await self._settle(partial(delivery.retry, delay), trail.task("retrying", error=error, delay=delay))
            case Interrupted():
                stopping = ErrorInfo("interrupted", "the worker is stopping")
                await self._settle(delivery.release, trail.task("retrying", error=stopping, delay=0.0))
            case Abandoned() | Died():
                logger.warning("%r goes on in another worker", self)

    async def _settle_unbegun(self) -> None:
        """It was stopped before its handler began, so that there is no run to speak of."""
        if self._stopped == "cancelled":
            await self._settle(self.delivery.ack, self._ended("cancelled"))
        elif self._stopped == "interrupted":
            await self._settle(self.delivery.release)

    async def _bury(self, error: ErrorInfo) -> None:
        logger.warning("%r is buried: %s %s", self, error.type, error.message)
        await self._settle(partial(self.delivery.reject, error.type), self._ended("failed", error))

    async def _settle(self, verb: Callable[..., Awaitable[object]], *last: Event) -> None:
        """Until the broker has taken it, with all that it did not take before, or somebody else has the task.

        To give the delivery up instead would throw the handler's work away for a disk that was full for a minute.
        """
        while True:
            said = self._context.unwritten() if self._context is not None else []
            try:
                await verb(*said, *last)
                return
            except BrokerError as error:
                logger.warning("%r is not settled yet: %s", self, error)
                if self._stopped in ("lost", "interrupted"):
                    return
            await asyncio.sleep(SETTLE_AGAIN_SECONDS)

    def _ended(self, state: Any, error: ErrorInfo | None = None) -> Event:
        return ended(self.task, state, time.time(), attempt=self.delivery.attempt, error=error)


def _is_current(task: asyncio.Task[Any] | None) -> bool:
    """Whether this is the task that runs now."""
    try:
        return asyncio.current_task() is task
    except RuntimeError:
        return False  # no event loop does


async def _absorb_cancellation(task: asyncio.Task[Any]) -> None:
    """It was meant for the handler, and must not reach what comes after; where it is still to be raised, it is here."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    while task.uncancel():
        pass


def _lost(how: str) -> ErrorInfo:
    return ErrorInfo("worker-lost", f"buried after {MAX_LONE_LOSSES} runs alone: {how}")
