"""kill -9 of the gateway, of the worker and of both, again and again, under a steady submission of every kind."""

import asyncio
import random
import time
from collections import Counter

import pytest

from queuecast.brokers.base import MAX_LONE_LOSSES

from .client import Work, request, unread
from .halves import Halves
from .load import SOAK_SECONDS, Load
from .verdict import pronounce

ROUND = (
    ["gateway"],
    ["worker"],
    ["gateway", "worker"],
    ["gateway"],
    ["worker"],
    ["gateway", "worker"],
    ["gateway"],
)
"""What is killed at one moment; the next kill may come while the last one is still being recovered from."""

MANY_EVENTS = 60


@pytest.mark.bound(120 + 2 * SOAK_SECONDS)
async def test_nothing_is_lost_or_told_twice_while_gateway_and_worker_are_killed(machine):
    halves = Halves(machine)
    await halves.start("gateway", "worker")
    load = Load(halves.gateways)
    enough = time.monotonic() + SOAK_SECONDS
    async with load.running():
        while True:
            for victims in ROUND:
                await load.goes_on(random.randrange(MANY_EVENTS))
                halves.kill(*victims)
                await halves.start(*victims)
            # A task whose worker is killed five times while it runs alone would be buried, and rightly so.
            await load.has_ended_what_was_accepted()
            if time.monotonic() >= enough:
                break
    assert all(reader.connections > 1 for reader in load.readers)
    await pronounce(machine, load, halves.port, kills=halves.kills["worker"])


@pytest.mark.bound(90)
async def test_a_task_that_kills_its_workers_is_buried_and_its_neighbours_are_not(machine):
    halves = Halves(machine)
    await halves.start("gateway")
    first = machine.worker(concurrency=4)
    await asyncio.to_thread(first.ready)
    load = Load(halves.gateways)
    async with load.reading() as [reader, *_]:
        neighbours = [await load.submitter.submit(Work("reports", "lasting", 1 + number)) for number in range(2)]
        deadly = await load.submitter.submit(Work("reports", "deadly", 1))
        neighbours += [await load.submitter.submit(Work("reports", "awaited", number)) for number in range(5)]
        await asyncio.to_thread(first.wait)
        await halves.start("worker")
        await load.has_ended_what_was_accepted()
    ends = {event["id"]: event for event in reader.events if event["type"] == "result"}
    assert {ends[id]["state"] for id in neighbours} == {"succeeded"}
    assert ends[deadly]["error"]["type"] == "worker-lost"
    times = Counter(id for id, _ in machine.witnessed())
    assert times[deadly] == 1 + MAX_LONE_LOSSES
    assert max(times[id] for id in neighbours) <= 2, "once more where its first worker was killed, and no lone death"


@pytest.mark.bound(60)
async def test_a_submission_whose_answer_was_lost_is_sent_again_and_shows_one_task(machine):
    halves = Halves(machine)
    await halves.start("gateway", "worker")
    load = Load(halves.gateways)
    work = Work("reports", "awaited", 7)
    submission = ("POST", "/queues/reports/tasks", work.body)
    async with load.reading() as [reader, *_]:
        async with unread(halves.port, *submission, idempotency_key='"seven"'):
            await reader.until(lambda: reader.events)
            halves.kill("gateway")
        await halves.start("gateway")
        again = await request(halves.port, *submission, idempotency_key='"seven"')
        assert (again.status, again.headers["idempotent-replayed"]) == (202, "true")
        load.submitter.accepted[again.body["id"]] = work
    assert {event["id"] for event in reader.events} == {again.body["id"]}
    await pronounce(machine, load, halves.port, kills=0)
