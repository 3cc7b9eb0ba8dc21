"""Handlers that another process can import."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from queuecast import Context, Queuecast


@asynccontextmanager
async def lifespan():
    yield os.getpid()


app = Queuecast("memory://", lifespan=lifespan)
queue = app.queue("processes")


@queue.task(process=True)
def where() -> int:
    return os.getpid()


@queue.task(process=True)
async def async_where() -> int:
    await asyncio.sleep(0)
    return os.getpid()


@queue.task(process=True)
def state(ctx: Context) -> int:
    return ctx.state


@queue.task(process=True)
def count(ctx: Context, to: int) -> Iterator[int]:
    for number in range(to):
        ctx.progress(number, to)
        yield number


@queue.task(process=True)
async def async_count(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number


@queue.task(process=True)
def say_twice_and_wait(ctx: Context, file: str) -> None:
    ctx.progress(1, 3)
    ctx.progress(2, 3)
    while not Path(file).exists():
        time.sleep(0.01)


def raise_what(how: str) -> None:
    if how == "exit":
        sys.exit(3)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "stop":
        raise StopIteration
    if how == "close":
        raise GeneratorExit
    if how == "outside":
        raise OutsideError
    if how == "cancel":
        raise asyncio.CancelledError
    if how == "unreadable":
        raise UnreadableError
    raise ValueError(how)


@queue.task(process=True)
def fail(how: str) -> None:
    raise_what(how)


@queue.task(process=True)
async def async_fail(how: str) -> None:
    raise_what(how)


@queue.task(process=True)
def fail_after_one(how: str) -> Iterator[int]:
    yield 1
    raise_what(how)


@queue.task(process=True)
async def async_fail_after_one(how: str) -> AsyncIterator[int]:
    yield 1
    raise_what(how)


@queue.task(process=True)
def give(what: str) -> object:
    return {"nothing JSON": object(), "too much": "x" * 600_000, "printed": print("printed by a handler")}[what]


@queue.task(process=True)
def die(how: str, file: str) -> None:
    """Leaves one line for each death."""
    with Path(file).open("a") as lines:
        lines.write(f"{os.getpid()}\n")
    if how == "exit":
        os._exit(9)
    os.kill(os.getpid(), signal.SIGSEGV)


@queue.task(process=True)
def die_with_a_child_left(file: str) -> None:
    """The second time it lives."""
    if Path(file).exists():
        return
    Path(file).touch()
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()
    os._exit(9)


@queue.task(process=True)
def wait(ctx: Context, ignoring: bool = False) -> str:
    """Ends when it is asked to, unless it ignores that."""
    if ignoring:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctx.progress(1, note=str(os.getpid()))
    time.sleep(60)
    return "nobody stopped me"


@queue.task(process=True)
async def async_wait(ctx: Context) -> None:
    ctx.progress(1, note=str(os.getpid()))
    await asyncio.sleep(60)


@queue.task(process=True)
def wait_for_program(ctx: Context) -> None:
    """Waits for a program that it has started, and ignores being asked to end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    ctx.progress(1, note=str(program.pid))
    program.wait()


@queue.task(process=True)
def pour(ctx: Context) -> Iterator[str]:
    """Yields without end, so that it is asked to end in the middle of a frame."""
    while True:
        yield "x" * 100_000


@queue.task(process=True)
def environment() -> dict[str, object]:
    return {"PYTHONPATH": os.environ.get("PYTHONPATH"), "stdin": sys.stdin.read(), "first": sys.path[0]}


@queue.task(process=True)
def delegate() -> str:
    return light.submit_sync().id


@queue.task
async def light() -> int:
    return os.getpid()


@queue.task
async def suspicious(file: str) -> int:
    """Kills the process that runs it, until the file exists."""
    if not Path(file).exists():
        os._exit(9)
    return os.getpid()


class OutsideError(BaseException):
    """Like the ones that test frameworks raise."""


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")
