"""Topics: what is there, made, adopted and trimmed."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent import futures
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AclOperation,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from ...errors import BrokerUnavailable, ConfigurationError
from . import faults

ANSWER_SECONDS: Final = 10.0
"""Seconds for the cluster to answer a question about its topics; then it is `BrokerUnavailable`."""

CONNECT_SECONDS: Final = 0.25
"""How long the first answer is waited for before it is looked whether there can be one."""

LEADER_SECONDS: Final = 2.0
"""Seconds for the controller, or a partition's leader, to answer before it is looked who that is now. Then longer."""

LOOK_SECONDS: Final = 0.02
"""How often it is looked whether a topic that was made is there."""

KEEPS: Final = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
"""Settings of a topic of tasks: nothing that was accepted may age out. What is finished is deleted by us."""


NEEDED: Final = frozenset({AclOperation.READ, AclOperation.WRITE, AclOperation.DELETE})
"""What is done with topics of ours, other than to look at them."""

T = TypeVar("T")


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


class Trouble:
    """What a client says of its connections. It does not know the client, which would never be let go otherwise."""

    def __init__(self) -> None:
        self.reason: KafkaError | None = None
        """Why no broker is connected."""
        self.is_hopeless = False
        """All of them have refused."""

    def told(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.is_hopeless = True
        else:
            self.is_hopeless = self.is_hopeless or faults.is_refusal(error)
            self.reason = error


class Topics:
    def __init__(self, settings: Mapping[str, Any], replicas: int) -> None:
        self._trouble = Trouble()
        options: dict[str, Any] = {
            "log_level": 0,  # what goes wrong is raised
            # Otherwise a question to a partition's leader that is gone takes a whole core until it is given up.
            "enable.sparse.connections": False,
            "error_cb": self._trouble.told,
        }
        self._client: AdminClient | None = AdminClient({**settings, **options})
        self._replicas = replicas

    @property
    def _admin(self) -> AdminClient:
        if self._client is None:
            raise BrokerUnavailable("the broker is closed")
        return self._client

    async def close(self) -> None:
        await asyncio.to_thread(self._let_go)

    def _let_go(self) -> None:
        """In a thread, as the client waits for threads of its own."""
        self._client = None

    async def connect(self) -> None:
        """Returns when a broker has answered. Raises `BrokerUnavailable`, `ConfigurationError`.

        At once where all of them refuse the connection or the user; where nobody does anything, after ANSWER_SECONDS.
        """
        until = time.monotonic() + ANSWER_SECONDS
        wait = CONNECT_SECONDS
        while True:
            try:
                await asyncio.to_thread(self._admin.list_topics, timeout=wait)
                return
            except KafkaException as error:
                await asyncio.to_thread(self._admin.poll, 0)
                if self._trouble.is_hopeless or time.monotonic() > until:
                    raise faults.why(self._trouble.reason or error) from error
                wait = min(2 * wait, max(CONNECT_SECONDS, until - time.monotonic()))

    async def make(self, plans: Iterable[Plan]) -> set[str]:
        """Make those that are not there; the names of those that are. Raises `BrokerError`, `ConfigurationError`."""
        new = [NewTopic(plan.name, plan.partitions, self._replicas, config={**plan.settings}) for plan in plans]
        found: set[str] = set()

        async def ask(wait: float) -> None:
            for name, future in self._admin.create_topics(new, request_timeout=wait).items():
                try:
                    await _answer(future)
                except KafkaException as error:
                    if not faults.is_already_there(faults.error_in(error)):
                        raise
                    found.add(name)

        await self._ask(ask)
        names = {plan.topic for plan in new}  # those as well that somebody else has made a moment ago
        await _shown(", ".join(sorted(names)), lambda: self._have_leaders(names))
        return found

    async def _have_leaders(self, names: set[str]) -> bool:
        return all(map(_has_leaders, (await self._ask(partial(self._describe, names))).values()))

    async def check_permissions(self, names: Iterable[str]) -> None:
        """That this user may do with topics of ours what we do with them. Raises `ConfigurationError`, `BrokerError`.

        Otherwise a reader would learn it late, and a writer when it has something to write.
        """
        for name, there in (await self._ask(partial(self._describe, names, permissions=True))).items():
            lacking = NEEDED - set(there.authorized_operations or NEEDED) if there else ()
            if lacking:
                raise faults.forbidden(f"{', '.join(sorted(each.name.title() for each in lacking))} {name}")

    async def check(self, name: str) -> None:
        """That a topic which is there loses no tasks. Raises `ConfigurationError`, `BrokerError`."""
        settings = await _shown(name, lambda: self._ask(partial(self._settings, name)))
        wrong = [f"{key} is {settings[key].value}" for key, value in KEEPS.items() if settings[key].value != value]
        if wrong:
            wanted = ",".join(f"{key}={value}" for key, value in KEEPS.items())
            raise ConfigurationError(
                f"the topic {name} cannot be used: it would lose tasks ({', '.join(wrong)}). Use another name, or"
                f" `kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {wanted}`"
            )

    async def identities(self, names: Iterable[str]) -> dict[str, str | None]:
        """What tells each topic from others that had its name before; None for one that is not there."""
        described = await self._ask(partial(self._describe, names))
        return {name: there and _identity(there.topic_id) for name, there in described.items()}

    async def extent(self, name: str) -> Extent | None:
        """Of a log's topic; None where it is not there. Raises `BrokerError`."""
        return await self._ask(partial(self._extent, name), name)

    async def extent_of(self, plan: Plan) -> Extent:
        """Of a log. One that was deleted is there again then, and whoever reads it learns that it is another."""
        extent = await self.extent(plan.name)
        if extent is None:
            await self.make([plan])
            extent = await _shown(plan.name, lambda: self.extent(plan.name))
        return extent

    async def settle_group(self, group: str, settings: Mapping[str, str]) -> None:
        """Give a group these settings. Raises `BrokerError`, `ConfigurationError`."""
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in settings.items()
        ]
        resource = ConfigResource(ResourceType.GROUP, group, incremental_configs=entries)

        async def ask(wait: float) -> None:
            asked = self._admin.incremental_alter_configs([resource], request_timeout=wait)
            await _answer(asked[resource])

        await self._ask(ask)

    async def trim(self, before: Mapping[tuple[str, int], int]) -> None:
        """Delete what lies before these offsets of partitions. Raises `BrokerError`."""
        partitions = [TopicPartition(topic, number, offset) for (topic, number), offset in before.items()]

        async def ask(wait: float) -> None:
            for future in self._admin.delete_records(partitions, request_timeout=wait).values():
                await _answer(future)

        await self._ask(ask, *{topic for topic, _ in before})

    # Asking

    async def _ask(self, question: Callable[[float], Awaitable[T]], *led: str) -> T:
        """Its answer, given to whom it says how long to wait for it. `led` are topics whose leaders are asked.

        The client goes on asking a leader or a controller that is gone until it is told of another one. So it is not
        waited for long, and asked again when the client has looked who they are now.
        """
        until = time.monotonic() + ANSWER_SECONDS
        wait = LEADER_SECONDS
        while True:
            try:
                return await question(wait)
            except KafkaException as error:
                if not faults.is_moving(faults.error_in(error)) or time.monotonic() > until:
                    raise faults.why(error) from error
            await asyncio.sleep(LOOK_SECONDS)
            for topic in led or (None,):
                with suppress(KafkaException):
                    await asyncio.to_thread(self._admin.list_topics, topic, timeout=LEADER_SECONDS)
            wait = max(LEADER_SECONDS, min(2 * wait, until - time.monotonic()))

    async def _describe(self, names: Iterable[str], wait: float, *, permissions: bool = False) -> dict[str, Any]:
        """None for one that is not there."""
        asked = self._admin.describe_topics(
            TopicCollection([*names]), request_timeout=wait, include_authorized_operations=permissions
        )
        return {name: await _if_there(_answer(future)) for name, future in asked.items()}

    async def _settings(self, name: str, wait: float) -> Any:
        resource = ConfigResource(ResourceType.TOPIC, name)
        return await _if_there(_answer(self._admin.describe_configs([resource], request_timeout=wait)[resource]))

    async def _extent(self, name: str, wait: float) -> Extent | None:
        partition = TopicPartition(name, 0)
        first = self._admin.list_offsets({partition: OffsetSpec.earliest()}, request_timeout=wait)[partition]
        last = self._admin.list_offsets({partition: OffsetSpec.latest()}, request_timeout=wait)[partition]
        described = (await self._describe([name], wait))[name]
        ends = await _if_there(asyncio.gather(_answer(first), _answer(last)))
        if described is None or ends is None:
            return None
        low, high = (end.offset for end in ends)
        if min(low, high) < 0:  # so the client says, and raises nothing, where nobody has answered in time
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return Extent(_identity(described.topic_id), low, high)


async def _if_there(answer: Awaitable[T]) -> T | None:
    """None where it is about a topic that is not there."""
    try:
        return await answer
    except KafkaException as error:
        if not faults.is_no_topic(faults.error_in(error)):
            raise
        return None


async def _shown(what: str, look: Callable[[], Awaitable[T | None]]) -> T:
    """What it tells of a topic that is there, once it does: each broker knows a little later than the controller."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                seen = await look()
                if seen:
                    return seen
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError as error:
        raise BrokerUnavailable(f"Kafka has made {what}, and does not show it yet") from error


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
