"""A FastAPI application: exports with progress, each user sees their own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from starlette.requests import HTTPConnection
from starlette.responses import Response

from queuecast import Context, Principal, Queuecast


async def who(connection: HTTPConnection) -> Principal | None:
    user = connection.cookies.get("user")
    return Principal(user, follow="own") if user else None


qc = Queuecast("sqlite:///work.db", authenticate=who)
exports = qc.queue("exports")


@exports.task(retries=3, timeout=600)
def export(ctx: Context, report_id: int) -> str:
    for row in range(100):
        ctx.progress(row, 100, "rows")
    return f"/files/{report_id}.csv"


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with qc.running(worker=True):
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/queuecast", qc.gateway)


def user(request: Request) -> str:
    return request.cookies["user"]


@app.post("/exports")
async def start(report_id: int, who: str = Depends(user)) -> dict[str, str]:
    ref = await export.options(owner=who, idempotency_key=f"{who}-{report_id}").submit(report_id)
    return {"id": ref.id, "cursor": ref.cursor}


@app.get("/exports/{id}")
async def wait(id: str) -> str:
    return await export.ref(id).result(timeout=5)


@app.get("/my/progress")
async def progress(request: Request, who: str = Depends(user)) -> Response:
    return exports.stream(request, owner=who)
