"""A task on the wire, so that a program which knows nothing of us reads what it expects: the body is the arguments as
JSON and nothing else; id, name and options ride in properties and headers (spec/protocol.md).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Raw, Struct

from ...errors import QueuecastError
from ...task import MAX_NAME_CHARS, MAX_RETRIES, MAX_TASK_BYTES, Task, is_too_deep, new_task_id

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
