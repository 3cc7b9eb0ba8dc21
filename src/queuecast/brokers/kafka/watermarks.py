"""How far each topic of tasks is finished, kept by ourselves: and what is finished is deleted.

Kafka forgets a group's offsets once the group had no members for a week. So they are in a compacted topic of ours too,
a little later than in the group, and are looked up there where the group knows nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from ...cursor import beginning
from . import reader
from .producer import Letter, Producer
from .tail import Tails
from .topics import Extent, Topics

TOPIC: Final = "_qc.watermarks"

SETTINGS: Final = {"cleanup.policy": "compact"}


class Commit(NamedTuple):
    """What a group is told of a partition: see `finished`."""

    before: int
    text: str


class _Mark(Struct, frozen=True):
    topic: str
    partition: int
    identity: str
    """Of the topic: one that is made again begins anew."""
    before: int
    text: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Mark).decode


class Watermarks:
    """`look` tells the extent of their topic."""

    def __init__(self, topics: Topics, producer: Producer, tails: Tails, look: Callable[[], Awaitable[Extent]]) -> None:
        self._topics = topics
        self._producer = producer
        self._tails = tails
        self._look = look

    async def keep(self, topic: str, commits: Mapping[int, Commit]) -> None:
        """Write down how far these partitions are, then delete what is finished in them. Raises `BrokerError`."""
        identity = (await self._topics.identities([topic]))[topic]
        if identity is None:
            return
        marks = [_Mark(topic, number, identity, *commit) for number, commit in commits.items()]
        await self._producer.put([Letter(TOPIC, _encode(mark), key=f"{topic}/{mark.partition}") for mark in marks])
        await self._topics.trim({(topic, number): commit.before for number, commit in commits.items()})

    async def of(self, topic: str) -> dict[int, Commit]:
        """What was kept of a topic's partitions. Raises `BrokerError`."""
        identity = (await self._topics.identities([topic]))[topic]
        found: dict[int, Commit] = {}
        extent = await self._look()
        if extent.high <= extent.low:
            return found
        async with aclosing(reader.pages(self._tails, TOPIC, beginning(None, extent.low), self._look)) as pages:
            async for page in pages:
                for mark in map(_decode, (entry.body for entry in page.entries)):
                    if (mark.topic, mark.identity) == (topic, identity):
                        found[mark.partition] = Commit(mark.before, mark.text)
                if page.upto >= extent.high:
                    break
        return found
