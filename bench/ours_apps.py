"""queuecast's programs under measurement; `ours.py` starts them.

`python ours_apps.py streams PORT TASKS [plain]` serves a gateway in memory with one more route, which appends a batch
of events: `POST /publish` with a list of [stream, payload].
"""

import sys

import msgspec
import uvloop
from starlette.requests import Request
from starlette.responses import Response

from queuecast import Queuecast
from queuecast.event import OutputEvent, TaskEvent, TaskInfo
from queuecast.task import keyed_task_id, timestamp

QUEUE = "bench"

qc = Queuecast()  # QUEUECAST_BROKER chooses
noops = qc.queue("noop")


@noops.task
async def noop() -> None:
    return None


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
        queue.announced["stream"] = msgspec.UNSET  # type: ignore[assignment]
        for number in range(self._tasks):
            await queue.submit("stream", {}, idempotency_key=f"stream {number}")
            info = TaskInfo(id=stream_task(number), name="stream", state="running", attempt=1)
            await session.broker.append(QUEUE, [TaskEvent(task=info, **self._head(number, 1))])
        self._seq = [1] * self._tasks

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
        return {"id": id, "queue": QUEUE, "attempt": 1, "run": "r", "seq": seq, "time": timestamp(0)}


def streams(port: int, tasks: int, plain: bool) -> None:
    app = Queuecast("memory://")
    app.queue(QUEUE)
    publisher = Publisher(app, tasks)

    async def asgi(scope, receive, send) -> None:
        if scope["type"] == "http" and scope["path"] == "/publish":
            await (await publisher.publish(Request(scope, receive)))(scope, receive, send)
        else:
            await app.gateway(scope, receive, send)

    async def serve() -> None:
        async with app.running():
            await publisher.begin()
            if plain:
                import uvicorn

                config = uvicorn.Config(
                    asgi, port=port, log_config=None, access_log=False, lifespan="off", backlog=4_096
                )
                await uvicorn.Server(config).serve()
            else:
                from queuecast.gateway.server import serve

                await serve(asgi, port=port, drain=_no_drain, lifespan="off")

    uvloop.run(serve())


async def _no_drain(seconds: float) -> None:
    return


if __name__ == "__main__":
    streams(int(sys.argv[2]), int(sys.argv[3]), "plain" in sys.argv)
