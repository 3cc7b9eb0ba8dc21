"""The parent of several processes: it listens, keeps them running, and tells them when to stop.

All gateways accept on one socket. With a socket for each (SO_REUSEPORT) connections would be spread more evenly, but
those that the kernel gives to a process which has just died would wait until it is started again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

from ..app import Queuecast
from ..gateway.server import close
from ..gateway.signals import ENDING, at_signals
from ..settings import Settings
from .child import KeptChild
from .serving import listen_at, url_of

logger = logging.getLogger(__name__)


async def serve_in_several(
    app: Queuecast, settings: Settings, gateway: Sequence[str], beside: Sequence[KeptChild] = ()
) -> None:
    """As many gateways as the settings say, with these arguments, and other children beside them, until SIGTERM or
    SIGINT. A second one ends them at once.

    Raises `ConfigurationError` or `BrokerUnavailable` for the broker, `CommandError` for an address that is taken and
    when one of them can never start.
    """
    # What is wrong with the broker is said here and once, not by each of them.
    await app.session()
    await app.close()
    sockets = await listen_at(settings)
    descriptors = [listener.fileno() for listener in sockets]
    arguments = [*gateway, *(f"--fd={descriptor}" for descriptor in descriptors)]
    names = [f"gateway {number}" for number in range(1, settings.workers + 1)]
    children = [*(KeptChild(name, arguments, descriptors) for name in names), *beside]

    async with AsyncExitStack() as stack:
        for child in children:
            await stack.enter_async_context(child)
        over = _start(children)
        logger.info("listening on %s with %s, in %d processes", url_of(settings), app.url, settings.workers)
        await over.wait()
        # Once nobody has them open, clients are refused; else they would wait for an answer that does not come.
        close(sockets)


def _start(children: Sequence[KeptChild]) -> asyncio.Event:
    """Set once all of them have been asked to stop, by a signal or because one cannot start."""
    over = asyncio.Event()

    def stop(number: signal.Signals) -> None:
        over.set()
        for child in children:
            child.stop(number)

    def fail() -> None:
        if not over.is_set():
            stop(signal.SIGTERM)

    for number in ENDING:
        at_signals(partial(stop, number), [number], beside=False)
    for child in children:
        child.start(on_failure=fail)
    return over
