"""What a server does at its worst, under clients at work: nothing accepted is lost, and each task ends once for all."""

import asyncio
import random
from contextlib import ExitStack, closing

import pika
import pytest
from servers.found import need_rabbitmq_4_programs, need_rabbitmq_programs
from servers.proxy import Proxy, Way
from servers.rabbitmq import STREAMS, RabbitNode

from queuecast.brokers import Retention
from queuecast.brokers.folded.driver import Parcel
from queuecast.brokers.folded.wire import Message
from queuecast.brokers.rabbitmq import RabbitDriver
from queuecast.brokers.rabbitmq.delays import entrance, step

from .checker import flaws_of_stream
from .client import PAUSE_SECONDS, Work, request, whole_log
from .halves import Halves
from .held import Held
from .load import Load
from .processes import Machine
from .verdict import pronounce
from .workload import QUEUES

MANY_EVENTS = 60

HOUR = 3_600

CUTS = 5

UNAVAILABLE = ("broker-unavailable", "outcome-unknown")
"""What a submission may be told while the server is away: it can be sent again."""

TOO_LITTLE = "0.0000001"
"""A part of the machine's memory that every node exceeds."""

ENOUGH = "0.4"


@pytest.fixture
def node(request, tmp_path):
    need_programs = getattr(request, "param", need_rabbitmq_programs)
    with RabbitNode(tmp_path / "node", release=need_programs()) as node:
        asyncio.run(settled(node))
        yield node


VERSIONS = {"own": need_rabbitmq_programs, "4.x": need_rabbitmq_4_programs}
"""Of the private nodes: the machine's own RabbitMQ, and for a few of these tests, as each takes its time, 4.x too."""

on_each_version = pytest.mark.parametrize("node", VERSIONS.values(), ids=VERSIONS.keys(), indirect=True)


@pytest.fixture
def machine(node, tmp_path):
    machine = Machine(tmp_path, f"{node.url}?heartbeat=2")
    machine.judged = node.url
    yield machine
    machine.clean_up()


@pytest.fixture
def proxy(node):
    with Proxy(node.port) as proxy:
        yield proxy


def through(proxy):
    return f"amqp://guest:guest@127.0.0.1:{proxy.port}/?heartbeat=2"


async def settled(node):
    """Once the node keeps what these tests make of it, however it ends: its streams, and the ladder of delays."""
    driver = RabbitDriver(node.url, Retention())
    await driver.open()
    try:
        await driver.declare("late", None)
        await driver.put([Parcel("late", Message(body=b"{}"), HOUR)])
    finally:
        await driver.close()
    for name in (STREAMS, step(entrance("late", HOUR)[0])):
        node.has_written_down(name)


@pytest.mark.bound(120)
@pytest.mark.parametrize(
    ("end", "node"),
    [
        pytest.param("stop", need_rabbitmq_programs, id="stop"),
        pytest.param("kill_9", need_rabbitmq_programs, id="kill_9"),
        pytest.param("kill_9", need_rabbitmq_4_programs, id="kill_9-4.x"),
    ],
    indirect=["node"],
)
async def test_a_server_that_goes_and_comes_back_has_lost_nothing(machine, node, end):
    halves = Halves(machine)
    await halves.start("gateway", "worker")
    load = Load(halves.gateways)
    async with load.running():
        await load.goes_on(1 + random.randrange(MANY_EVENTS))
        await asyncio.to_thread(getattr(node, end))
        await asyncio.to_thread(node.start)
        await load.goes_on(MANY_EVENTS)
    assert [reader.connections for reader in load.readers] == [1] * len(load.readers)
    await pronounce(machine, load, halves.port, kills=1, refusals=UNAVAILABLE)


@pytest.mark.bound(120)
async def test_connections_are_cut_between_what_is_sent_and_its_confirm(machine, proxy):
    machine.broker = through(proxy)
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
    assert [reader.connections for reader in load.readers] == [1] * len(load.readers)
    await pronounce(machine, load, halves.port, kills=CUTS, refusals=UNAVAILABLE)


@pytest.mark.bound(120)
async def test_a_worker_that_is_killed_before_its_result_has_its_task_run_again(machine, proxy):
    held = Held(machine, through(proxy))
    async with held.load.reading():
        await held.begin()
        held.first.kill()
        await held.relieve()
        await held.has_begun(2)
        held.let_go()
        await held.is_over()
        await held.next_one()
    await pronounce(machine, held.load, held.halves.port, kills=1)
    assert held.begun() == 2


@pytest.mark.bound(120)
@pytest.mark.parametrize("moment", ["confirm", "settling"])
async def test_a_worker_that_is_killed_after_its_result_has_its_task_run_once(machine, proxy, moment):
    """Before it hears that the server has the result, and before the server hears that the task is done with."""
    held = Held(machine, through(proxy))
    async with held.load.reading():
        await held.begin()
        proxy.stall(Way.TO_CLIENT)
        held.let_go()
        await held.is_over()
        await asyncio.to_thread(proxy.wait_held, Way.TO_CLIENT)
        if moment == "settling":
            proxy.stall(Way.TO_SERVER)
            proxy.pass_on(Way.TO_CLIENT)
            await asyncio.to_thread(proxy.wait_held, Way.TO_SERVER)
        held.first.kill()
        proxy.cut()
        await held.relieve()
        await held.next_one()
    await pronounce(machine, held.load, held.halves.port, kills=0)


@pytest.mark.bound(120)
async def test_a_run_that_is_superseded_while_its_worker_lives_shows_nothing_more(machine, proxy):
    held = Held(machine, through(proxy))
    async with held.load.reading():
        await held.begin()
        for way in Way:
            proxy.stall(way)
        await held.relieve()
        # The server gives up a connection that is silent, and hands out again what was held on it.
        await held.has_begun(2)
        proxy.resume()
        held.let_go()
        await held.is_over()
        await held.next_one()
    await pronounce(machine, held.load, held.halves.port, kills=1)


@pytest.mark.bound(120)
@on_each_version
async def test_an_alarm_refuses_what_is_new_and_goes_on_afterwards(machine, node):
    halves = Halves(machine)
    await halves.start("gateway", "worker")
    load = Load(halves.gateways)
    submitter = load.submitter
    async with load.running(lanes=1), asyncio.TaskGroup() as group:
        await load.goes_on(MANY_EVENTS)
        await asyncio.to_thread(node.ctl, "set_vm_memory_high_watermark", TOO_LITTLE)
        # However many wait to be run, which nobody does now.
        group.create_task(submitter.submit_steadily(lambda: asyncio.sleep(PAUSE_SECONDS)))
        while not (alarmed := [answer for answer in submitter.refusals if "memory" in answer.body["detail"]]):
            await asyncio.sleep(PAUSE_SECONDS)
        assert [answer.status for answer in alarmed] == [503] * len(alarmed)
        assert all(int(answer.headers["retry-after"]) > 0 for answer in alarmed)
        assert (await request(halves.port, "GET", "/livez")).status == 200
        await asyncio.to_thread(node.ctl, "set_vm_memory_high_watermark", ENOUGH)
        await load.goes_on(MANY_EVENTS)
        submitter.stop()
    assert [reader.connections for reader in load.readers] == [1] * len(load.readers)
    await pronounce(machine, load, halves.port, kills=1, refusals=UNAVAILABLE)


@pytest.mark.bound(120)
@on_each_version
async def test_streams_over_a_log_that_is_deleted_are_reset_and_miss_nothing_of_the_next_one(machine, node):
    halves = Halves(machine)
    await halves.start("gateway", "worker")
    load = Load(halves.gateways)
    async with load.reading():
        for number in range(3):
            await load.submitter.submit(Work("reports", "awaited", number))
        await load.submitter.submit(Work("tokens", "streaming", 3))
        await load.has_ended_what_was_accepted()
        before = {reader: len(reader.events) for reader in load.readers}
        with closing(pika.BlockingConnection(pika.URLParameters(node.url))) as connection:
            connection.channel().queue_delete("_qc.events.reports")
        for reader in load.readers:
            await reader.until(lambda reader=reader: reader.resets or "reports" not in reader.queues)
        for number in range(4, 7):
            await load.submitter.submit(Work("reports", "awaited", number))
        await load.submitter.submit(Work("tokens", "streaming", 7))
        await load.has_ended_what_was_accepted()
    log = [event for queue in QUEUES for event in (await whole_log(halves.port, queue)).events]
    assert {event["id"] for event in log if event["queue"] == "reports"} == set(list(load.submitter.accepted)[4:7])
    for reader in load.readers:
        assert reader.connections == 1
        assert len(reader.resets) == ("reports" in reader.queues)
        assert set(reader.results.values()) <= {1}
        for queue in reader.queues:
            # Of the log that is there now, all; of the others all from the beginning on.
            seen = reader.events[before[reader] :] if queue == "reports" else reader.events
            told = [event for event in log if event["queue"] == queue]
            assert flaws_of_stream([event for event in seen if event["queue"] == queue], told) == []


@pytest.mark.bound(150)
async def test_a_cluster_whose_leader_is_killed_goes_on_by_itself(tmp_path):
    with ExitStack() as stack:
        # Nothing is declared before there are three, since it would have one member only.
        node = stack.enter_context(RabbitNode(tmp_path / "first", release=need_rabbitmq_programs()))
        others = [stack.enter_context(RabbitNode(tmp_path / name, beside=node)) for name in ("second", "third")]
        for other in others:
            other.join(node)
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in (node, *others))
        machine = Machine(tmp_path, f"amqp://guest:guest@{hosts}/?type=quorum&heartbeat=2")
        machine.judged = others[0].url
        stack.callback(machine.clean_up)
        halves = Halves(machine)
        await halves.start("gateway", "worker")  # connected to the first, which so leads all that they declare
        load = Load(halves.gateways)
        async with load.running():
            # A step of the ladder that is declared while its node dies may stay half made (docs/rabbitmq.md).
            await load.overall.until(lambda: any(event["attempt"] > 1 for event in load.overall.events))
            await load.goes_on(1 + random.randrange(MANY_EVENTS))
            await asyncio.to_thread(node.kill_9)
            await load.goes_on(MANY_EVENTS)
            # One that met the dead node in 3.10.8 waits for that node.
            await asyncio.to_thread(node.start)
        assert [reader.connections for reader in load.readers] == [1] * len(load.readers)
        await pronounce(machine, load, halves.port, kills=1, refusals=UNAVAILABLE)
