"""What the control log carries: requests to running workers, and what workers say of themselves."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct


class CancelRequested(Struct, frozen=True, tag_field="type", tag="cancel"):
    """Whoever runs this task stops it; whoever receives it later does not begin it. `time` is POSIX seconds.

    The time tells it from a task that was submitted afterwards under the same idempotency key.
    """

    queue: str
    id: str
    time: float


class TaskEnded(Struct, frozen=True, tag_field="type", tag="ended"):
    """A task ended before it ran: whoever is handed it later does not begin it. `time` is POSIX seconds.

    Written by brokers whose workers cannot look at what the fold made of a task.
    """

    queue: str
    id: str
    time: float


class LeaseRenewed(Struct, frozen=True, tag_field="type", tag="lease"):
    """Whoever runs this task lives: a copy of an older number is of no use. Written where deliveries cannot be held."""

    queue: str
    id: str
    run: str
    number: int


class HandlerInfo(Struct, frozen=True):
    """A handler as its worker announces it: what a submitter who does not choose gets, and the arguments' JSON Schema.

    `timeout` is seconds.
    """

    name: str
    schema: dict[str, Any]
    retries: int = 0
    timeout: float | None = None


class WorkerAnnounced(Struct, frozen=True, tag_field="type", tag="worker"):
    """A worker is there; repeated as its heartbeat. Times are POSIX seconds."""

    worker: str
    time: float
    concurrency: int
    queues: dict[str, list[HandlerInfo]]


class WorkerLeft(Struct, frozen=True, tag_field="type", tag="worker-left"):
    """A worker has stopped in good order."""

    worker: str
    time: float


CLOCK_SLACK: Final = 60.0
"""Seconds by which the clocks of who submits a task and who ends it may differ."""

Control: TypeAlias = CancelRequested | TaskEnded | LeaseRenewed | WorkerAnnounced | WorkerLeft

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Control).decode


def encode_control(message: Control) -> bytes:
    return _encode(message)


def decode_control(body: bytes) -> Control | None:
    """None for a message of a newer version: it is not for us."""
    try:
        message: Control = _decode(body)
    except msgspec.MsgspecError:
        return None
    return message
