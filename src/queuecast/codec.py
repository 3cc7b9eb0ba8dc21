"""Tasks, events and users' values to and from JSON bytes. JSON only, never pickle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import force_setattr

from .errors import TooLarge
from .event import MAX_EVENT_BYTES, Event, Head
from .task import MAX_DEPTH, MAX_TASK_BYTES, TOO_DEEP, Task, is_too_deep

_encode = msgspec.json.Encoder().encode
_decode_task = msgspec.json.Decoder(Task).decode
_decode_event = msgspec.json.Decoder(Event).decode
_decode_head: Callable[[bytes], Head] = msgspec.json.Decoder(Head).decode

# Line ends to many an SSE client, though not to the standard: such a client would cut our JSON in two.
_LINE_ENDS: Final = (
    ("\u0085".encode(), rb"\u0085"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)


def encode_task(task: Task) -> bytes:
    """Raises `TooLarge` over MAX_TASK_BYTES."""
    body = _encode(task)
    if len(body) > MAX_TASK_BYTES:
        raise TooLarge(f"the task takes {len(body)} bytes; the limit is {MAX_TASK_BYTES}")
    return body


def decode_task(body: bytes) -> Task:
    return _decode_task(body)


def encode_event(event: Event) -> bytes:
    """One line of JSON. Raises `TooLarge` over MAX_EVENT_BYTES."""
    body = one_line(_encode(event))
    if len(body) > MAX_EVENT_BYTES:
        raise TooLarge(f"the event takes {len(body)} bytes; the limit is {MAX_EVENT_BYTES}")
    return body


def decode_event(body: bytes, cursor: str = "") -> Event:
    event: Event = _decode_event(body)
    force_setattr(event, "cursor", cursor)
    if event.type == "result" and event.result is UNSET:
        force_setattr(event, "result", None)
    return event


_LF, _CR = b"\n\r"

_LEAST: Final = '{"type":"output","id":"","queue":"","attempt":1,"time":"","output":,"index":0}'
_SHALLOW_BYTES: Final = 2 * MAX_DEPTH + len(_LEAST)
"""Bytes of an event up to which it has no room for MAX_DEPTH brackets beside what it must say."""


def read_head(body: bytes) -> Head | None:
    """The head of an event out of a log that anybody may have written to; None where it is no event as we write them.

    Whatever has a head is read by `decode_event` and fits on one line, which an SSE frame rests on.
    """
    size = len(body)
    if _LF in body or _CR in body or size > MAX_EVENT_BYTES:
        return None
    try:
        if not body.isascii() and one_line(body.decode().encode()) != body:
            return None
        head = _decode_head(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if size > _SHALLOW_BYTES and is_too_deep(body[1:]):  # without the event's own brace: it is the value that counts
        return None
    return head


def one_line(body: bytes) -> bytes:
    """The same JSON with every line end escaped; a little longer where there were some."""
    if not body.isascii():
        for raw, escaped in _LINE_ENDS:
            body = body.replace(raw, escaped)
    return body


def encode_value(value: Any) -> Raw:
    """A handler's result or output, an argument. Raises `ValueError` for what JSON cannot carry."""
    try:
        body = msgspec.json.encode(value, enc_hook=_pydantic)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"JSON cannot carry this {type(value).__name__}: {error}") from error
    except RecursionError as error:
        raise ValueError(f"this {type(value).__name__} {TOO_DEEP}") from error
    if is_too_deep(body):
        raise ValueError(f"this {type(value).__name__} {TOO_DEEP}")
    if value is not None and b"null" in body:
        _refuse_non_finite(value)
    return Raw(body)


def _refuse_non_finite(value: Any) -> None:
    """msgspec writes NaN and infinity as null, which would be taken for a value that was never there."""
    import json

    try:
        # What is Raw was encoded, and so looked at, before.
        plain = msgspec.to_builtins(value, enc_hook=lambda part: None if isinstance(part, Raw) else _pydantic(part))
        json.dumps(plain, allow_nan=False, default=str)
    except ValueError as error:
        raise ValueError(f"JSON cannot carry this {type(value).__name__}: it has no NaN and no infinity") from error


def _pydantic(value: Any) -> Any:
    """Pydantic models are accepted where they are installed; queuecast does not import them."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"objects of type {type(value).__name__} are not JSON")
    return dump(mode="json", by_alias=True)
