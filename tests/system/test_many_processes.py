"""Gateways, workers, programs and cron jobs that submit, work and stream on one SQLite file at once."""

import asyncio
import itertools
import random
import time

import pytest
from servers.ports import free_port

from .client import Gateways, Work
from .load import SOAK_SECONDS, Load
from .verdict import pronounce

A_FEW = 20
"""Tasks that a program submits."""

CRON_JOBS = 3
"""Programs that submit one task and end, one after the other."""

MANY_EVENTS = 60


class Crowd:
    """Two gateways and two workers, and programs that come and go. Each worker may be killed, each gateway too."""

    def __init__(self, machine):
        self.gateways = Gateways()
        self.ports = [free_port(), free_port()]
        self.load = Load(self.gateways)
        self._machine = machine
        self._numbers = itertools.count(1_000_000, 1_000)
        self._serving = {}
        self._workers = []

    async def start(self):
        # The second one has no application: it learns from the workers which queues and tasks there are.
        applications = {self.ports[0]: {}, self.ports[1]: {"application": None}}
        self._workers = [self._machine.worker(), self._machine.worker()]
        for worker in self._workers:
            await asyncio.to_thread(worker.ready)
        for port, application in applications.items():
            await self._serve(port, **application)

    async def submit(self, how, count):
        """A program does; what it was told is accepted."""
        first = next(self._numbers)
        program = self._machine.start("submitter", "system.submitting", how, first, count)
        assert await asyncio.to_thread(program.wait) == 0, program.err
        assert program.out.ends()
        for id, queue, name, number in map(str.split, program.out.all):
            self.load.submitter.accepted[id] = Work(queue, name, int(number))

    async def submit_one_by_one(self):
        for _ in range(CRON_JOBS):
            await self.submit("sync", 1)

    async def kill_a_gateway(self):
        """Its clients go on at the other one, and come back to it later."""
        port = random.choice(self.ports)
        self._serving[port].kill()
        self.gateways.down(port)
        await self._serve(port)

    def kill_a_worker(self):
        self._workers.pop(random.randrange(len(self._workers))).kill()
        self._workers.append(self._machine.worker())

    async def _serve(self, port, **application):
        self._serving[port] = self._machine.gateway(port, **application)
        await asyncio.to_thread(self._serving[port].ready)
        self.gateways.up(port)


@pytest.mark.bound(90)
async def test_many_processes_share_a_file_and_run_each_task_once(machine):
    crowd = Crowd(machine)
    await crowd.start()
    async with crowd.load.running():
        await asyncio.gather(crowd.submit("followed", A_FEW), crowd.submit("sync", A_FEW), crowd.submit_one_by_one())
    for port in crowd.ports:
        await pronounce(machine, crowd.load, port, kills=0)


@pytest.mark.bound(120 + 2 * SOAK_SECONDS)
async def test_they_go_on_exactly_while_a_gateway_and_a_worker_are_killed(machine):
    crowd = Crowd(machine)
    await crowd.start()
    kills = 0
    enough = time.monotonic() + SOAK_SECONDS
    async with crowd.load.running():
        while True:
            async with asyncio.TaskGroup() as group:
                group.create_task(crowd.submit("followed", A_FEW))
                group.create_task(crowd.submit_one_by_one())
                await crowd.load.goes_on(random.randrange(MANY_EVENTS))
                crowd.kill_a_worker()
                kills += 1
                await crowd.load.goes_on(random.randrange(MANY_EVENTS))
                await crowd.kill_a_gateway()
            await crowd.load.has_ended_what_was_accepted()
            if time.monotonic() >= enough:
                break
    for port in crowd.ports:
        await pronounce(machine, crowd.load, port, kills=kills)
