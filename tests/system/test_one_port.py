"""Several processes of one gateway on one port, killed one after the other, and stopped together."""

import asyncio
import os
import random
import re
import signal
from contextlib import asynccontextmanager

import pytest
from servers.ports import free_port

from .client import Gateways, Reader
from .load import Load
from .verdict import pronounce

PROCESSES = 2

STREAMS = 12

MANY_EVENTS = 60


class Several:
    """What they are to clients: one gateway."""

    def __init__(self, machine):
        self.gateways = Gateways()
        self.port = free_port()
        self.parent = machine.gateway(self.port, workers=PROCESSES)

    async def start(self):
        await asyncio.to_thread(self.parent.ready)
        pids = await self.accepting(PROCESSES)
        self.gateways.up(self.port)
        return pids

    @asynccontextmanager
    async def followed(self):
        """Readers with a stream each, who find no other gateway once it ends."""
        readers = [Reader(self.gateways, "reports") for _ in range(STREAMS)]
        async with asyncio.TaskGroup() as group:
            following = [group.create_task(reader.follow()) for reader in readers]
            for reader in readers:
                await reader.until(lambda reader=reader: reader.connections)
            self.gateways.down(self.port)
            yield readers
            for task in following:
                task.cancel()

    async def accepting(self, times):
        """The process ids of all that have ever accepted connections, once they are so many."""
        lines = await asyncio.to_thread(self.parent.err.wait_for, "accepts connections", times=times)
        return [int(re.search(r"process (\d+) accepts", line)[1]) for line in lines]


@pytest.mark.bound(60)
async def test_each_is_killed_in_turn_and_every_event_comes_exactly_once(machine):
    several = Several(machine)
    machine.worker()
    first = await several.start()
    load = Load(several.gateways)
    async with load.running():
        for reader in load.readers:
            await reader.until(lambda reader=reader: reader.events)
        for kills, pid in enumerate(first, 1):
            await load.goes_on(random.randrange(MANY_EVENTS))
            os.kill(pid, signal.SIGKILL)
            pids = await several.accepting(PROCESSES + kills)
    assert len(set(pids)) == 2 * PROCESSES
    # Whichever process a reader began with, that one was killed.
    assert all(reader.connections > 1 for reader in load.readers)
    await pronounce(machine, load, several.port, kills=0)


@pytest.mark.bound(60)
async def test_ctrl_c_drains_the_streams_of_all(machine):
    several = Several(machine)
    await several.start()
    async with several.followed() as readers:
        several.parent.signal(signal.SIGINT)
        for reader in readers:
            await reader.until(lambda reader=reader: reader.drains)
        assert await asyncio.to_thread(several.parent.wait) == 0
    assert [len(reader.drains) for reader in readers] == [1] * STREAMS
    assert several.parent.heirs_end()
    assert "starting it again" not in str(several.parent.err)


@pytest.mark.bound(60)
async def test_a_second_signal_ends_all_in_the_middle_of_the_drain(machine):
    several = Several(machine)
    await several.start()
    async with several.followed() as readers:
        several.parent.signal(signal.SIGTERM)
        # The drain has begun, and goes on for ten seconds.
        await first(reader.until(lambda reader=reader: reader.drains) for reader in readers)
        several.parent.signal(signal.SIGTERM)
        assert await asyncio.to_thread(several.parent.wait) == 0
    assert 1 <= sum(len(reader.drains) for reader in readers) < STREAMS
    assert several.parent.heirs_end()


async def first(coroutines):
    """Until one of them has ended."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
