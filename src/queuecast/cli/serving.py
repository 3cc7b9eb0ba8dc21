"""The gateway's process, alone or with a worker as its child."""

from __future__ import annotations

import ipaddress
import logging
import signal
from collections.abc import Callable, Sequence
from typing import TypeAlias

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp

from ..app import Queuecast
from ..errors import ConfigurationError
from ..gateway.auth import LOOPBACK
from ..gateway.server import serve
from ..gateway.signals import at_signals
from ..settings import Settings
from .child import WorkerChild
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


def worker_arguments(target: str, settings: Settings, broker: str | None) -> list[str]:
    """The command line of `queuecast worker` that says the same as these settings."""
    arguments = [target, "--log-level", settings.log_level]
    if broker is not None:
        arguments += ["--broker", broker]
    if settings.concurrency is not None:
        arguments += ["--concurrency", str(settings.concurrency)]
    return arguments + [f"--queue={queue}" for queue in settings.queue]


async def run(app: Queuecast, settings: Settings, worker: Sequence[str]) -> None:
    """The gateway here and a worker in a process of its own, until SIGTERM or SIGINT.

    Raises as `serve_gateway`, and `CommandError` when the worker cannot start.
    """
    await _serve_with(WorkerChild(worker), app, app.gateway, settings, lambda _: None)


async def run_demo(app: Queuecast, settings: Settings, worker: Sequence[str]) -> None:
    """The same with the demo's page around the gateway."""
    from ..demo.web import make_app

    child = WorkerChild(worker)
    page = make_app(app, child.kill, hosts=LOOPBACK if is_loopback(settings.host) else ["*"])
    await _serve_with(child, app, page, settings, lambda url: say(f"open {url} in a browser"))


async def _serve_with(child: WorkerChild, app: Queuecast, face: ASGIApp, settings: Settings, tell: Started) -> None:
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
    gateway = app.gateway
    face = guarded(app, face, settings)

    async def drain(seconds: float) -> None:
        if gateway.hub is not None:
            await gateway.hub.drain(seconds)

    def on_start(port: int) -> None:
        url = f"http://{_address(settings.host, port)}"
        logger.info("listening on %s with %s", url, app.url)
        started(url)

    async with app.running():
        try:
            await serve(face, settings.host, settings.port, drain=drain, on_start=on_start, lifespan="off")
        except SystemExit as error:
            address = _address(settings.host, settings.port)
            advice = "stop what listens there, or choose another --port"
            raise CommandError(f"cannot listen on {address}, as it says above: {advice}", Exit.STARTUP) from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
