"""The demo's web application: its page and its few extra routes around the gateway."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from ..app import Queuecast
from ..gateway.auth import LOOPBACK, same_origin
from . import samples
from .folder import files

PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}

FILE_HEADERS: Final = {
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Content-Disposition": "attachment",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def make_app(qc: Queuecast, kill_worker: Callable[[], None], *, hosts: Sequence[str] = LOOPBACK) -> ASGIApp:
    """The gateway with the demo's page at `/`. `kill_worker` ends the worker process the hard way.

    The handlers read any path they are given, so only `hosts` that are this machine's own may reach them.
    """

    async def kill(request: Request) -> Response:
        if not same_origin(request.headers):
            return PlainTextResponse("only the demo's own page may do this\n", 403)
        kill_worker()
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/", _asset("index.html", "text/html; charset=utf-8")),
            Route("/demo/page.js", _asset("page.js", "text/javascript; charset=utf-8")),
            Route("/demo/page.css", _asset("page.css", "text/css; charset=utf-8")),
            Route("/demo/icon.svg", _asset("icon.svg", "image/svg+xml")),
            Route("/demo/samples", _samples),
            Route("/demo/kill-worker", kill, methods=["POST"]),
            Mount("/demo/files", _Files(directory=files())),
            Mount("/", qc.gateway),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
    )


def _asset(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    """A file of the page, from wherever the package is installed."""
    body = (resources.files(__package__) / "page" / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(body, media_type=media_type, headers=PAGE_HEADERS)

    return answer


async def _samples(_: Request) -> Response:
    """Paths on this machine that the page's forms begin with."""
    paths = {
        "words": samples.library(),
        "thumbs": samples.pictures(),
        "exports": samples.orders(),
        "stream": samples.story(),
    }
    return JSONResponse({queue: str(path) for queue, path in paths.items()}, headers={"Cache-Control": "no-store"})


class _Files(StaticFiles):
    """What the handlers wrote. It is made of visitors' data, so it is only ever saved or shown as an image."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(FILE_HEADERS)
        return response

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """A file that a second run replaces must not come from a cache."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        return response
