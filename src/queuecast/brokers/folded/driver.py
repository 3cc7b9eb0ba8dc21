"""What the driver of a server must do. It may repeat, but never lose; the fold refuses what was repeated.

A log's name is a queue's, `CONTROL`, or `DEAD`. Errors are those of `errors.BrokerError`; every call waits a bounded
time. After a lost connection a driver connects again by itself, for ever; whatever was under way fails and says so.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from math import inf
from typing import Final, NamedTuple

from ...cursor import Cursor
from ..base import Bounds, Entry, External
from .wire import Message

DEAD: Final = "_qc.dead"
"""The log of dead letters: tasks as they were submitted, with the reason of their end."""


class Parcel(NamedTuple):
    """A message for a queue, to be handed to a consumer after so many seconds."""

    queue: str
    message: Message
    delay: float = 0.0


class Page(NamedTuple):
    """What a reader of a log gets at once."""

    entries: list[Entry]
    upto: int
    """Everything up to this offset has been read now; there may be no event at it, or between it and the last entry."""
    own: int
    """Every `append` of this very driver to this log with this number or a lower one has been read; 0 for none."""


class Handed(ABC):
    """A message as it was handed out. Settle it once; on a connection that is gone both verbs do nothing."""

    message: Message
    again: bool
    """Somebody may have been handed it before. False only where that is certain."""
    at: float
    """When it arrived here, in monotonic seconds."""
    hold: float = inf
    """Seconds for which it can be held unsettled where that is less than usual: then it is settled behind a lease."""

    @property
    @abstractmethod
    def is_held(self) -> bool:
        """It is not settled, nor given back, and the server has not taken it away."""

    @abstractmethod
    def settle(self) -> None:
        """It has been dealt with. Not confirmed: where this is lost, it is handed out again."""

    @abstractmethod
    def give_back(self) -> None:
        """Hand it out again, to anybody."""


class Intake(AsyncIterator[Handed], ABC):
    """Takes a queue's messages. Raises `BrokerUnavailable` when the connection is lost: what it held is handed out
    again by the server, and a new intake goes on.
    """

    on_lost: Callable[[Handed], object] = staticmethod(lambda _: None)
    """Called with what is another's now though it is held here, where that happens without the connection's end."""

    @abstractmethod
    def stop(self) -> None:
        """Take nothing more: the iteration ends. What was handed out stays so."""

    @abstractmethod
    async def aclose(self) -> None:
        """Stop, and give back what is not settled."""


class Driver(ABC):
    """A connection to a server. Belongs to the event loop it was opened in."""

    @abstractmethod
    async def open(self) -> None:
        """Connect. Raises `ConfigurationError` with what to do when this can never work, `BrokerUnavailable`."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what was handed over, within a bound, then let go."""

    @abstractmethod
    async def declare(self, queue: str, external: External | None) -> None:
        """Make sure that the queue, its log and (where external) its replies exist.

        An existing queue is adopted as it is. Raises `ConfigurationError` for one that would lose messages.
        """

    # Tasks

    @abstractmethod
    async def put(self, parcels: Sequence[Parcel]) -> None:
        """Returns once all of them are durable. Raises `BrokerUnavailable` where none is, else `OutcomeUnknown`."""

    @abstractmethod
    def consume(self, queue: str, concurrency: int) -> Intake:
        """Take messages of a queue's tasks, at most so many of them unsettled. Competes with all other intakes."""

    # Foreign programs

    @abstractmethod
    def replies_to(self, queue: str) -> str:
        """Where foreign workers of an external queue are asked to answer."""

    @abstractmethod
    def replies(self, queue: str) -> Intake:
        """Take what foreign workers of an external queue have answered; competes with other processes."""

    @abstractmethod
    async def reply(self, to: str, message: Message) -> None:
        """Answer a foreign producer. Returns once the server has it; an address that is gone is no error."""

    # Logs

    @abstractmethod
    def append(self, log: str, bodies: Sequence[bytes]) -> asyncio.Future[int]:
        """Append to a log. The result is a number, higher than that of every call before, once it is durable.

        The order of the calls is the order of the log: where something is refused or a connection is lost, everything
        from the first that was not confirmed is sent again, confirmed ones included. So some may be there twice, but
        nothing without all before it. It goes on trying for APPEND_SECONDS and then fails with `BrokerError`: some of
        it may be there all the same, and it does no harm to append it again.
        """

    @abstractmethod
    async def flushed(self) -> None:
        """Returns once what was appended so far has left this process, so that its death does not undo it."""

    @abstractmethod
    def read(self, log: str, after: Cursor) -> AsyncGenerator[Page, None]:
        """Yield what lies after this place, then wait for more, for ever; raises `BrokerUnavailable` when cut.

        Where the cursor has a digest, what is there is compared with it first. Raises `ResetRequired` ("trimmed",
        "ahead", "diverged", "other-log"), also where the log is another one now and would be silent for ever.
        A page may be empty, where only `upto` or `own` has changed: whoever knows `bounds` learns that it was reached.
        """

    @abstractmethod
    async def bounds(self, log: str) -> Bounds:
        """`first` is where that begins which was not trimmed; there may be no event at it.

        Of `last` it is only said that whatever was durable before this call is not beyond it.

        A reader that is following the log, or begins to, gets a page with `upto` at `last` or beyond.
        """

    @abstractmethod
    async def recent(self, log: str) -> Cursor:
        """The place of one of the last events as of now; without a digest (`beginning`) where there is none."""


APPEND_SECONDS: Final = 30.0
"""How long an append is tried; see `Driver.append`."""
