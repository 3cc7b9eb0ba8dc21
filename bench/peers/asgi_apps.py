"""Server-Sent Events in Starlette as people usually write them: a queue and a task for each client.

Two apps with the same routes: one on sse-starlette, one by hand on StreamingResponse.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

Queues = dict[str, set[asyncio.Queue[tuple[int, str]]]]
clients: Queues = defaultdict(set)
last_id = 0


async def publish(request: Request) -> Response:
    global last_id
    body = (await request.body()).decode()
    last_id += 1
    for queue in clients[request.path_params["channel"]]:
        queue.put_nowait((last_id, body))
    return Response(status_code=204)


async def events(channel: str) -> AsyncIterator[tuple[int, str]]:
    queue: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
    clients[channel].add(queue)
    try:
        while True:
            yield await queue.get()
    finally:
        clients[channel].discard(queue)


async def sse_starlette_stream(request: Request) -> Response:
    async def frames() -> AsyncIterator[ServerSentEvent]:
        async for number, data in events(request.path_params["channel"]):
            yield ServerSentEvent(data=data, id=str(number))

    return EventSourceResponse(frames())


async def handmade_stream(request: Request) -> Response:
    async def frames() -> AsyncIterator[str]:
        async for number, data in events(request.path_params["channel"]):
            yield f"id: {number}\ndata: {data}\n\n"

    return StreamingResponse(frames(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _app(stream: Callable[[Request], Awaitable[Response]]) -> Starlette:
    return Starlette(
        routes=[
            Route("/publish/{channel}", publish, methods=["POST"]),
            Route("/stream/{channel}", stream),
        ]
    )


sse_starlette = _app(sse_starlette_stream)
handmade = _app(handmade_stream)
