"""The application that the processes run: three queues with a handler of every kind.

Each handler leaves its witness in a file before it begins, works in small steps that a kill can fall between, and
returns the number it was given, so that every result can be told from every other.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from queuecast import Context, Queuecast

STEPS = 5
STEP_SECONDS = 0.01

qc = Queuecast()
reports = qc.queue("reports")
pictures = qc.queue("pictures")
tokens = qc.queue("tokens")

QUEUES = tuple(qc.queues)


def witness(ctx: Context) -> None:
    """One write, so that lines of several processes never mix, and that a kill cannot take it back."""
    file = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{ctx.id} {ctx.attempt}\n".encode())
    os.close(file)


@reports.task
async def awaited(ctx: Context, number: int) -> int:
    witness(ctx)
    for step in range(STEPS):
        ctx.progress(step + 1, STEPS)
        await asyncio.sleep(STEP_SECONDS)
    return number


@reports.task
def threaded(ctx: Context, number: int) -> int:
    witness(ctx)
    for step in range(STEPS):
        ctx.progress(step + 1, STEPS)
        time.sleep(STEP_SECONDS)
    return number


@pictures.task(process=True)
def separate(ctx: Context, number: int) -> int:
    witness(ctx)
    for step in range(STEPS):
        ctx.progress(step + 1, STEPS)
        time.sleep(STEP_SECONDS)
    return number


@tokens.task
async def streaming(ctx: Context, number: int) -> AsyncIterator[int]:
    witness(ctx)
    for step in range(STEPS):
        yield number + step
        await asyncio.sleep(STEP_SECONDS)


@tokens.task
def threaded_streaming(ctx: Context, number: int) -> Iterator[int]:
    witness(ctx)
    for step in range(STEPS):
        yield number + step
        time.sleep(STEP_SECONDS)


@tokens.task(retries=1)
async def refusing(ctx: Context, number: int) -> int:
    """Fails at the first attempt."""
    witness(ctx)
    if ctx.attempt == 1:
        raise ConnectionError(f"refused {number}")
    return number


# Handlers that a test holds and lets go


@reports.task
def held(ctx: Context, number: int, gate: str) -> int:
    """Ends when somebody opens the FIFO at the other end. In a thread, which nobody can end from outside."""
    witness(ctx)
    Path(gate).read_bytes()
    return number


@reports.task
async def lasting(ctx: Context, number: int) -> int:
    """Takes so many seconds."""
    witness(ctx)
    await asyncio.sleep(number)
    return number


@reports.task
async def blocking(ctx: Context, number: int) -> int:
    """The same, without a chance for anything else in its event loop."""
    witness(ctx)
    time.sleep(number)
    return number


@reports.task
async def endless(ctx: Context, number: int) -> int:
    """Only a worker that stops can end its first run; the second one ends at once."""
    again = any(line.startswith(ctx.id) for line in witnessed())
    witness(ctx)
    if not again:
        await asyncio.Event().wait()
    return number


@reports.task
async def deadly(ctx: Context, number: int) -> int:
    """Takes its process along, as what uses up all memory does."""
    witness(ctx)
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def witnessed() -> list[str]:
    file = Path(os.environ["WITNESS"])
    return file.read_text().splitlines() if file.exists() else []
