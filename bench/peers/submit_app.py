"""The ceiling for submitting over HTTP: Starlette decodes and validates the same body, and keeps nothing."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib import proc


def _make_app() -> Any:
    import msgspec
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    class Submission(msgspec.Struct, forbid_unknown_fields=True):
        name: str
        args: dict[str, Any]

    decoder = msgspec.json.Decoder(Submission)
    encode = msgspec.json.Encoder().encode

    async def submit(request: Request) -> Response:
        submission = decoder.decode(await request.body())
        queue = request.path_params["queue"]
        answer = {"id": str(uuid.uuid4()), "queue": queue, "name": submission.name, "state": "queued"}
        return Response(encode(answer), 202, media_type="application/json")

    return Starlette(routes=[Route("/queues/{queue}/tasks", submit, methods=["POST"])])


def __getattr__(name: str) -> Any:
    """`app`, made when uvicorn asks for it: starting it must not need its imports."""
    if name == "app":
        return _make_app()
    raise AttributeError(name)


@contextlib.contextmanager
def gateway(folder: Path) -> Iterator[int]:
    for module in ("uvicorn", "uvloop", "httptools", "starlette", "msgspec"):
        proc.need(module)
    port = proc.free_port()
    with proc.running(proc.uvicorn("peers.submit_app:app", port), log=folder / "uvicorn.log") as process:
        proc.wait_for_port(port, process)
        yield port
