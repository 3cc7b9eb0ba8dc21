"""Starts the apps of asgi_apps.py under uvicorn, with uvloop and httptools."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from lib import proc
from lib.subject import Event, Server, post


@contextlib.contextmanager
def _serve(folder: Path, app: str, channel: str) -> Iterator[Server]:
    for module in ("uvicorn", "uvloop", "httptools", "sse_starlette"):
        proc.need(module)
    port = proc.free_port()

    def publish(events: Sequence[Event]) -> bytes:
        return b"".join(post(f"/publish/{channel.format(i)}", body) for i, body in events)

    with proc.running(proc.uvicorn(f"peers.asgi_apps:{app}", port), log=folder / "uvicorn.log") as process:
        proc.wait_for_port(port, process)
        yield Server(process, port, lambda i: f"/stream/{channel.format(i)}", publish)


def sse_starlette(folder: Path) -> contextlib.AbstractContextManager[Server]:
    return _serve(folder, "sse_starlette", "all")


def sse_starlette_unicast(folder: Path) -> contextlib.AbstractContextManager[Server]:
    return _serve(folder, "sse_starlette", "c{}")


def handmade(folder: Path) -> contextlib.AbstractContextManager[Server]:
    return _serve(folder, "handmade", "all")
