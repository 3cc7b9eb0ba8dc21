"""Overview, health and metrics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from ..app import Principal
from ..brokers.base import end_of
from ..cursor import MAX_STREAM_QUEUES, format_vector
from ..errors import BrokerError
from ..queue import Queue
from ..session import Session
from .meters import Meters
from .tasks import json_response

if TYPE_CHECKING:
    from .app import Gateway


async def overview(session: Session, queues: list[Queue], principal: Principal) -> Response:
    """The queues with how many tasks are in each state, and a cursor for `/events` of exactly these queues."""
    cursors = {queue.name: await end_of(session.broker, queue.name) for queue in queues}
    counts = await session.broker.counts() if principal.follow == "all" else None
    body: dict[str, Any] = {"queues": [await _shown(session, queue, counts) for queue in queues]}
    if len(cursors) == 1:
        body["cursor"] = str(*cursors.values())
    elif 1 < len(cursors) <= MAX_STREAM_QUEUES:
        body["cursor"] = format_vector(cursors)
    return json_response(body)


async def _shown(session: Session, queue: Queue, counts: Any | None) -> dict[str, Any]:
    """Without counts for people who may see their own tasks only: how much others have to do is not theirs to know."""
    shown: dict[str, Any] = {"name": queue.name, "handlers": sorted({*queue.handlers, *queue.announced})}
    if counts is None:
        return {**shown, "counts": {}, "oldest_ready_seconds": None}
    due = await session.broker.oldest_due(queue.name)
    return {
        **shown,
        "counts": {state: number for state, number in counts.get(queue.name, {}).items() if number},
        "oldest_ready_seconds": 0.0 if due is None else round(max(0.0, time.time() - due), 3),
    }


def livez() -> Response:
    """The event loop turns; the broker is not asked."""
    return json_response({"status": "alive"})


async def readyz(gateway: Gateway) -> Response:
    """200 once the broker answers and the logs are followed, and not while draining; else 503 with the reason."""
    try:
        opened = await gateway.opened()
        await opened.session.broker.counts()
    except BrokerError as error:
        return json_response({"status": "not ready", "reason": str(error)}, 503)
    if opened.hub.draining:
        return json_response({"status": "not ready", "reason": "draining"}, 503)
    return json_response({"status": "ready"})


async def metrics(meters: Meters, session: Session) -> Response:
    return Response(await meters.page(session), media_type="text/plain; version=0.0.4; charset=utf-8")
