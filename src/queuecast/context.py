"""What a handler is given to talk to its task: taken as the first parameter, if wanted at all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Context(ABC):
    """The run of a task, seen from inside its handler."""

    id: str
    """The task's id."""
    attempt: int
    """Which try this is, from 1."""
    state: Any
    """What the application's `lifespan` yielded in this process: pools, models; None without one."""

    @property
    @abstractmethod
    def cancelled(self) -> bool:
        """Whether this run should stop: the task was cancelled, timed out or was handed to another worker.

        An async handler is cancelled and a process is killed; a handler in a thread must look here (or report
        progress, which raises `TaskCancelled` then, or yield, where its generator is closed), because a thread
        cannot be stopped from outside.
        """

    @abstractmethod
    def progress(self, current: float, total: float | None = None, note: str = "") -> None:
        """Show how far the task is, in units of your own. A plain call in every kind of handler.

        Costs little: what is reported faster than it can be written is skipped, the latest wins. Raises `TypeError`
        or `ValueError` for what is no finite number.
        """
