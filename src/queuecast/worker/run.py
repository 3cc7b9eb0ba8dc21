"""One delivery, from its handing-over to its settlement."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from ..brokers import Delivery
from ..brokers.base import MAX_LONE_LOSSES
from ..errors import InvalidInput, QueuecastError
from ..event import ErrorInfo, Event, ended
from ..handler import Handler
from .context import RunContext
from .outcome import (
    Abandoned,
    Cancelled,
    Died,
    Failed,
    Interrupted,
    Outcome,
    Retrying,
    StopReason,
    Succeeded,
    judge,
    sendable,
)
from .runners import Runner
from .trail import Trail

if TYPE_CHECKING:
    from .worker import Worker

logger = logging.getLogger(__name__)

AnyHandler = Handler[Any, Any, Any]


class Run:
    """Runs what was delivered and settles it. `stop` may be called at any time, also before the handler began."""

    def __init__(self, worker: Worker, delivery: Delivery) -> None:
        self.delivery = delivery
        self._worker = worker
        self._task = delivery.task
        self._stopped: StopReason | None = None
        self._context: RunContext | None = None
        self._runner: Runner | None = None

    def __repr__(self) -> str:
        return f"<Run of {self._task.queue}.{self._task.name} {self._task.id}, attempt {self.delivery.attempt}>"

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
        refusal = self._refusal()
        if refusal is not None:
            await self._bury(refusal)
            return
        handler = self._worker.handlers[self._task.queue, self._task.name]
        alone = self.delivery.suspect and self._worker.can_isolate(handler)
        losses = self.delivery.losses
        while self._stopped is None:
            trail = Trail(self.delivery, time.time)
            outcome, last_words = await self._execute(handler, trail, alone=alone)
            if not isinstance(outcome, Died):
                await self._settle(outcome, trail, last_words)
                return
            # The handler's process died and this worker lives: run it again, alone, and count from then on.
            losses += alone
            alone = True
            if losses >= MAX_LONE_LOSSES:
                await self._bury(_lost(outcome.error.message))
                return
        await self._settle_unbegun()

    def _refusal(self) -> ErrorInfo | None:
        """Why this task can never be run, if so."""
        if self.delivery.losses >= MAX_LONE_LOSSES:
            return _lost("its process died each time")
        handler = self._worker.handlers.get((self._task.queue, self._task.name))
        if handler is None:
            return ErrorInfo("unknown-task", f"this queue's worker has no handler named {self._task.name!r}")
        try:
            handler.signature.decode(self._task.args)
        except InvalidInput as error:
            flaws = "; ".join(f"{flaw.pointer}: {flaw.detail}" for flaw in error.flaws)
            return ErrorInfo("invalid-arguments", f"{error}: {flaws}" if flaws else str(error))
        return None

    async def _execute(self, handler: AnyHandler, trail: Trail, *, alone: bool) -> tuple[Outcome, list[Event]]:
        """One run of the handler: its outcome, and what was reported last and not written yet."""
        self._context = context = RunContext(self.delivery, trail, self._worker.state)
        self._runner = runner = self._worker.runner_for(handler, alone=alone)
        # On its way before the handler starts, so that one which kills its process has left a trace.
        context.write(trail.task("running", alone=alone))
        timer = self._start_timer()
        try:
            ending = await self._ending(runner.run(handler, context, self._task.args))
        finally:
            self._runner = None
            if timer is not None:
                timer.cancel()
            last_words = context.close()
        if isinstance(ending, BaseException) and self._stopped is None:
            # The user's own exception comes with its traceback; ours say all they know in a sentence.
            ours = isinstance(ending, QueuecastError)
            logger.warning("%r raised %r", self, ending, exc_info=None if ours else ending)
        outcome = judge(
            ending,
            self._stopped,
            attempt=self.delivery.attempt,
            retries=self._task.retries,
            random=random.random(),
        )
        return outcome, last_words

    async def _ending(self, handler_running: Any) -> Raw | BaseException:
        """What the handler returned, as JSON, or what it raised."""
        try:
            return sendable(await handler_running, "result")
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._stopped is None or task is None:
                raise  # somebody cancels this whole worker
            task.uncancel()
            return error
        except Exception as error:
            return error
        except (SystemExit, KeyboardInterrupt) as error:
            # A handler that exits ends its task, not the worker.
            return error

    def _start_timer(self) -> asyncio.TimerHandle | None:
        if self._task.timeout is None:
            return None
        return asyncio.get_running_loop().call_later(self._task.timeout, self.stop, "timeout")

    # How it is settled

    async def _settle(self, outcome: Outcome, trail: Trail, words: list[Event]) -> None:
        delivery = self.delivery
        match outcome:
            case Succeeded(result):
                await delivery.ack(*words, trail.result("succeeded", result=result))
            case Cancelled():
                await delivery.ack(*words, trail.result("cancelled"))
            case Failed(error):
                await delivery.reject(error.type, *words, trail.result("failed", error=error))
            case Retrying(error, delay):
                await delivery.retry(delay, *words, trail.task("retrying", error=error, delay=delay))
            case Interrupted():
                stopping = ErrorInfo("interrupted", "the worker is stopping")
                await delivery.release(*words, trail.task("retrying", error=stopping, delay=0.0))
            case Abandoned() | Died():
                logger.warning("%r goes on in another worker", self)

    async def _settle_unbegun(self) -> None:
        """It was stopped before its handler began, so that there is no run to speak of."""
        if self._stopped == "cancelled":
            await self.delivery.ack(self._ended("cancelled"))
        elif self._stopped == "interrupted":
            await self.delivery.release()

    async def _bury(self, error: ErrorInfo) -> None:
        logger.warning("%r is buried: %s %s", self, error.type, error.message)
        await self.delivery.reject(error.type, self._ended("failed", error))

    def _ended(self, state: Any, error: ErrorInfo | None = None) -> Event:
        return ended(self._task, state, time.time(), attempt=self.delivery.attempt, error=error)


def _lost(how: str) -> ErrorInfo:
    return ErrorInfo("worker-lost", f"buried after {MAX_LONE_LOSSES} runs alone: {how}")
