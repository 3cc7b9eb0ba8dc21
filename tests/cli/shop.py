"""The application that the command line is tried on."""

import asyncio
import os
import time

from queuecast import Context, Queuecast

qc = Queuecast()
reports = qc.queue("reports")
other = object()


@reports.task
async def render(ctx: Context, report_id: int, steps: int = 3) -> dict[str, int]:
    for step in range(steps):
        ctx.progress(step, steps, "rows")
        await asyncio.sleep(0.02)
    return {"report": report_id}


@reports.task
async def speak(text: str):
    for word in text.split():
        yield word
        yield {"length": len(word)}


@reports.task
async def fail(reason: str = "no such thing"):
    raise ValueError(reason)


@reports.task
async def forever():
    await asyncio.Event().wait()


@reports.task
def stubborn():
    """A thread that does not listen to anybody."""
    while True:
        time.sleep(0.05)


@reports.task
async def block():
    """A defect of the user's: nothing else runs in this process's event loop any more."""
    while True:
        time.sleep(0.05)


@reports.task
async def pid() -> int:
    return os.getpid()
