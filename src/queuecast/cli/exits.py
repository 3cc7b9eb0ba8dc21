"""How a command ends: its exit code, and the one error that carries another one than its kind says."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from ..errors import BrokerError, ConfigurationError, InvalidInput, QueuecastError
from ..task import FinalState


class Exit(IntEnum):
    """Scripts rely on these numbers. 130 and 143: ended by Ctrl-C or SIGTERM."""

    SUCCEEDED = 0
    FAILED = 1
    USAGE = 2
    STARTUP = 3
    UNREACHABLE = 4
    NOT_FOUND = 5
    TIMED_OUT = 6
    CANCELLED = 7
    BROKER_LOST = 8


EXIT_OF: Final[dict[FinalState, Exit]] = {
    "succeeded": Exit.SUCCEEDED,
    "failed": Exit.FAILED,
    "cancelled": Exit.CANCELLED,
}

EXITS_IN_WORDS: Final = """Exit codes: 0 succeeded, 1 the task failed, 2 usage or configuration, 3 the application \
cannot be imported or started, 4 broker or gateway unreachable, 5 not found, 6 timed out, 7 the task was cancelled, \
8 the database was taken away from a worker, 130 and 143 ended by Ctrl-C or SIGTERM."""


class CommandError(QueuecastError):
    """A command cannot go on. The message is for people and says what to do."""

    def __init__(self, message: str, exit: Exit) -> None:
        super().__init__(message)
        self.exit = exit


def exit_of(error: QueuecastError) -> Exit:
    if isinstance(error, CommandError):
        return error.exit
    if isinstance(error, ConfigurationError | InvalidInput):
        return Exit.USAGE
    return Exit.UNREACHABLE if isinstance(error, BrokerError) else Exit.FAILED
