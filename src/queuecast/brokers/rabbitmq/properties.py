"""A message's properties, in AMQP's words."""

from __future__ import annotations

import time

from ..folded.wire import Message
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
