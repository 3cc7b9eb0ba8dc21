"""The dead letters: one log for all queues, of tasks as they were submitted, with the reason of their end."""

from __future__ import annotations

import asyncio
import base64
import time
from contextlib import aclosing, suppress
from typing import Final

import msgspec
from msgspec import MsgspecError, Struct

from ...cursor import Cursor, beginning
from ...errors import BrokerUnavailable, ResetRequired
from ...event import ErrorInfo
from ...task import Task
from .driver import DEAD, Driver
from .wire import Message

MAX_BODY_BYTES: Final = 64_000
"""Bytes kept of a message that nobody can read; the rest is cut."""

MAX_KNOWN: Final = 100_000
"""Dead letters whose place is kept in mind. Beyond that the oldest can no longer be requeued."""

READ_SECONDS: Final = 20.0
"""How long reading the dead letters may take; then whoever asked is told that the broker is unavailable."""


class DeadLetter(Struct, frozen=True, omit_defaults=True):
    """`task` as it was submitted; `body`, in base64, of a message that is none. `time` is POSIX seconds."""

    queue: str
    id: str
    reason: str
    detail: str
    time: float
    task: Task | None = None
    body: str | None = None


class _Key(Struct):
    queue: str
    id: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(DeadLetter).decode
_key_of = msgspec.json.Decoder(_Key).decode


class DeadLetters:
    """Written by workers; read by whoever requeues, from where it read last."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._known: dict[tuple[str, str], int] = {}
        self._place: Cursor | None = None
        """Everything up to here has been read."""
        self._reading = asyncio.Lock()

    async def bury(self, task: Task, error: ErrorInfo) -> None:
        """Returns once it is durable. Raises `BrokerError`."""
        letter = DeadLetter(task.queue, task.id, error.type, error.message, time.time(), task)
        await self._driver.append(DEAD, [_encode(letter)])

    async def bury_message(self, queue: str, id: str, message: Message, error: ErrorInfo) -> None:
        """One that is no task. Returns once it is durable. Raises `BrokerError`."""
        body = base64.b64encode(message.body[:MAX_BODY_BYTES]).decode()
        letter = DeadLetter(queue, id, error.type, error.message, time.time(), body=body)
        await self._driver.append(DEAD, [_encode(letter)])

    async def load(self, queue: str, id: str) -> Task | None:
        """The task as it was submitted; None where it is no dead letter, or forgotten. Raises `BrokerError`."""
        async with self._reading:
            try:
                async with asyncio.timeout(READ_SECONDS):
                    await self._read_on()
                    offset = self._known.get((queue, id))
                    letter = None if offset is None else await self._letter(offset)
            except TimeoutError as error:
                raise BrokerUnavailable("the dead letters cannot be read") from error
            except ResetRequired:
                # It is another log, or this one was trimmed beyond where we were: begin anew the next time.
                letter = None
                self._forget()
            if letter is not None and (letter.queue, letter.id) != (queue, id):
                letter = None
                self._forget()  # another log, that has no name of its own
            return None if letter is None else letter.task

    def _forget(self) -> None:
        self._known.clear()
        self._place = None

    async def _read_on(self) -> None:
        bounds = await self._driver.bounds(DEAD)
        place = self._place or beginning(bounds.identity, bounds.first - 1)
        if place.identity == bounds.identity and place.offset >= bounds.last:
            return
        async with aclosing(self._driver.read(DEAD, place)) as pages:
            async for page in pages:
                for offset, body in page.entries:
                    with suppress(MsgspecError):  # whoever may publish at all may publish here
                        key = _key_of(body)
                        self._known[key.queue, key.id] = offset
                self._place = beginning(bounds.identity, page.upto)
                if page.upto >= bounds.last:
                    break
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    async def _letter(self, offset: int) -> DeadLetter | None:
        assert self._place is not None, "it was found there"
        async with aclosing(self._driver.read(DEAD, self._place._replace(offset=offset - 1))) as pages:
            async for page in pages:
                for entry in page.entries:
                    if entry.offset == offset:
                        with suppress(MsgspecError):
                            return _decode(entry.body)
                    if entry.offset > offset:
                        return None
        return None
