"""The server with a stream of its own: what is sent, and to whom, is up to this route. `uvicorn server_own_route:app`

Where nothing is to be changed, `return task_queue.stream(request)` does all of it, and faster.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import FastAPI, Header
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from queuecast import Queuecast, ResetRequired

qc = Queuecast(os.environ.get("QUEUECAST_BROKER", "amqp://localhost"))
task_queue = qc.queue("task_queue", external=True, reply_within=60)


@asynccontextmanager
async def lifespan(app):
    async with qc.running():
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def page():
    return FileResponse(Path(__file__).with_name("page.html"))


@app.get("/queues/task_queue/events", response_class=EventSourceResponse)
async def events(
    after: str = "last", last_event_id: Annotated[str | None, Header()] = None
) -> AsyncIterator[ServerSentEvent]:
    try:
        async for event in task_queue.events(after=last_event_id or after):
            yield ServerSentEvent(id=event.cursor, raw_data=msgspec.json.encode(event).decode())
    except ResetRequired as reset:
        # The browser's last id is of no use any more. An empty one makes it come back without.
        yield ServerSentEvent(id="", event="reset", data=reset.reason)


app.mount("/", qc.gateway)
