"""Kafka as a driver: a topic of tasks for each queue, a topic of one partition for each log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import confluent_kafka
from confluent_kafka import Consumer, KafkaException

from ...cursor import Cursor
from ...errors import BrokerUnavailable, ConfigurationError
from ..base import CONTROL, Bounds, External, Retention
from ..folded.driver import DEAD, Driver, Intake, Page, Parcel
from ..folded.wire import Message
from . import address, delays, faults, reader, watermarks
from .headers import to_kafka
from .intake import KafkaIntake, Source
from .member import Member
from .producer import Letter, NoTopic, Producer, Sending
from .tail import Tails
from .topics import KEEPS, Extent, Plan, Topics
from .watermarks import Watermarks

FINISH_SECONDS: Final = 10.0
"""Seconds for `close` to have confirmed what was handed over."""

REPLIES_AT_ONCE: Final = 100
"""Answers of foreign workers that are held at most before they are settled."""

MIN_SEGMENT_BYTES: Final = 1 << 20
MAX_SEGMENT_BYTES: Final = 50_000_000
"""Bytes of a log's segment: an eighth of what is kept, within these. Retention drops whole segments."""

OURS: Final = "_qc."
"""How topics begin that are neither a queue's nor a foreign program's."""

WATERMARKS: Final = Plan(watermarks.TOPIC, 1, watermarks.SETTINGS)


class KafkaDriver(Driver):
    """`kafka://…`: see docs/kafka.md for what it makes and what it must be allowed to do."""

    def __init__(self, url: str, retention: Retention) -> None:
        self._address = address.parse(url)
        self._retention = retention
        self._names: dict[str, str] = {}
        """The topic of each external queue."""
        self._members: dict[str, Source] = {}
        self._appended: dict[str, Sending] = {}
        """The newest append to each log."""
        self._mover: delays.Mover | None = None
        self._watching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<KafkaDriver {self._address.settings['bootstrap.servers']}>"

    async def open(self) -> None:
        settings = self._address.settings
        if self._address.protocol == "share" and not hasattr(confluent_kafka, "ShareConsumer"):
            raise ConfigurationError("protocol=share needs confluent-kafka 2.15 or newer")
        try:
            # As members will be. What it says of connections is said by those that are waited for.
            Consumer({**settings, **_group(self._address), "group.id": "queuecast", "log_level": 0}).close()
            self._topics = Topics(settings, self._address.replicas)
        except KafkaException as error:
            raise ConfigurationError(f"the Kafka URL cannot be used: {faults.why(error)}") from error
        try:
            await self._topics.connect()
        except BaseException:
            await self._topics.close()
            raise
        self._producer = Producer(settings)
        self._tails = Tails(settings)
        self._watermarks = Watermarks(self._topics, self._producer, self._tails, self._look_at_watermarks)
        self._watching = asyncio.create_task(reader.watch(self._tails, self._topics), name="queuecast kafka topics")
        try:
            ours = [self._log(CONTROL), self._log(DEAD), Plan(delays.TOPIC, delays.LEVELS, KEEPS)]
            await self._topics.make(ours)
            await self._topics.check_permissions(plan.name for plan in ours)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        if self._watching is None:
            return
        self._watching.cancel()
        self._watching = None
        if self._mover is not None:
            await self._mover.close()
            self._mover = None
        await self._producer.finish(FINISH_SECONDS)
        members, self._members = self._members, {}
        await asyncio.gather(*(member.close() for member in members.values()))
        await asyncio.gather(self._tails.close(), self._producer.close())
        await self._topics.close()

    async def declare(self, queue: str, external: External | None) -> None:
        name = external.name if external else queue
        tasks, log = Plan(name, self._address.partitions, KEEPS), self._log(queue)
        if external is None:
            ours = [tasks, log]
        else:
            self._names[queue] = name
            ours = [log, Plan(_replies(queue), self._address.partitions, KEEPS)]
            if (await self._topics.identities([name]))[name] is None:
                await self._topics.make([tasks])
        found = await self._topics.make(ours)
        await self._topics.check_permissions(plan.name for plan in ours)
        if name in found:
            await self._topics.check(name)

    # Tasks

    async def put(self, parcels: Sequence[Parcel]) -> None:
        now = time.time()
        await self._producer.put(
            [
                delays.letter_for(self._names.get(queue, queue), message, now + delay if delay > 0 else now, now)
                for queue, message, delay in parcels
            ]
        )

    def consume(self, queue: str, concurrency: int) -> Intake:
        return self._intake(self._names.get(queue, queue), concurrency)

    # Foreign programs

    def replies_to(self, queue: str) -> str:
        return _replies(queue)

    def replies(self, queue: str) -> Intake:
        return self._intake(_replies(queue), REPLIES_AT_ONCE)

    async def reply(self, to: str, message: Message) -> None:
        with suppress(NoTopic):
            await self._producer.put([Letter(to, message.body, to_kafka(message), message.correlation_id)])

    # Logs

    def append(self, log: str, bodies: Sequence[bytes]) -> asyncio.Future[int]:
        sending = self._producer.send([Letter(_topic(log), body) for body in bodies])
        self._appended[log] = sending
        return sending.done

    async def flushed(self) -> None:
        pending = [sending.done for sending in self._appended.values() if not sending.done.done()]
        if pending:
            await asyncio.wait(pending)

    async def read(self, log: str, after: Cursor) -> AsyncGenerator[Page, None]:
        async for page in reader.pages(self._tails, _topic(log), after, partial(self._look, log)):
            yield page

    async def bounds(self, log: str) -> Bounds:
        extent = await self._look(log)
        return Bounds(extent.low + 1, extent.high, extent.identity)

    async def recent(self, log: str) -> Cursor:
        return await reader.recent(self._tails, _topic(log), await self._look(log))

    async def _look(self, log: str) -> Extent:
        return await self._topics.extent_of(self._log(log))

    async def _look_at_watermarks(self) -> Extent:
        return await self._topics.extent_of(WATERMARKS)

    def _log(self, log: str) -> Plan:
        kept = self._retention
        settings = {
            "cleanup.policy": "delete",
            "retention.ms": str(max(1, int(kept.age * 1_000))),
            "retention.bytes": str(kept.size),
            "segment.bytes": str(min(max(kept.size // 8, MIN_SEGMENT_BYTES), MAX_SEGMENT_BYTES)),
        }
        return Plan(_topic(log), 1, settings)

    # Members of groups

    def _intake(self, topic: str, concurrency: int) -> KafkaIntake:
        return KafkaIntake(partial(self._join, topic), concurrency)

    def _join(self, topic: str, intake: KafkaIntake) -> Source:
        if self._watching is None:
            raise BrokerUnavailable("the broker is closed")
        if self._mover is None:
            self._mover = delays.Mover(self._producer, KafkaIntake(self._join_delays, delays.AT_ONCE))
        member = self._members.get(topic)
        if member is None:
            member = self._members[topic] = self._source(topic)
        member.join(intake)
        return member

    def _source(self, topic: str) -> Source:
        if self._address.protocol != "share" or topic.startswith(OURS):
            return self._member(topic, lambda _: 0.0)
        from .sharing import Sharer  # which older clients do not have all for

        on_left = partial(self._members.pop, topic, None)
        return Sharer(self._address.settings, self._producer, self._topics, topic, on_left)

    def _join_delays(self, intake: KafkaIntake) -> Member:
        member = self._members[delays.TOPIC] = self._member(delays.TOPIC, delays.ready_at)
        member.join(intake)
        return member

    def _member(self, topic: str, ready: Any) -> Member:
        return Member(
            {**self._address.settings, **_group(self._address)},
            self._watermarks,
            topic,
            ready,
            on_left=partial(self._members.pop, topic, None),
        )


def _group(where: address.Address) -> dict[str, Any]:
    if where.protocol == "consumer":
        return {"group.protocol": "consumer"}
    # Also of what is ours where tasks are shared: what waits for its time is held for longer than a share group allows.
    session = int(where.session * 1_000)
    return {
        "group.protocol": "classic",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": session,
        "heartbeat.interval.ms": session // 12,  # a rebalance is learned of with a heartbeat
    }


def _topic(log: str) -> str:
    return log if log in (CONTROL, DEAD) else f"_qc.events.{log}"


def _replies(queue: str) -> str:
    return f"_qc.replies.{queue}"
