"""How a run ended, and what follows from it. Pure."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from msgspec import Raw, Struct

from ..codec import encode_value, one_line
from ..errors import QueuecastError
from ..event import MAX_EVENT_BYTES, ErrorInfo
from ..retry import retries_left, retry_delay

StopReason: TypeAlias = Literal["cancelled", "timeout", "interrupted", "lost"]
"""Why a run was asked to stop: by a client, by its timeout, by the worker's own stopping, by another worker's run."""

MAX_VALUE_BYTES: Final = MAX_EVENT_BYTES - 2_000
"""Bytes of one result or output: what an event has room for. Beyond it the task fails: `result-too-large`."""

MAX_MESSAGE_CHARS: Final = 2_000
"""Characters of an error's message; the rest is cut."""


class Succeeded(Struct, frozen=True):
    result: Raw


class Failed(Struct, frozen=True):
    """For good: the task goes to the dead letters."""

    error: ErrorInfo


class Retrying(Struct, frozen=True):
    """Again after `delay` seconds, one attempt higher."""

    error: ErrorInfo
    delay: float


class Cancelled(Struct, frozen=True):
    pass


class Interrupted(Struct, frozen=True):
    """The worker is stopping: back to the queue, with no try used up."""


class Died(Struct, frozen=True):
    """The process that ran it died. The task is run again, alone."""

    error: ErrorInfo


class Abandoned(Struct, frozen=True):
    """Another worker has the task now; whatever this run says is refused."""


Outcome: TypeAlias = Succeeded | Failed | Retrying | Cancelled | Interrupted | Died | Abandoned


class Unsendable(QueuecastError):
    """A handler gave a value that no event can carry; trying again would not help."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.info = ErrorInfo(type, message)


class ProcessDied(QueuecastError):
    """The process that ran a handler ended without an answer."""


class HandlerRaised(QueuecastError):
    """A handler in another process raised; its error comes as words."""

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message)
        self.info = info


def sendable(value: object, what: Literal["result", "output"]) -> Raw:
    """A value as JSON that fits into an event. Raises `Unsendable`."""
    try:
        body = encode_value(value)
    except ValueError as error:
        raise Unsendable(f"{what}-not-json", printable(str(error), MAX_MESSAGE_CHARS)) from error
    size = len(body)
    if size > MAX_VALUE_BYTES // 3:
        # Escaped, a line end takes up to three times its room.
        size = len(one_line(bytes(body)))
    if size > MAX_VALUE_BYTES:
        raise Unsendable(f"{what}-too-large", f"the {what} takes {size} bytes; the limit is {MAX_VALUE_BYTES}")
    return body


def describe(error: BaseException) -> ErrorInfo:
    """An exception as an event carries it: its class and its words, never a traceback."""
    if isinstance(error, (Unsendable, HandlerRaised)):
        return error.info
    return ErrorInfo(type(error).__name__, _words_of(error))


def _words_of(error: BaseException) -> str:
    try:
        words = str(error)
    except Exception:
        return "its message cannot be read"
    return printable(words, MAX_MESSAGE_CHARS)


def printable(text: str, limit: int) -> str:
    """At most so many characters, without what UTF-8 lacks (as in the name of a file that is not UTF-8)."""
    return text[:limit].encode("utf-8", "replace").decode()


def judge(
    ending: Raw | BaseException, stopped: StopReason | None, *, attempt: int, retries: int, random: float
) -> Outcome:
    """What a run's end means, given why it had been asked to stop, if it had.

    A handler that returns although it was asked to stop has succeeded, unless its time was over.
    """
    if isinstance(ending, Raw) and stopped in (None, "cancelled", "interrupted"):
        return Succeeded(ending)
    match stopped:
        case "lost":
            return Abandoned()
        case "cancelled":
            return Cancelled()
        case "interrupted":
            return Interrupted()
        case "timeout":
            error = ErrorInfo("timeout", "the attempt took longer than its timeout")
        case None:
            error = describe(_raised(ending))
    if isinstance(ending, ProcessDied) and stopped is None:
        return Died(error)
    may_retry = retries_left(attempt, retries) and not isinstance(ending, Unsendable)
    return Retrying(error, retry_delay(attempt, random)) if may_retry else Failed(error)


def _raised(ending: Raw | BaseException) -> BaseException:
    return ending if isinstance(ending, BaseException) else AssertionError("a result is no error")
