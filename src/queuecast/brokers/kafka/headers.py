"""A message as a record: the value is its body, and all the rest is in headers, as text.

Spring's names for the address and the mark of an answer are read and written as well.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from ..folded.wire import ATTEMPT, RETRIES, Header, Message

Headers: TypeAlias = list[tuple[str, str | bytes | None]]

ID: Final = "id"
NAME: Final = "type"
CONTENT_TYPE: Final = "content-type"
REPLY_TO: Final = "reply-to"
CORRELATION_ID: Final = "correlation-id"
SPRING_REPLY_TO: Final = "kafka_replyTopic"
SPRING_CORRELATION_ID: Final = "kafka_correlationId"

_FIELDS: Final = {
    ID: "id",
    NAME: "name",
    CONTENT_TYPE: "content_type",
    REPLY_TO: "reply_to",
    CORRELATION_ID: "correlation_id",
    SPRING_REPLY_TO: "reply_to",
    SPRING_CORRELATION_ID: "correlation_id",
}
_COUNTS: Final = frozenset({ATTEMPT, RETRIES})


def to_kafka(message: Message) -> Headers:
    headers: Headers = [
        (header, value) for header, field in _FIELDS.items() if (value := getattr(message, field)) is not None
    ]
    headers += [(name, str(value)) for name, value in message.headers.items()]
    return headers


def from_kafka(body: bytes | None, headers: Any) -> Message:
    """What is no text is left out. Of a header that is there twice the last one counts."""
    fields: dict[str, str] = {}
    others: dict[str, Header] = {}
    for name, value in headers or ():
        text = _text(value)
        if text is None:
            continue
        if name in _FIELDS:
            fields[_FIELDS[name]] = text
        else:
            others[name] = int(text) if name in _COUNTS and text.isascii() and text.isdecimal() else text
    return Message(body=body or b"", headers=others, **fields)


def _text(value: Any) -> str | None:
    try:
        return value.decode() if isinstance(value, bytes) else None
    except UnicodeDecodeError:
        return None
