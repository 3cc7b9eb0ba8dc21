"""An application with a gateway and a worker, in memory."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from queuecast import Context, Queuecast


@pytest.fixture
def qc():
    """Not running: a test enters `qc.running(...)` itself."""
    app = Queuecast("memory://")
    reports = app.queue("reports")
    app.queue("other")
    app.release = asyncio.Event()

    @reports.task
    async def render(ctx: Context, report_id: int, title: str = "untitled") -> str:
        ctx.progress(1, 2, "half")
        return f"{title} {report_id}"

    @reports.task
    async def hold(report_id: int = 0) -> str:
        await app.release.wait()
        return "released"

    @reports.task
    async def fail() -> None:
        raise RuntimeError("no paper")

    @reports.task
    async def count(to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    return app
