"""queuecast's programs under measurement; `ours.py` starts them.

`python ours_apps.py publisher PORT TASKS` appends events as a worker does, on request: `POST /publish` with a list of
[stream, payload].
"""

import asyncio
import sys
import time
from typing import Any

import msgspec
import uvicorn
import uvloop
from lib import counted
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from queuecast import Queuecast
from queuecast.control import HandlerInfo
from queuecast.event import OutputEvent, TaskEvent, TaskInfo
from queuecast.task import keyed_task_id, timestamp

QUEUE = "bench"

qc = Queuecast()  # QUEUECAST_BROKER chooses
noops = qc.queue("noop")
qc.queue(QUEUE)


@noops.task
async def noop() -> None:
    return None


counting = qc.queue("counted")


@counting.task(name="counted")
async def count() -> None:
    counted.ran()


def stream_task(number: int) -> str:
    """The id of the task that the i-th stream follows: known to both sides without asking."""
    return keyed_task_id(None, QUEUE, f"stream {number}")


class Publisher:
    """Appends events of tasks that run for ever."""

    def __init__(self, app: Queuecast, tasks: int) -> None:
        self._app = app
        self._tasks = tasks
        self._seq: list[int] = []

    async def begin(self) -> None:
        """Submit the tasks and let them run."""
        queue = self._app.queue(QUEUE)
        session = await self._app.session()
        queue.learn([HandlerInfo("stream", {})])
        numbers = range(self._tasks)
        await asyncio.gather(*(queue.submit("stream", {}, idempotency_key=f"stream {number}") for number in numbers))
        await session.broker.append(QUEUE, [self._running(number) for number in numbers])
        self._seq = [1] * self._tasks

    def _running(self, number: int) -> TaskEvent:
        info = TaskInfo(id=stream_task(number), name="stream", state="running", attempt=1)
        return TaskEvent(task=info, **self._head(number, 1))

    async def publish(self, request: Request) -> Response:
        session = await self._app.session()
        events = []
        for number, payload in msgspec.json.decode(await request.body()):
            task = number if number < self._tasks else 0
            self._seq[task] += 1
            seq = self._seq[task]
            events.append(OutputEvent(output=payload, index=seq - 2, **self._head(task, seq)))
        await session.broker.append(QUEUE, events)
        return Response(status_code=204)

    def _head(self, number: int, seq: int) -> dict:
        id = stream_task(number)
        return {"id": id, "queue": QUEUE, "attempt": 1, "run": "r", "seq": seq, "time": timestamp(time.time())}


def serve_publisher(port: int, tasks: int) -> None:
    publisher = Publisher(qc, tasks)

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await (await publisher.publish(Request(scope, receive)))(scope, receive, send)

    async def serve() -> None:
        async with qc.running():
            await publisher.begin()
            config = uvicorn.Config(asgi, port=port, log_config=None, access_log=False, lifespan="off")
            await uvicorn.Server(config).serve()

    uvloop.run(serve())


def __getattr__(name: str) -> Any:
    """`plain_gateway`, made when uvicorn asks for it."""
    if name == "plain_gateway":
        return qc.gateway
    raise AttributeError(name)


if __name__ == "__main__":
    serve_publisher(int(sys.argv[2]), int(sys.argv[3]))
