"""Topics: what is there, made, adopted and trimmed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping
from concurrent import futures
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType

from ...errors import BrokerUnavailable, ConfigurationError
from . import faults

ANSWER_SECONDS: Final = 10.0
"""Seconds for the cluster to answer a question about its topics; then it is `BrokerUnavailable`."""

LOOK_SECONDS: Final = 0.02
"""How often it is looked whether a topic that was made is there."""

KEEPS: Final = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
"""Settings of a topic of tasks: nothing that was accepted may age out. What is finished is deleted by us."""


class Plan(NamedTuple):
    """A topic as it is made where it is not there."""

    name: str
    partitions: int
    settings: Mapping[str, str]


class Extent(NamedTuple):
    """What a log's topic is now: Kafka's own offsets of the first record, and after the last."""

    identity: str
    low: int
    high: int


class Topics:
    def __init__(self, settings: Mapping[str, Any], replicas: int) -> None:
        self._admin = AdminClient({**settings, "log_level": 0})  # what goes wrong is raised
        self._replicas = replicas

    async def connect(self) -> None:
        """Raises `BrokerUnavailable`, `ConfigurationError`."""
        try:
            await asyncio.to_thread(self._admin.list_topics, timeout=ANSWER_SECONDS)
        except KafkaException as error:
            raise faults.why(error) from error

    async def make(self, plans: Iterable[Plan]) -> set[str]:
        """Make those that are not there; the names of those that are. Raises `BrokerError`, `ConfigurationError`."""
        new = [NewTopic(plan.name, plan.partitions, self._replicas, config={**plan.settings}) for plan in plans]
        made = self._admin.create_topics(new, request_timeout=ANSWER_SECONDS)
        found = set()
        for name, future in made.items():
            try:
                await _answer(future)
            except KafkaException as error:
                if not faults.is_already_there(faults.error_in(error)):
                    raise faults.why(error) from error
                found.add(name)
        await self._shown(set(made))  # those as well that somebody else has made a moment ago
        return found

    async def _shown(self, names: set[str]) -> None:
        """Until the brokers know of them what the controller does."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while names:
                    names = {name for name, there in (await self._describe(names)).items() if not _has_leaders(there)}
                    await asyncio.sleep(LOOK_SECONDS if names else 0)
        except TimeoutError as error:
            raise BrokerUnavailable(f"Kafka has made {', '.join(sorted(names))}, and does not show it yet") from error

    async def check(self, name: str) -> None:
        """That a topic which is there loses no tasks. Raises `ConfigurationError`, `BrokerError`."""
        resource = ConfigResource(ResourceType.TOPIC, name)
        try:
            settings = await _answer(self._admin.describe_configs([resource], request_timeout=ANSWER_SECONDS)[resource])
        except KafkaException as error:
            raise faults.why(error) from error
        wrong = [f"{key} is {settings[key].value}" for key, value in KEEPS.items() if settings[key].value != value]
        if wrong:
            wanted = ",".join(f"{key}={value}" for key, value in KEEPS.items())
            raise ConfigurationError(
                f"the topic {name} cannot be used: it would lose tasks ({', '.join(wrong)}). Use another name, or"
                f" `kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {wanted}`"
            )

    async def identities(self, names: Iterable[str]) -> dict[str, str | None]:
        """What tells each topic from others that had its name before; None for one that is not there."""
        described = await self._describe(names)
        return {name: there and _identity(there.topic_id) for name, there in described.items()}

    async def _describe(self, names: Iterable[str]) -> dict[str, Any]:
        wanted = TopicCollection(list(names))
        found: dict[str, Any] = {}
        for name, future in self._admin.describe_topics(wanted, request_timeout=ANSWER_SECONDS).items():
            try:
                found[name] = await _answer(future)
            except KafkaException as error:
                if not faults.is_no_topic(faults.error_in(error)):
                    raise faults.why(error) from error
                found[name] = None
        return found

    async def extent(self, name: str) -> Extent | None:
        """Of a log's topic; None where it is not there. Raises `BrokerError`."""
        partition = TopicPartition(name, 0)
        first = self._admin.list_offsets({partition: OffsetSpec.earliest()}, request_timeout=ANSWER_SECONDS)
        last = self._admin.list_offsets({partition: OffsetSpec.latest()}, request_timeout=ANSWER_SECONDS)
        identity = (await self.identities([name]))[name]
        try:
            low, high = (await _answer(first[partition])).offset, (await _answer(last[partition])).offset
        except KafkaException as error:
            if faults.is_no_topic(faults.error_in(error)):
                return None
            raise faults.why(error) from error
        return None if identity is None else Extent(identity, low, high)

    async def extent_of(self, plan: Plan) -> Extent:
        """Of a log. One that was deleted is there again then, and whoever reads it learns that it is another."""
        extent = await self.extent(plan.name)
        if extent is None:
            await self.make([plan])
            extent = await self.extent(plan.name)
        if extent is None:
            raise BrokerUnavailable(f"Kafka has made the topic {plan.name}, and does not show it yet")
        return extent

    async def trim(self, before: Mapping[tuple[str, int], int]) -> None:
        """Delete what lies before these offsets of partitions. Raises `BrokerError`."""
        partitions = [TopicPartition(topic, number, offset) for (topic, number), offset in before.items()]
        try:
            for future in self._admin.delete_records(partitions, request_timeout=ANSWER_SECONDS).values():
                await _answer(future)
        except KafkaException as error:
            raise faults.why(error) from error


async def _answer(future: futures.Future[Any]) -> Any:
    try:
        async with asyncio.timeout(2 * ANSWER_SECONDS):
            return await asyncio.wrap_future(future)
    except TimeoutError as error:
        raise BrokerUnavailable(f"Kafka does not answer within {2 * ANSWER_SECONDS:.0f} s") from error


def _identity(topic_id: object) -> str:
    """Half of a topic's id, which is written in base 64: as much as a cursor has room for."""
    return base64.urlsafe_b64decode(f"{topic_id}==")[:8].hex()


def _has_leaders(topic: Any) -> bool:
    return topic is not None and all(part.leader is not None and part.leader.id >= 0 for part in topic.partitions)
