"""What Kafka and its groups do at their worst, under clients at work: nothing accepted is lost, and each task ends once
for all.
"""

import asyncio
import random

import pytest
from servers.clean import cleaned_kafka
from servers.found import need_kafka_programs
from servers.kafka_node import KafkaNode, cluster, leader_of, whole
from servers.proxy import Proxy, Way

from .client import Work
from .halves import Halves
from .held import Held
from .load import Load
from .processes import Machine
from .verdict import pronounce
from .workload import QUEUES

MANY_EVENTS = 60

CUTS = 5

LEADERS = ("_qc.events.reports", "__consumer_offsets")
"""Topics whose leaders are killed."""

BEHIND = 10
"""How far the processes stand back for the nodes of a cluster, one of which has to start again under their load."""

CHANGES = 6
"""How often a worker joins or leaves."""

PAUSES = (0.5, 3.0)
"""Seconds between two of them, at least and at most: less and more than a rebalance takes."""

SECONDS = 60
"""A failure bound for what a cluster does by itself."""

POLL_SECONDS = 6
"""`max.poll.interval.ms`, which cannot be shorter than the session."""

UNAVAILABLE = ("broker-unavailable", "outcome-unknown")
"""What a submission may be told while the server is away: it can be sent again."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A node that no test stops."""
    with KafkaNode(tmp_path_factory.mktemp("node"), need_kafka_programs()) as node:
        yield node


@pytest.fixture
def mortal(tmp_path):
    """A node for a test that stops it."""
    with KafkaNode(tmp_path / "node", need_kafka_programs()) as node:
        yield node


@pytest.fixture
def proxy(kept):
    with Proxy(kept.ports.behind_proxy, port=kept.ports.proxy) as proxy:
        yield proxy


@pytest.fixture
def start_machine(tmp_path):
    """All processes of a broker; when the test is over they are ended."""
    machines = []

    def start_machine(url, **options):
        machines.append(Machine(tmp_path, url, **options))
        return machines[-1]

    yield start_machine
    for machine in machines:
        machine.clean_up()


@pytest.fixture
def machine(kept, start_machine):
    return start_machine(cleaned_kafka(kept.address, QUEUES))


@pytest.fixture
def held(machine, proxy):
    """In the one partition of its queue, so that whoever is next has to see it first."""
    machine.broker = f"{machine.judged}?partitions=1"
    return Held(machine, f"kafka://127.0.0.1:{proxy.port}?partitions=1")


def nobody_was_sent_away(load):
    return [reader.connections for reader in load.readers] == [1] * len(load.readers)


# Brokers


@pytest.mark.bound(120)
@pytest.mark.parametrize("end", ["stop", "kill_9"])
async def test_a_broker_that_goes_and_comes_back_has_lost_nothing(start_machine, mortal, end):
    machine = start_machine(mortal.url)
    halves = Halves(machine)
    await halves.start("gateway", "worker")
    load = Load(halves.gateways)
    async with load.running():
        await load.goes_on(1 + random.randrange(MANY_EVENTS))
        await asyncio.to_thread(getattr(mortal, end))
        await asyncio.to_thread(mortal.start)
        await load.goes_on(MANY_EVENTS)
    assert nobody_was_sent_away(load)
    await pronounce(machine, load, halves.port, kills=1, refusals=UNAVAILABLE)


@pytest.mark.bound(120)
async def test_connections_are_cut_between_what_is_sent_and_its_confirm(machine, proxy):
    machine.broker = f"kafka://127.0.0.1:{proxy.port}"
    halves = Halves(machine)
    await halves.start("gateway", "worker")
    load = Load(halves.gateways)
    async with load.running():
        for _ in range(CUTS):
            await load.goes_on(1 + random.randrange(MANY_EVENTS))
            proxy.stall(Way.TO_CLIENT)
            await asyncio.to_thread(proxy.wait_held, Way.TO_CLIENT)
            proxy.cut()
            proxy.resume()
    assert nobody_was_sent_away(load)
    await pronounce(machine, load, halves.port, kills=CUTS, refusals=UNAVAILABLE)


@pytest.mark.cluster
@pytest.mark.bound(170)
async def test_a_cluster_whose_leaders_are_killed_goes_on_by_itself(tmp_path, start_machine):
    """That of a log, and then that of the groups."""
    with cluster(tmp_path / "nodes", need_kafka_programs()) as nodes:
        hosts = ",".join(node.address for node in nodes)
        machine = start_machine(f"kafka://{hosts}?replicas=3", nice=BEHIND)
        halves = Halves(machine)
        await halves.start("gateway", "worker")
        load = Load(halves.gateways)
        async with load.running():
            await load.overall.until(lambda: load.overall.results)  # by then, all topics are there
            for topic in LEADERS:
                await load.goes_on(1 + random.randrange(MANY_EVENTS))
                leader = await asyncio.to_thread(leader_of, topic, nodes)
                await asyncio.to_thread(leader.kill_9)
                await load.goes_on(MANY_EVENTS)
                await asyncio.to_thread(leader.start)
                await asyncio.to_thread(whole, nodes)
        assert nobody_was_sent_away(load)
        await pronounce(machine, load, halves.port, kills=len(LEADERS), refusals=UNAVAILABLE)


# Workers that die


@pytest.mark.bound(120)
@pytest.mark.parametrize("moment", ["running", "result"])
async def test_a_worker_that_is_killed_before_its_result_has_its_task_run_again(held, proxy, moment):
    """While it runs, and when the result is on its way."""
    async with held.load.reading():
        await held.begin()
        if moment == "result":
            proxy.stall_at(Way.TO_SERVER, b'"type":"result"')
            held.let_go()
            await asyncio.to_thread(proxy.wait_held, Way.TO_SERVER)
        held.first.kill()
        proxy.cut()
        await held.relieve()
        await held.has_begun(2)
        if moment == "running":
            held.let_go()
        await held.is_over()
        await held.next_one()
    await pronounce(held.machine, held.load, held.halves.port, kills=1)
    assert held.begun() == 2


@pytest.mark.bound(120)
@pytest.mark.parametrize("moment", ["confirm", "settling"])
async def test_a_worker_that_is_killed_after_its_result_has_its_task_run_once(held, proxy, moment):
    """Before it hears that the broker has the result, and before the group hears that the task is done with."""
    async with held.load.reading():
        await held.begin()
        proxy.stall(Way.TO_CLIENT)
        held.let_go()
        await held.is_over()
        if moment == "settling":
            proxy.stall(Way.TO_SERVER)
            proxy.pass_on(Way.TO_CLIENT)
            await asyncio.to_thread(proxy.wait_held, Way.TO_SERVER)
        held.first.kill()
        proxy.cut()
        await held.relieve()
        await held.next_one()
    await pronounce(held.machine, held.load, held.halves.port, kills=0)


@pytest.mark.bound(120)
@pytest.mark.parametrize("moment", ["copy", "retrying"])
async def test_a_worker_that_is_killed_while_it_puts_a_task_off_loses_no_retry(held, proxy, moment):
    """When the copy for the next attempt is there and nothing says so, and when the log has just said so."""
    async with held.load.reading():
        await held.begin()
        proxy.stall_at(Way.TO_SERVER, b'"state":"retrying"')
        id = await held.load.submitter.submit(Work("tokens", "refusing", 7))
        await asyncio.to_thread(proxy.wait_held, Way.TO_SERVER)
        if moment == "retrying":
            proxy.stall(Way.TO_CLIENT)
            proxy.pass_on(Way.TO_SERVER)
            await held.load.overall.until(lambda: any(is_retrying(event, id) for event in held.load.overall.events))
        held.first.kill()
        proxy.cut()
        await held.relieve()
        held.let_go()
        await held.next_one()
    await pronounce(held.machine, held.load, held.halves.port, kills=1)


def is_retrying(event, id):
    return event["id"] == id and event["type"] == "task" and event["task"]["state"] == "retrying"


@pytest.mark.bound(120)
async def test_a_run_that_is_superseded_while_its_worker_lives_shows_nothing_more(held, proxy):
    async with held.load.reading():
        await held.begin()
        for way in Way:
            proxy.stall(way)
        await held.relieve()
        # The group gives up a member that is silent, and its partition is another's.
        await held.has_begun(2)
        proxy.resume()
        held.let_go()
        await held.is_over()
        await held.next_one()
    await pronounce(held.machine, held.load, held.halves.port, kills=1)


# Workers that come and go


@pytest.mark.bound(150)
async def test_workers_join_leave_and_die_every_few_seconds_under_load(machine):
    halves = Halves(machine)
    await halves.start("gateway")
    load = Load(halves.gateways)
    workers = [await asyncio.to_thread(machine.worker().ready)]
    kills = 0
    async with load.running():
        await load.goes_on(1)
        for change in range(CHANGES):
            await asyncio.sleep(random.uniform(*PAUSES))
            if len(workers) == 1 or change % 3 == 0:
                workers.append(await asyncio.to_thread(machine.worker().ready))
            elif change % 3 == 1:
                assert await asyncio.to_thread(workers.pop(0).stop) == 0
            else:
                workers.pop(0).kill()
                kills += 1
        await load.goes_on(MANY_EVENTS)
    again = len(machine.witnessed()) - len(set(machine.witnessed()))
    print(f"{again} of {len(load.submitter.accepted)} tasks were run again, with {kills} kills and {CHANGES} changes")
    await pronounce(machine, load, halves.port, kills=CHANGES)


# Tasks that are long


@pytest.mark.bound(120)
@pytest.mark.parametrize("name", ["lasting", "blocking"])
async def test_a_task_that_is_longer_than_a_consumer_may_be_silent_stays_where_it_is(machine, name):
    """Though another worker is there, and whether its handler leaves its worker's event loop alone or not."""
    machine.broker = f"{machine.judged}?partitions=1&max.poll.interval.ms={POLL_SECONDS * 1_000}"
    halves = Halves(machine)
    await halves.start("gateway")
    load = Load(halves.gateways)
    async with load.reading():
        for worker in [machine.worker(), machine.worker()]:
            await asyncio.to_thread(worker.ready)
        await load.submitter.submit(Work("reports", name, POLL_SECONDS + 2))
        await load.has_ended_what_was_accepted()
    await pronounce(machine, load, halves.port, kills=0)
