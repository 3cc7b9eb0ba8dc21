"""Request bodies, read within bounds of size and time."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

from ..hub.hub import Hub
from .problems import Problem

MAX_BODY_BYTES: Final = 4_000_000
"""Bytes of a request body, enough for a list of tasks. A larger one is refused with 413 before it is read whole."""

BODY_DEADLINE: Final = 30.0
"""Seconds a request body may take to arrive; then the request is refused with 408 and the connection closed."""

_CLOSE: Final = {"connection": "close"}


async def read_json(request: Request, hub: Hub) -> bytes:
    """The body of a request that says it is JSON. Raises `Problem` 408, 413, 415, or 503 where the hub is draining."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise Problem(
            415, "unsupported-media-type", "send the task as application/json", headers={"accept": "application/json"}
        )
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "unsupported-media-type", "send the body without content-encoding")
    if int(request.headers.get("content-length") or 0) > MAX_BODY_BYTES:
        raise _too_large()
    try:
        async with hub.patience(BODY_DEADLINE):
            return await _read(request)
    except TimeoutError:
        if hub.draining:
            raise Problem.for_now("stopping", "this server stops; nothing was taken: send it again", _CLOSE) from None
        detail = f"the body did not arrive in time: it has {BODY_DEADLINE:.0f} seconds"
        raise Problem(408, "body-timeout", detail, headers=_CLOSE) from None


async def _read(request: Request) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise _too_large()
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large() -> Problem:
    detail = f"the body is over {MAX_BODY_BYTES} bytes; send fewer tasks at once"
    return Problem(413, "too-large", detail, headers=_CLOSE)
