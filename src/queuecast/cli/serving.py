"""A gateway's process: alone, with a worker as its child, or one of several that share a port."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import TypeAlias

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp

from ..app import Queuecast
from ..errors import ConfigurationError
from ..gateway.auth import LOOPBACK
from ..gateway.server import allow_streams, listen, serve
from ..gateway.signals import at_signals
from ..settings import Settings
from .child import KeptChild
from .display import say
from .exits import CommandError, Exit

logger = logging.getLogger(__name__)

Started: TypeAlias = Callable[[str], None]


def refuse_exposure(app: Queuecast, settings: Settings) -> None:
    """Raises `ConfigurationError` where everyone on the network could submit, read and cancel everything."""
    if app.authenticate is None and not settings.insecure and not is_loopback(settings.host):
        raise ConfigurationError(
            f"on {settings.host} everybody who reaches this machine could submit, read and cancel everything: "
            "give the application a login (Queuecast(authenticate=…)), or listen on 127.0.0.1 behind a proxy of yours, "
            "or accept it with --insecure"
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def worker_child(target: str, settings: Settings, broker: str | None) -> KeptChild:
    """`queuecast worker` with these same settings."""
    arguments = ["worker", target, *_common(settings, broker)]
    if settings.concurrency is not None:
        arguments += ["--concurrency", str(settings.concurrency)]
    return KeptChild("the worker", arguments + [f"--queue={queue}" for queue in settings.queue])


def gateway_arguments(target: str | None, settings: Settings, broker: str | None) -> list[str]:
    """The command line of `queuecast gateway` that says the same as these settings."""
    arguments = ["gateway", *_common(settings, broker), "--host", settings.host, "--port", str(settings.port)]
    if settings.insecure:
        arguments.append("--insecure")
    return arguments if target is None else [*arguments, target]


def _common(settings: Settings, broker: str | None) -> list[str]:
    return ["--log-level", settings.log_level, *(["--broker", broker] if broker is not None else [])]


async def run(app: Queuecast, settings: Settings, worker: KeptChild) -> None:
    """The gateway here and a worker in a process of its own, until SIGTERM or SIGINT.

    Raises as `serve_gateway`, and `CommandError` when the worker cannot start.
    """
    await _serve_with(worker, app, app.gateway, settings, lambda _: None)


async def run_demo(app: Queuecast, settings: Settings, child: KeptChild) -> None:
    """The same with the demo's page around the gateway."""
    from ..demo.web import make_app

    page = make_app(app, child.kill, hosts=LOOPBACK if is_loopback(settings.host) else ["*"])
    await _serve_with(child, app, page, settings, lambda url: say(f"open {url} in a browser"))


async def _serve_with(child: KeptChild, app: Queuecast, face: ASGIApp, settings: Settings, tell: Started) -> None:
    def started(url: str) -> None:
        tell(url)
        child.start(on_failure=lambda: signal.raise_signal(signal.SIGINT))
        at_signals(child.stop)

    async with child:
        await serve_gateway(app, face, settings, started)
        # The server has put back the handlers it found. The worker may still be at it, and can be hurried.
        at_signals(child.stop, beside=False)


def guarded(app: Queuecast, face: ASGIApp, settings: Settings) -> ASGIApp:
    """Without a login only this machine's own names are answered.

    A page of another site can have its name point to 127.0.0.1 (DNS rebinding); to the visitor's browser we are then
    that page's own origin, and no check of origins refuses it. Behind a proxy that passes its own name on, --insecure.
    """
    if app.authenticate is not None or settings.insecure or not is_loopback(settings.host):
        return face
    # It passes scope and send on as they are, so that streams can still take over their transports.
    return TrustedHostMiddleware(face, allowed_hosts=[*LOOPBACK, settings.host], www_redirect=False)


async def serve_gateway(app: Queuecast, face: ASGIApp, settings: Settings, started: Started) -> None:
    """Serve this face of the application until a signal says stop; `started` is told the URL once it listens.

    Raises `ConfigurationError` or `BrokerUnavailable` for the broker, `CommandError` for an address that is taken.
    """

    def on_start() -> None:
        url = url_of(settings)
        logger.info("listening on %s with %s", url, app.url)
        started(url)

    allow_streams()
    async with app.running():
        await _serve_on(await listen_at(settings), app, face, settings, on_start)


async def serve_shared(app: Queuecast, settings: Settings, descriptors: Sequence[int]) -> None:
    """Serve on sockets that other processes serve on, too, until a signal says stop.

    Raises `ConfigurationError` or `BrokerUnavailable` for the broker.
    """

    def on_start() -> None:
        logger.info("process %d accepts connections", os.getpid())

    face = app.gateway
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    allow_streams()
    async with app.running():
        await _serve_on(sockets, app, face, settings, on_start)


async def _serve_on(
    sockets: Sequence[socket.socket], app: Queuecast, face: ASGIApp, settings: Settings, on_start: Callable[[], None]
) -> None:
    gateway = app.gateway

    async def drain(seconds: float) -> None:
        if gateway.hub is not None:
            await gateway.hub.drain(seconds)

    await serve(guarded(app, face, settings), sockets, drain=drain, on_start=on_start, lifespan="off")


async def listen_at(settings: Settings) -> list[socket.socket]:
    """Raises `CommandError` for an address that is taken, or not to be had."""
    try:
        return await listen(settings.host, settings.port)
    except OSError as error:
        # asyncio names the address as well.
        reason = (error.strerror or str(error)).rpartition(": ")[2]
        raise CommandError(
            f"cannot listen on {_address(settings)}: {reason}. Stop what listens there, or choose another --port",
            Exit.STARTUP,
        ) from error


def url_of(settings: Settings) -> str:
    return f"http://{_address(settings)}"


def _address(settings: Settings) -> str:
    return f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
