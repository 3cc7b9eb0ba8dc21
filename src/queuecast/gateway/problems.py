"""Every refusal as `application/problem+json` (RFC 9457): what is wrong, where, and what to do."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ..errors import (
    BrokerUnavailable,
    ConfigurationError,
    Flaw,
    InvalidInput,
    KeyReused,
    NotSupported,
    OutcomeUnknown,
    QueuecastError,
    ResultExpired,
    StorageFull,
    TooLarge,
    UnknownQueue,
    UnknownTaskName,
)

RETRY_AFTER: Final = (1, 10)
"""Seconds; a 503 names one of these at random, so that refused clients do not come back together."""


class Problem(Exception):
    """A refusal with its status. `kind` is a stable word; `flaws` name the fields."""

    def __init__(
        self, status: int, kind: str, detail: str, flaws: Sequence[Flaw] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.flaws = flaws
        self.headers = dict(headers or {})

    @classmethod
    def for_now(cls, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> Problem:
        """A 503, with when to come back."""
        return cls(503, kind, detail, headers={"retry-after": str(random.randint(*RETRY_AFTER)), **(headers or {})})

    def response(self) -> Response:
        body: dict[str, Any] = {
            "type": f"urn:queuecast:problem:{self.kind}",
            "title": self.kind.replace("-", " "),
            "status": self.status,
            "detail": self.detail,
        }
        if self.flaws:
            body["errors"] = [{"pointer": flaw.pointer, "detail": flaw.detail} for flaw in self.flaws]
        return Response(
            msgspec.json.encode(body),
            self.status,
            {**self.headers, "cache-control": "no-store"},
            media_type="application/problem+json",
        )


_STATUS_OF: Final[tuple[tuple[type[QueuecastError], int, str], ...]] = (
    (UnknownQueue, 404, UnknownQueue.kind),
    (UnknownTaskName, 422, UnknownTaskName.kind),
    (TooLarge, 413, TooLarge.kind),
    (KeyReused, 422, KeyReused.kind),
    (NotSupported, 422, NotSupported.kind),
    (InvalidInput, 422, InvalidInput.kind),
    (ResultExpired, 404, "unknown-task"),
    (StorageFull, 503, "storage-full"),
    (BrokerUnavailable, 503, "broker-unavailable"),
    (OutcomeUnknown, 503, "outcome-unknown"),
)


def problem_of(error: Exception) -> Problem | None:
    """The refusal that an exception stands for; None for a defect of ours."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        kind = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "refused")
        return Problem(error.status_code, kind, error.detail, headers=error.headers)
    if isinstance(error, ConfigurationError):
        # What is wrong is for the log: it may name the file, or the server.
        return Problem(503, "misconfigured", "this server is not set up as it must be; its log says more")
    for family, status, kind in _STATUS_OF:
        if isinstance(error, family):
            if status == 503:
                return Problem.for_now(kind, str(error))
            flaws = error.flaws if isinstance(error, InvalidInput) else ()
            detail = error.detail if isinstance(error, InvalidInput) else str(error)
            return Problem(status, kind, detail, flaws)
    return None
