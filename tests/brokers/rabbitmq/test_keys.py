"""One key, used in the same instant through two gateways: the server takes both tasks, and one result is shown."""

import asyncio

import pytest

from queuecast.brokers import make_broker

from ..making import new_task
from ..steps import begin, consuming, log_of, story

KEYS = 20


@pytest.fixture
def gateway(url, name, tmp_path, cleanup):
    """A process of its own, as far as the server can tell, that follows the queue."""

    async def gateway(number):
        broker = make_broker(f"{url}?state={tmp_path}/{number}")
        await broker.open()
        cleanup.push_async_callback(broker.close)
        await broker.declare(name)
        await broker.counts()
        return broker

    return gateway


async def test_one_key_in_the_same_instant_is_one_task_with_one_result(gateway, name):
    one, other, worker = [await gateway(number) for number in range(3)]

    async def submit(broker, key):
        (receipt,) = await broker.submit([new_task(queue=name, idempotency_key=f"key {key}")])
        return receipt

    pairs = [await asyncio.gather(submit(one, key), submit(other, key)) for key in range(KEYS)]
    ids = [first.id for first, _ in pairs]
    assert ids == [second.id for _, second in pairs]
    assert [first.created + second.created for first, second in pairs] == [1] * KEYS

    await worker.submit([last := new_task(queue=name)])
    async with consuming(worker, queue=name, concurrency=2 * KEYS + 1) as deliveries:
        got = [await anext(deliveries)]
        while got[-1].task != last:
            got.append(await anext(deliveries))
        # All of them begin before any has ended, as if each were another worker's.
        for delivery, run in [(each, await begin(each)) for each in got]:
            await delivery.ack(run.succeeded())
    assert len(got) > KEYS + 1, "some are there twice: no server of these can tell that a key was used"
    assert {each.task.id for each in got} == {*ids, last.id}
    for broker in (one, other):
        told = await log_of(broker, name)
        for id in ids:
            states = story([event for event in told if event.id == id])
            assert (states[0], states[-1]) == ("queued", "succeeded")
            assert states.count("queued") == states.count("succeeded") == 1
        statuses = [await broker.status(name, id) for id in ids]
        assert [status.state for status in statuses] == ["succeeded"] * KEYS
