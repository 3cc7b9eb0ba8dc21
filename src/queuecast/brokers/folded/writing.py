"""How this process writes to a server: to queues, to logs, to the dead letters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeAlias

from .dead import DeadLetters
from .driver import Driver

Append: TypeAlias = Callable[[str, Sequence[bytes]], Awaitable[object]]
"""To a log, in the order of the calls; durable when it is awaited, and shown by what this process follows."""


class Writing(NamedTuple):
    """What everybody here that writes is given."""

    driver: Driver
    append: Append
    dead: DeadLetters
