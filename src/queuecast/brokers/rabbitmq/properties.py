"""A message's properties, in our words and in AMQP's."""

from __future__ import annotations

import time
from typing import Any

from ..folded.wire import Header, Message
from . import frames


def to_amqp(message: Message) -> bytes:
    """Persistent, with the time of now. Never a `user_id`: another's would close the channel. Raises `InvalidInput`."""
    return frames.properties(
        content_type=message.content_type,
        headers=message.headers,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        id=message.id,
        timestamp=int(time.time()),
        name=message.name,
    )


def from_amqp(properties: Any, body: bytes) -> Message:
    """What is no text, or among the headers no scalar, is left out."""
    headers = properties.headers
    return Message(
        body=body,
        id=_text(properties.message_id),
        name=_text(properties.type),
        content_type=_text(properties.content_type),
        reply_to=_text(properties.reply_to),
        correlation_id=_text(properties.correlation_id),
        headers=_scalars(headers) if headers else {},
    )


def _text(value: Any) -> str | None:
    """pika leaves bytes where they are no UTF-8."""
    return value if isinstance(value, str) else None


def _scalars(headers: dict[Any, Any]) -> dict[str, Header]:
    """pika's integers are of a class of its own, which our codec does not know."""
    found: dict[str, Header] = {}
    for key, value in headers.items():
        if isinstance(key, str):
            if isinstance(value, (str, bool, float)):
                found[key] = value
            elif isinstance(value, int):
                found[key] = int(value)
    return found
