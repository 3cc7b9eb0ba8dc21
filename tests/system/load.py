"""Clients at work: they submit tasks of every kind to every queue, and follow all queues, one by one and together."""

import asyncio
import os
from contextlib import asynccontextmanager

from .client import Reader, Submitter
from .workload import QUEUES

SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "0"))
"""How long the tests that kill go on; otherwise each kind of kill comes once."""

LANES = 8
"""How many submit at once, unless told otherwise."""

IN_THE_AIR = 30
"""Tasks that have been accepted and not ended, over which no more are submitted."""


class Load:
    def __init__(self, gateways):
        self.overall = Reader(gateways, *QUEUES)
        self.readers = [*(Reader(gateways, queue) for queue in QUEUES), self.overall]
        self.submitter = Submitter(gateways)

    @asynccontextmanager
    async def running(self, lanes=LANES):
        """Submit and read meanwhile; when the block is over, all that was accepted comes to its end."""
        async with self.reading(), asyncio.TaskGroup() as group:
            for _ in range(lanes):
                group.create_task(self.submitter.submit_steadily(self._room))
            yield
            self.submitter.stop()

    @asynccontextmanager
    async def reading(self):
        """The same for what somebody else submits."""
        async with asyncio.TaskGroup() as group:
            following = [group.create_task(reader.follow()) for reader in self.readers]
            yield self.readers
            for reader in self.readers:
                await reader.until_told_of(self.submitter.accepted)
            for task in following:
                task.cancel()

    async def goes_on(self, events):
        """Until so many more events have come."""
        target = len(self.overall.events) + events
        await self.overall.until(lambda: len(self.overall.events) >= target)

    async def has_ended_what_was_accepted(self):
        await self.overall.until_told_of(dict(self.submitter.accepted))

    async def _room(self):
        await self.overall.until(lambda: len(self.submitter.accepted) - len(self.overall.results) < IN_THE_AIR)
