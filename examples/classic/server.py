"""The server: the page, and the gateway behind it.

`uvicorn server:app --http queuecast.gateway.server:StreamProtocol`; without `--http` it works too, only slower.
"""

import os
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Mount, Route

from queuecast import Queuecast

qc = Queuecast(os.environ.get("QUEUECAST_BROKER", "amqp://localhost"))
qc.queue("task_queue", external=True, reply_within=60)


async def page(request):
    return FileResponse(Path(__file__).with_name("page.html"))


@asynccontextmanager
async def lifespan(app):
    async with qc.running():
        yield


app = Starlette(routes=[Route("/", page), Mount("/", qc.gateway)], lifespan=lifespan)
