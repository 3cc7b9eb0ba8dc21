"""RabbitMQ as a driver: queues for tasks, streams for logs, and nothing of ours in the arguments of a task queue."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from ...cursor import Cursor
from ...errors import BrokerError
from ..base import CONTROL, Bounds, External, Retention
from ..folded.driver import DEAD, Driver, Intake, Page, Parcel
from ..folded.wire import Message
from . import address, delays, reader, tasks
from .adoption import declare_queue, declare_stream
from .intake import RabbitIntake
from .line import Line
from .link import Link
from .publisher import Publisher
from .tasks import Addressed
from .writer import LogWriter

MIN_SEGMENT_BYTES: Final = 65_536
MAX_SEGMENT_BYTES: Final = 50_000_000
"""Bytes of a stream's segment: an eighth of what is kept, within these. Retention drops whole segments."""

FINISH_SECONDS: Final = 10.0
"""Seconds for `close` to have confirmed what was handed over."""

REPLIES_AT_ONCE: Final = 100
"""Answers of foreign workers that are held at most before they are settled."""


class RabbitDriver(Driver):
    """`amqp://…`: see docs/rabbitmq.md for what it declares and what it must be allowed to do."""

    def __init__(self, url: str, retention: Retention) -> None:
        where = address.parse(url)
        self._queue_type = where.queue_type
        self._retention = retention
        # Two connections: an alarm of the server stops those that publish, and what they acknowledge with it.
        self._taking = Link(where.hosts)
        self._giving = Link(where.hosts, self._prepare)
        # Two channels there: RabbitMQ 3.10 loses count of a stream where a quorum queue's leader dies on the same one.
        self._tasks = Publisher(self._giving)
        self._logs = Publisher(self._giving)
        self._ladder = delays.Ladder(self._taking)
        self._token = secrets.token_hex(8)
        self._names: dict[str, str] = {}
        """The AMQP queue of each external queue."""
        self._writers: dict[str, LogWriter] = {}

    async def open(self) -> None:
        try:
            await asyncio.gather(self._taking.open(), self._giving.open())
            for log in (CONTROL, DEAD):
                await self._declare_log(log)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        try:
            async with asyncio.timeout(FINISH_SECONDS):
                while not all(writer.is_idle for writer in self._writers.values()):
                    await self._logs.finished()
                    await asyncio.sleep(0)
                await self._tasks.finished()
        except TimeoutError:
            pass
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        await asyncio.gather(self._giving.close(), self._taking.close())

    async def declare(self, queue: str, external: External | None) -> None:
        name = external.name if external else queue
        await declare_queue(self._taking, name, None if external else self._queue_type)
        await self._ladder.lead_to(name)
        await self._declare_log(queue)
        if external:
            self._names[queue] = name
            await declare_queue(self._taking, _replies(queue), None)

    # Tasks

    async def put(self, parcels: Sequence[Parcel]) -> None:
        try:
            for queue, _, delay in parcels:
                if delay > 0:
                    name = self._names.get(queue, queue)
                    await self._ladder.reach(delays.entrance(name, delay)[0], name)
            await tasks.put(self._tasks, [self._addressed(*parcel) for parcel in parcels])
        except BrokerError:
            self._ladder.forget()
            raise

    def consume(self, queue: str, concurrency: int) -> Intake:
        return self._intake(self._names.get(queue, queue), concurrency)

    # Foreign programs

    def replies_to(self, queue: str) -> str:
        return _replies(queue)

    def replies(self, queue: str) -> Intake:
        return self._intake(_replies(queue), REPLIES_AT_ONCE)

    async def reply(self, to: str, message: Message) -> None:
        await tasks.put(self._tasks, [Addressed("", to, message)], mandatory=False)

    # Logs

    def append(self, log: str, bodies: Sequence[bytes]) -> asyncio.Future[int]:
        return self._writer(log).append(bodies)

    async def flushed(self) -> None:
        await self._logs.flushed()

    async def read(self, log: str, after: Cursor) -> AsyncGenerator[Page, None]:
        # One that was deleted is there again then, and its readers learn that it is another.
        await self._declare_log(log)
        async for page in reader.pages(self._taking, self._logs, _stream(log), after, self._token):
            yield page

    async def bounds(self, log: str) -> Bounds:
        await self._declare_log(log)
        return await reader.bounds(self._taking, self._logs, _stream(log))

    async def recent(self, log: str) -> Cursor:
        await self._declare_log(log)
        return await reader.recent(self._taking, self._logs, _stream(log))

    async def _prepare(self, line: Line) -> None:
        await self._tasks.attach(line)
        await self._logs.attach(line)

    def _addressed(self, queue: str, message: Message, delay: float) -> Addressed:
        name = self._names.get(queue, queue)
        if delay <= 0:
            return Addressed("", name, message)
        level, routing_key = delays.entrance(name, delay)
        return Addressed(delays.step(level), routing_key, message)

    def _intake(self, name: str, concurrency: int) -> RabbitIntake:
        async def put_back(message: Message) -> None:
            await tasks.put(self._tasks, [Addressed("", name, message)])

        return RabbitIntake(self._taking, name, concurrency, put_back)

    def _writer(self, log: str) -> LogWriter:
        writer = self._writers.get(log)
        if writer is None:
            writer = LogWriter(self._logs, _stream(log), self._token, lambda: self._declare_log(log))
            self._writers[log] = writer
        return writer

    async def _declare_log(self, log: str) -> None:
        kept = self._retention
        segment = min(max(kept.size // 8, MIN_SEGMENT_BYTES), MAX_SEGMENT_BYTES)
        arguments = {
            "x-max-age": f"{max(1, int(kept.age))}s",
            "x-max-length-bytes": kept.size,
            "x-stream-max-segment-size-bytes": segment,
        }
        await declare_stream(self._taking, _stream(log), arguments)


def _stream(log: str) -> str:
    return log if log in (CONTROL, DEAD) else f"_qc.events.{log}"


def _replies(queue: str) -> str:
    return f"_qc.replies.{queue}"
