"""A backlog that the server hands out again, as all of it after a kill, and a queue that is deleted: workers go on."""

import asyncio

import pytest
from servers.rabbitmq import STREAMS

from queuecast.brokers import make_broker
from queuecast.brokers.rabbitmq.entry import place_of
from queuecast.errors import BrokerUnavailable

from ..making import QUEUE, new_task
from ..steps import begin, consuming, finish, results_of
from .steps import plain, take

BACKLOG = 300
AT_ONCE = 100


@pytest.fixture
def open_broker(tmp_path, cleanup):
    async def open_broker(url, queue=QUEUE):
        broker = make_broker(f"{url}?state={tmp_path}/state")
        await broker.open()
        cleanup.push_async_callback(broker.close)
        await broker.declare(queue)
        return broker

    return open_broker


async def test_one_look_at_the_log_is_enough_for_all_that_have_arrived(url, name, open_driver, open_broker):
    broker, driver = await open_broker(url, name), await open_driver(url)
    await broker.submit(tasks := [new_task(queue=name) for _ in range(AT_ONCE)])
    intake = driver.consume(name, AT_ONCE)
    await take(intake, AT_ONCE)
    await intake.aclose()

    async def entries():
        """Each look at the end of a log leaves one."""
        return place_of((await driver.bounds(name)).last)[0]

    before = await entries()
    async with consuming(broker, queue=name, concurrency=AT_ONCE) as deliveries:
        got = [await anext(deliveries) for _ in tasks]
    assert [each.task for each in got] == tasks
    assert not any(each.suspect for each in got)
    assert await entries() - before < AT_ONCE / 10


async def test_a_queue_that_was_deleted_is_there_again_and_its_worker_too(url, name, open_broker):
    broker = await open_broker(url, name)
    async with consuming(broker, queue=name) as deliveries:
        await broker.submit([first := new_task(queue=name), delayed := new_task(queue=name, delay=6)])
        delivery = await anext(deliveries)
        assert delivery.task == first
        await finish(delivery)
        with plain(url) as channel:
            channel.queue_delete(name)
        waiting = asyncio.ensure_future(anext(deliveries))
        await submitted_at_last(broker, name, again := new_task(queue=name))
        assert (await waiting).task == again
        # What waits on the ladder finds its way to the new queue, though nothing is put there any more.
        assert (await anext(deliveries)).task == delayed


async def submitted_at_last(broker, name, task):
    while True:
        try:
            return await broker.submit([task])
        except BrokerUnavailable:
            await asyncio.sleep(0.05)


@pytest.mark.bound(120)
async def test_a_killed_servers_backlog_is_not_taken_for_what_its_workers_died_of(node, open_broker):
    broker = await open_broker(node.url)
    await broker.submit(tasks := [new_task() for _ in range(BACKLOG)])
    async with consuming(broker, concurrency=2) as deliveries:
        for _ in range(2):
            await begin(await anext(deliveries))
        await asyncio.to_thread(node.has_written_down, STREAMS)
        await asyncio.to_thread(node.kill_9)
    await broker.close()
    await asyncio.to_thread(node.start)
    broker = await open_broker(node.url)
    async with consuming(broker, concurrency=AT_ONCE) as deliveries:
        got = [await anext(deliveries) for _ in range(AT_ONCE)]
        suspects = {each.task.id for each in got if each.suspect}
        for each in got:
            await finish(each)
        for _ in range(BACKLOG - AT_ONCE):
            each = await anext(deliveries)
            assert not each.suspect
            await finish(each)
    assert suspects == {task.id for task in tasks[:2]}
    assert {each.losses for each in got} == {0}
    results = await results_of(broker, [task.id for task in tasks])
    assert {result.state for result in results.values()} == {"succeeded"}
