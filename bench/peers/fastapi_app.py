"""The web side of the usual stack: POST starts a Celery task, GET forwards Redis pub/sub as events."""

import os
from collections.abc import AsyncIterator
from typing import Any

import redis.asyncio
from fastapi import FastAPI
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from peers.celery_app import noop

app = FastAPI()
pool = redis.asyncio.Redis.from_url(os.environ["BENCH_REDIS_URL"])


class Submission(BaseModel):
    name: str
    args: dict[str, Any]


@app.post("/queues/{queue}/tasks", status_code=202)
def submit(queue: str, submission: Submission) -> dict[str, str]:
    """A plain function, as Celery's publishing blocks: FastAPI runs it in its thread pool."""
    task = noop.delay(**submission.args)
    return {"id": task.id, "queue": queue, "name": submission.name, "state": "queued"}


@app.get("/queues/{queue}/events")
async def events(queue: str) -> EventSourceResponse:
    channel = pool.pubsub()
    await channel.subscribe("results")

    async def frames() -> AsyncIterator[ServerSentEvent]:
        async for message in channel.listen():
            if message["type"] == "message":
                yield ServerSentEvent(data=message["data"].decode())

    return EventSourceResponse(frames())
