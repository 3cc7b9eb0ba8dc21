"""Every exception queuecast raises, one family. A foreign error is translated once, where the call is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class QueuecastError(Exception):
    """The base of all of them."""


class ConfigurationError(QueuecastError):
    """A URL, name, option or handler signature that can never work; raised before anything runs."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing wrong with an input: where (a JSON Pointer, RFC 6901) and what."""

    pointer: str
    detail: str


class InvalidInput(QueuecastError):
    """A task, option or argument that is refused. Nothing was submitted."""

    kind = "invalid-input"

    def __init__(self, detail: str, flaws: Sequence[Flaw] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.flaws = tuple(flaws)

    def __str__(self) -> str:
        named = "; ".join(f"{flaw.pointer}: {flaw.detail}" if flaw.pointer else flaw.detail for flaw in self.flaws)
        return f"{self.detail}: {named}" if named else self.detail


class UnknownQueue(InvalidInput):
    """No such queue is declared."""

    kind = "unknown-queue"


class UnknownTaskName(InvalidInput):
    """The queue has no handler of this name."""

    kind = "unknown-task-name"


class TooLarge(InvalidInput):
    """A task or an event is over its limit of encoded bytes."""

    kind = "too-large"


class KeyReused(InvalidInput):
    """The idempotency key belongs to a task with another name or other arguments."""

    kind = "key-reused"

    def __init__(self) -> None:
        flaw = Flaw("/idempotency_key", "choose another key, or send what was sent with it before")
        super().__init__("this idempotency key belongs to a task with another name or other arguments", [flaw])


class NotSupported(InvalidInput):
    """This backend lacks the ability that was asked for; it is never imitated silently."""

    kind = "not-supported"


class BrokerError(QueuecastError):
    """The backend could not do what was asked."""


class BrokerUnavailable(BrokerError):
    """The backend did not take it: nothing was written, trying again later is safe."""


class StorageFull(BrokerUnavailable):
    """No room on the disk. Nothing was written; it goes on by itself when there is room."""


class OutcomeUnknown(BrokerError):
    """The backend failed in the middle: the write may or may not have landed.

    Submit again with the same idempotency key, and at most one task is shown.
    """


class TaskError(QueuecastError):
    """How waiting for a task can end without its result."""


class TaskFailed(TaskError):
    """The task failed for good. `type` is a stable word or the exception's class, `message` is for people."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(f"{type}: {message}" if message else type)
        self.type = type
        self.message = message


class TaskCancelled(TaskError):
    """The task was cancelled. Inside a handler: it has been asked to stop."""


class ResultExpired(TaskError):
    """The task is unknown here: never submitted, or older than the log's retention."""


class AttemptRestarted(TaskError):
    """The run whose outputs were followed was given up; a new one starts its outputs from the beginning."""


class ResetRequired(QueuecastError):
    """A cursor that cannot be honoured. `reason` is `trimmed`, `other-log`, `ahead`, `diverged` or `malformed`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the stream cannot go on from this cursor: {reason}")
        self.reason = reason
