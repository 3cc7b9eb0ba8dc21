"""The event: an immutable fact about a task, as clients see it. The payload stands under the key `type` names."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal, Protocol, TypeAlias

from msgspec import UNSET, Raw, Struct

from .task import FinalState, State, Task, fingerprint, is_keyed, new_run_id, timestamp

MAX_EVENT_BYTES: Final = 512_000
"""Bytes of one encoded event. Over it an output or a result ends its task: `output-too-large`, `result-too-large`."""


class Progress(Struct, frozen=True, omit_defaults=True):
    """How far a run is, in units of its own; `total` is None while unknown."""

    current: float
    total: float | None = None
    note: str = ""


class ErrorInfo(Struct, frozen=True):
    """Why a run failed: a stable word or the exception's class, and a sentence for people."""

    type: str
    message: str = ""


class TaskInfo(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A task at one moment, whole: a page can put it in place of what it had."""

    id: str
    name: str
    state: State
    attempt: int
    progress: Progress | None = None
    error: ErrorInfo | None = None
    delay: float | None = None
    """Seconds from the event's time until the task is due: of one that is scheduled, or retrying."""
    expires_at: str | None = None
    """Of a task that was just submitted: when it fails unless it was begun."""
    fingerprint: str | None = None
    """Of a task that was just submitted with an idempotency key: its work's, and after a dot this submission's own."""
    alone: bool = False


class _Event(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    id: str
    queue: str
    attempt: int
    run: str | None = None
    seq: int | None = None
    time: str
    owner: str | None = None


class TaskEvent(_Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="task"):
    """The task changed or progressed. `retrying` carries the error and the delay in seconds."""

    type: ClassVar[Literal["task"]] = "task"
    task: TaskInfo
    cursor: str = ""


class OutputEvent(_Event, frozen=True, kw_only=True, omit_defaults=True, tag="output"):
    """One value that a generator handler yielded; `index` counts from 0 in each run."""

    type: ClassVar[Literal["output"]] = "output"
    output: Any
    index: int
    cursor: str = ""


class ResultEvent(_Event, frozen=True, kw_only=True, omit_defaults=True, tag="result"):
    """How the task ended, once and for all."""

    type: ClassVar[Literal["result"]] = "result"
    state: FinalState
    result: Any = UNSET
    error: ErrorInfo | None = None
    cursor: str = ""


Event: TypeAlias = TaskEvent | OutputEvent | ResultEvent


class _Head(Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    id: str
    queue: str
    attempt: int
    run: str | None = None
    seq: int | None = None
    time: str
    owner: str | None = None


class TaskHead(_Head, frozen=True, kw_only=True, gc=False, tag="task"):
    type: ClassVar[Literal["task"]] = "task"
    task: TaskInfo


class OutputHead(_Head, frozen=True, kw_only=True, gc=False, tag="output"):
    type: ClassVar[Literal["output"]] = "output"
    output: Raw
    index: int


class ResultHead(_Head, frozen=True, kw_only=True, gc=False, tag="result"):
    type: ClassVar[Literal["result"]] = "result"
    state: FinalState
    error: ErrorInfo | None = None


Head: TypeAlias = TaskHead | OutputHead | ResultHead
"""An event as far as the fold looks at it: the user's values stay unread (a third of the time)."""


def submitted(task: Task, *, foreign: bool = False) -> TaskEvent:
    """The first event of a task: `scheduled` when its time lies ahead, else `queued`.

    It tells the work of a task whose id may come again with other work: a key's, or one that a foreign program gave.
    """
    wait = (task.not_before or 0.0) - task.submitted_at
    info = TaskInfo(
        id=task.id,
        name=task.name,
        state="scheduled" if wait > 0 else "queued",
        attempt=1,
        delay=wait if wait > 0 else None,
        expires_at=None if task.expires_at is None else timestamp(task.expires_at),
        fingerprint=f"{fingerprint(task)}.{new_run_id()}" if foreign or is_keyed(task.id) else None,
    )
    return TaskEvent(
        id=task.id,
        queue=task.queue,
        attempt=1,
        time=timestamp(task.submitted_at),
        owner=task.owner,
        task=info,
    )


class _Named(Protocol):
    """A task, or the status of one."""

    @property
    def id(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def owner(self) -> str | None: ...


def ended(
    task: _Named, state: FinalState, now: float, *, attempt: int = 1, error: ErrorInfo | None = None
) -> ResultEvent:
    """A result that belongs to no run: cancelled before it ran, expired, lost for good."""
    return ResultEvent(
        id=task.id,
        queue=task.queue,
        attempt=attempt,
        time=timestamp(now),
        owner=task.owner,
        state=state,
        error=error,
    )
