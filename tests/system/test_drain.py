"""SIGTERM, as a deployment sends it: clients go over to another gateway, tasks to another worker, nobody notices."""

import asyncio
import os
import random
import signal

import pytest
from servers.ports import free_port

from .checker import by_task
from .client import Gateways, Reader, Work
from .load import SOAK_SECONDS, Load
from .verdict import pronounce
from .workload import QUEUES

STREAMS = 200

MAX_DRAIN_RETRY_MS = 2_000
"""A client that is sent away is asked to be back soon: another gateway waits for it."""


@pytest.mark.bound(90)
async def test_a_gateway_that_drains_sends_its_streams_to_another_one(machine):
    gateways = Gateways()
    load = Load(gateways)
    crowd = [Reader(gateways, random.choice(QUEUES)) for _ in range(STREAMS)]
    load.readers += crowd
    leaving, staying = free_port(), free_port()
    machine.worker()
    first, second = machine.gateway(leaving), machine.gateway(staying)
    await asyncio.gather(*(asyncio.to_thread(gateway.ready) for gateway in (first, second)))
    gateways.up(leaving)
    async with load.running(lanes=1):
        for reader in load.readers:
            await reader.until(lambda reader=reader: reader.events)
        gateways.up(staying)
        gateways.down(leaving)
        first.signal(signal.SIGTERM)
        for reader in load.readers:
            await reader.until(lambda reader=reader: reader.connections == 2)
        assert await asyncio.to_thread(first.wait) in {0, -signal.SIGTERM}
    for reader in load.readers:
        assert [0 <= told["retry"] <= MAX_DRAIN_RETRY_MS for told in reader.drains] == [True]
        assert reader.connections == 2
    await pronounce(machine, load, staying, kills=0)


class Shift:
    """One worker is relieved by another, beside a gateway that stays."""

    def __init__(self, machine):
        self.gateways = Gateways()
        self.port = free_port()
        self.load = Load(self.gateways)
        self.machine = machine

    async def begin(self, worker):
        gateway = self.machine.gateway(self.port)
        await asyncio.to_thread(gateway.ready)
        await asyncio.to_thread(worker.ready)
        self.gateways.up(self.port)

    async def begun(self, *ids):
        """Until these tasks' handlers are at it."""
        reader = self.load.overall
        await reader.until(lambda: {event["id"] for event in reader.events if event.get("run")} >= set(ids))

    def submit(self, *works):
        return asyncio.gather(*map(self.load.submitter.submit, works))


@pytest.mark.bound(60)
async def test_a_worker_that_stops_finishes_what_it_runs_and_begins_nothing(machine):
    shift = Shift(machine)
    worker = machine.worker(concurrency=1)
    await shift.begin(worker)
    os.mkfifo(gate := machine.folder / "gate")
    async with shift.load.reading():
        [held] = await shift.submit(Work("reports", "held", 1, str(gate)))
        await shift.begun(held)
        waiting = await shift.submit(*(Work("reports", "awaited", number) for number in range(2, 6)))
        worker.signal(signal.SIGTERM)
        worker.err.wait_for("stopping")
        await asyncio.to_thread(gate.write_text, "go on")
        assert await asyncio.to_thread(worker.wait) == 0
        assert set(waiting).isdisjoint(id for id, _ in machine.witnessed())
        machine.worker()
    await pronounce(machine, shift.load, shift.port, kills=0)
    assert_nobody_is_a_suspect(shift.load.overall.events)


@pytest.mark.bound(90)
async def test_a_worker_that_stops_gives_back_what_does_not_finish(machine):
    shift = Shift(machine)
    worker = machine.worker() if SOAK_SECONDS else machine.start("worker", "system.brief_worker", ready="is ready")
    await shift.begin(worker)
    async with shift.load.reading():
        endless = await shift.submit(*(Work("reports", "endless", number) for number in range(3)))
        await shift.begun(*endless)
        assert await asyncio.to_thread(worker.stop) == 0
        machine.worker()
    await pronounce(machine, shift.load, shift.port, kills=1)
    told = by_task(shift.load.overall.events)
    for id in endless:
        states = [event["task"]["state"] for event in told[id] if event["type"] == "task"]
        # Where a server has the tasks, a worker may be quicker than the word that there is one.
        assert states[-3:] == ["running", "retrying", "running"]
        assert states[:-3] in ([], ["queued"])
        assert told[id][-3]["task"]["error"]["type"] == "interrupted"
    assert_nobody_is_a_suspect(shift.load.overall.events)


def assert_nobody_is_a_suspect(events):
    """Whose worker was lost runs alone; a worker that stops in good order is not lost."""
    assert not [event for event in events if event["type"] == "task" and event["task"].get("alone")]
