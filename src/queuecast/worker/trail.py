"""The trail: the events of one run, numbered without a gap from 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import UNSET, Raw

from ..brokers import Delivery
from ..event import ErrorInfo, OutputEvent, Progress, ResultEvent, TaskEvent, TaskInfo
from ..task import FinalState, State, new_run_id, timestamp


class Trail:
    """Makes the events of one run of one task; whoever calls hands them to the delivery in the same order."""

    def __init__(self, delivery: Delivery, clock: Callable[[], float]) -> None:
        self.run = new_run_id()
        self._task = delivery.task
        self._attempt = delivery.attempt
        self._head_fields: dict[str, Any] = {
            "id": delivery.task.id,
            "queue": delivery.task.queue,
            "attempt": delivery.attempt,
            "run": self.run,
            "owner": delivery.task.owner,
        }
        self._clock = clock
        self._seq = 0
        self._outputs = 0

    def task(
        self,
        state: State,
        *,
        progress: Progress | None = None,
        error: ErrorInfo | None = None,
        delay: float | None = None,
        alone: bool = False,
    ) -> TaskEvent:
        task = self._task
        info = TaskInfo(
            id=task.id,
            name=task.name,
            state=state,
            attempt=self._attempt,
            progress=progress,
            error=error,
            delay=delay,
            alone=alone,
        )
        return TaskEvent(task=info, **self._head())

    def output(self, value: Raw) -> OutputEvent:
        self._outputs += 1
        return OutputEvent(output=value, index=self._outputs - 1, **self._head())

    def result(self, state: FinalState, *, result: Any = UNSET, error: ErrorInfo | None = None) -> ResultEvent:
        return ResultEvent(state=state, result=result, error=error, **self._head())

    def _head(self) -> dict[str, Any]:
        self._seq += 1
        head = self._head_fields
        head["seq"] = self._seq
        head["time"] = timestamp(self._clock())
        return head
