"""A task on the wire, so that a program which knows nothing of us reads what it expects: the body is the arguments as
JSON and nothing else; id, name and options ride in properties and headers (spec/protocol.md).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct

from ...errors import QueuecastError
from ...event import ErrorInfo, ResultEvent
from ...task import MAX_NAME_CHARS, MAX_RETRIES, MAX_TASK_BYTES, Task, is_too_deep, new_task_id
from ..base import Status

Header: TypeAlias = str | int | float | bool

JSON_TYPE: Final = "application/json"

ATTEMPT: Final = "qc-attempt"
SUBMITTED_AT: Final = "qc-submitted-at"
NOT_BEFORE: Final = "qc-not-before"
EXPIRES_AT: Final = "qc-expires-at"
TIMEOUT: Final = "qc-timeout"
RETRIES: Final = "qc-retries"
OWNER: Final = "qc-owner"
REQUEUED_FROM: Final = "qc-requeued-from"
TRACEPARENT: Final = "traceparent"

LEASE: Final = "qc-lease"
"""On the copy of a task that somebody was running when it was written (see `lease`): `run.number`."""

COPY: Final = "qc-copy"
"""On what a worker has put back, rather than a submitter put there."""

AGAIN: Final = "qc-again"
"""On what may be there twice, or was handed out before in another message: whoever wrote it says so."""

ERROR: Final = "error"
"""In an answer: the task has failed, the body says why."""

MAX_ERROR_CHARS: Final = 2_000
"""Characters of a foreign worker's error; the rest is cut."""


class Message(Struct, frozen=True, kw_only=True):
    """What AMQP's properties and Kafka's headers carry alike. A value that a foreign program left out is None."""

    body: bytes
    id: str | None = None
    name: str | None = None
    content_type: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    headers: Mapping[str, Header] = {}
    """Without what is no scalar."""


class Unusable(QueuecastError):
    """A message that no worker can run. `type` is the reason as its result tells it."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.type = type


class LeaseMark(NamedTuple):
    """Which renewal of which run's lease a copy belongs to."""

    run: str
    number: int

    def __str__(self) -> str:
        return f"{self.run}.{self.number}"


class Unpacked(NamedTuple):
    task: Task
    attempt: int
    lease: LeaseMark | None = None
    is_copy: bool = False
    """A worker has put it back."""
    is_foreign: bool = False
    """It was put there by a program that knows nothing of us, which has given it its id."""


def pack(task: Task, attempt: int = 1, *, replies: str | None = None) -> Message:
    """The task as a message; its first attempt, or a later one. To a foreign worker, who is to answer at `replies`."""
    headers: dict[str, Header] = {ATTEMPT: attempt, SUBMITTED_AT: task.submitted_at, RETRIES: task.retries}
    for name, value in (
        (NOT_BEFORE, task.not_before),
        (EXPIRES_AT, task.expires_at),
        (TIMEOUT, task.timeout),
        (OWNER, task.owner),
        (TRACEPARENT, task.traceparent),
        (REQUEUED_FROM, task.requeued_from),
    ):
        if value is not None:
            headers[name] = value
    return Message(
        body=bytes(task.args),
        id=task.id,
        name=task.name,
        content_type=JSON_TYPE,
        reply_to=replies or task.reply_to,
        correlation_id=task.id if replies else task.correlation_id,
        headers=headers,
    )


def pack_again(task: Task, attempt: int, lease: LeaseMark | None = None) -> Message:
    """The copy of a task that a worker puts back."""
    message = pack(task, attempt)
    marks: dict[str, Header] = {COPY: 1} if lease is None else {COPY: 1, LEASE: str(lease)}
    return msgspec.structs.replace(message, headers={**message.headers, **marks})


def id_of(queue: str, message: Message) -> str | None:
    """The task's id: the message's own, else one that its reply's address and correlation id stand for, so that it is
    the same however often it is handed out. None where there is nothing to make one of.
    """
    if message.id is not None and 0 < len(message.id) <= MAX_NAME_CHARS and message.id.isprintable():
        return message.id
    known_by = [message.id] if message.id else [message.reply_to, message.correlation_id]
    if None in known_by:
        return None
    return fresh_id(queue, *known_by)


def fresh_id(queue: str, *known_by: str | None) -> str:
    """Always the same for what is known by the same."""
    return hashlib.sha256(msgspec.json.encode([queue, *known_by])).hexdigest()[:32]


def with_fresh_id(message: Message, now: float) -> Message:
    """Of a foreign producer's message that has none."""
    return msgspec.structs.replace(message, id=new_task_id(now))


def unpack(queue: str, id: str, message: Message, now: float) -> Unpacked:
    """The message as a task. Raises `Unusable` for what can be none; an option that means nothing is left out."""
    if len(message.body) > MAX_TASK_BYTES:
        raise Unusable("undecodable", f"the body takes {len(message.body)} bytes; the limit is {MAX_TASK_BYTES}")
    try:
        msgspec.json.decode(message.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unusable("undecodable", f"the body is not JSON: {error}") from error
    if is_too_deep(message.body):
        raise Unusable("undecodable", "the body is nested too deeply")
    if message.reply_to is not None and message.reply_to.startswith("_qc."):
        raise Unusable("bad-reply-to", f"{message.reply_to} is a queue of our own: no reply is sent there")
    headers = message.headers
    task = Task(
        id=id,
        queue=queue,
        name=message.name or "",
        args=Raw(message.body),
        submitted_at=_number(headers.get(SUBMITTED_AT)) or now,
        not_before=_number(headers.get(NOT_BEFORE)),
        expires_at=_number(headers.get(EXPIRES_AT)),
        timeout=_number(headers.get(TIMEOUT)) or None,
        retries=_count(headers.get(RETRIES), MAX_RETRIES),
        owner=_word(headers.get(OWNER)),
        reply_to=message.reply_to,
        correlation_id=message.correlation_id,
        traceparent=_word(headers.get(TRACEPARENT)),
        requeued_from=_word(headers.get(REQUEUED_FROM)),
    )
    attempt = max(1, _count(headers.get(ATTEMPT), MAX_RETRIES + 1))
    return Unpacked(task, attempt, _mark(headers.get(LEASE)), COPY in headers, SUBMITTED_AT not in headers)


def _mark(value: Any) -> LeaseMark | None:
    run, _, number = value.partition(".") if isinstance(value, str) else ("", "", "")
    return LeaseMark(run, int(number)) if run and number.isascii() and number.isdecimal() else None


def _number(value: Any) -> float | None:
    """Positive and finite, else None. A float comes as its text: few AMQP clients can read the protocol's own."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0:
        return float(value)
    return None


def _count(value: Any, limit: int) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= limit else 0


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARS and value.isprintable() else None


def answer_to(task: Task, ending: ResultEvent | Status) -> Message:
    """What a foreign producer is told: the result as JSON; of a task that failed or was cancelled an error."""
    if ending.state == "succeeded":
        body = b"null" if ending.result is UNSET else msgspec.json.encode(ending.result)
        headers: dict[str, Header] = {}
    else:
        error = ending.error or ErrorInfo(ending.state)
        body = msgspec.json.encode(error)
        headers = {ERROR: error.type}
    return Message(body=body, correlation_id=task.correlation_id, content_type=JSON_TYPE, headers=headers)


def result_of(message: Message) -> tuple[Raw | None, ErrorInfo | None]:
    """A foreign worker's answer: JSON, or plain text; with a header `error` it says why the task failed."""
    if ERROR in message.headers:
        said = message.body.decode(errors="replace")[:MAX_ERROR_CHARS]
        kind = _word(message.headers[ERROR])
        return None, ErrorInfo(kind or "error", said)
    try:
        msgspec.json.decode(message.body)
        return (Raw(message.body), None) if not is_too_deep(message.body) else (_text(message.body), None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _text(message.body), None


def _text(body: bytes) -> Raw:
    return Raw(msgspec.json.encode(body.decode(errors="replace")))
