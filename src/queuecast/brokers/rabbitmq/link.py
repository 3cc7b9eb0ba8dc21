"""A connection that is made again whenever it is lost, for ever."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from pika import URLParameters

from ...errors import BrokerUnavailable, ConfigurationError, QueuecastError
from .line import Channel, Line

Prepare: TypeAlias = Callable[[Line], Awaitable[None]]

logger = logging.getLogger(__name__)

OPEN_SECONDS: Final = 10.0
"""Seconds in which `open` tries again and again. Then `BrokerUnavailable`."""

UP_SECONDS: Final = 5.0
"""Seconds that a call waits for a connection which is being made again. Then `BrokerUnavailable`."""

FIRST_PAUSE_SECONDS: Final = 0.1
MAX_PAUSE_SECONDS: Final = 10.0
"""Seconds between two tries at most. Each pause is drawn between nothing and twice the bound of the last one, so that
clients which lost the same server do not come back all at once ("full jitter", AWS Architecture Blog, 2015)."""

LASTING_SECONDS: Final = 10.0
"""Seconds after which a connection counts as one that lasts, so that the pauses begin from the first again."""


class Link:
    """Connects to the first of several hosts that answers. `prepare` is awaited on every new line before it is used."""

    def __init__(
        self, hosts: Sequence[URLParameters], prepare: Callable[[Line], Awaitable[None]] | None = None
    ) -> None:
        self._hosts = list(hosts)
        self._prepare = prepare
        self._line: Line | None = None
        self._up = asyncio.Event()
        self._reason: QueuecastError = BrokerUnavailable("the connection to RabbitMQ is not open")
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises `ConfigurationError`, `BrokerUnavailable`."""
        self._task = asyncio.create_task(self._stay_up())
        up = asyncio.create_task(self._up.wait())
        try:
            await asyncio.wait([up, self._task], timeout=OPEN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if self._line is None:
            reason = self._reason
            await self.close()
            raise reason

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._up.clear()
        if self._line:
            await self._line.close()
            self._line = None
        self._reason = BrokerUnavailable("the connection to RabbitMQ is closed")

    async def line(self) -> Line:
        """The connection, once there is one. Raises `BrokerUnavailable`."""
        try:
            async with asyncio.timeout(UP_SECONDS):
                while self._line is None or self._line.lost.done():
                    self._up.clear()
                    await self._up.wait()
        except TimeoutError:
            raise self.reason from None
        return self._line

    @property
    def reason(self) -> BrokerUnavailable:
        """Why there is no connection now."""
        return self._reason if isinstance(self._reason, BrokerUnavailable) else BrokerUnavailable(str(self._reason))

    async def channel(self) -> Channel:
        return await (await self.line()).channel()

    def move_on(self, line: Line, reason: BrokerUnavailable) -> None:
        """Leave this host for the next one, where there is one."""
        line.abort(reason)

    async def _stay_up(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        loop = asyncio.get_running_loop()
        known = False
        while True:
            began = loop.time()
            try:
                line = await Line.connect(self._hosts[0])
                await self._use(line)
                known = True
                logger.warning("%s; connecting again", self._reason)
            except ConfigurationError as error:
                self._reason = error
                if not known:
                    return
                logger.warning("%s; trying again", error)
            except BrokerUnavailable as error:
                self._reason = error
                logger.log(logging.WARNING if known else logging.INFO, "%s; trying again", error)
            if loop.time() - began > LASTING_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._hosts.append(self._hosts.pop(0))
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    async def _use(self, line: Line) -> None:
        """Until it is lost."""
        try:
            if self._prepare:
                await self._prepare(line)
            self._line = line
            self._up.set()
            self._reason = await asyncio.shield(line.lost)
        except BrokerUnavailable:
            line.abort(BrokerUnavailable("the connection to RabbitMQ could not be prepared"))
            raise
        finally:
            if line.lost.done():
                self._line = None
                self._up.clear()
