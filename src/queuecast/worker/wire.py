"""What a worker and its child processes say to each other: frames of a length (4 bytes, big-endian) and JSON."""

from __future__ import annotations

import asyncio
from typing import Final, TypeAlias

import msgspec
from msgspec import Raw, Struct

from ..event import ErrorInfo

CHILD_FD: Final = "QUEUECAST_CHILD_FD"
"""The environment variable that tells a child the number of its socket."""


CHILD_PYTHONPATH: Final = "QUEUECAST_CHILD_PYTHONPATH"
"""The `PYTHONPATH` that a handler's own programs get: a child's is its worker's whole path."""


class Assignment(Struct, frozen=True):
    """Run this handler once. `main` is the file of the program, where the handler lives in it; `url` is the broker."""

    url: str
    module: str
    main: str | None
    queue: str
    name: str
    id: str
    attempt: int
    args: Raw


class Reported(Struct, frozen=True, tag=True):
    current: float
    total: float | None
    note: str


class Output(Struct, frozen=True, tag=True):
    value: Raw


class Returned(Struct, frozen=True, tag=True):
    result: Raw


class Raised(Struct, frozen=True, tag=True):
    error: ErrorInfo


Answer: TypeAlias = Reported | Output | Returned | Raised

_encode = msgspec.json.Encoder().encode
_decode_answer = msgspec.json.Decoder(Answer).decode


def encode(message: Assignment | Answer) -> bytes:
    body = _encode(message)
    return len(body).to_bytes(4, "big") + body


def decode_answer(body: bytes) -> Answer:
    answer: Answer = _decode_answer(body)
    return answer


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Raises `asyncio.IncompleteReadError` when the other side is gone."""
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
