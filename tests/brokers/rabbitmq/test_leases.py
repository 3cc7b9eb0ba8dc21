"""A task that runs for longer than the server lets a message be held goes on, and elsewhere once its holder is dead."""

import pytest
from servers.found import need_rabbitmq_programs
from servers.rabbitmq import RabbitNode

from queuecast.brokers import CONTROL, Broker, make_broker
from queuecast.brokers.folded import consumer, lease
from queuecast.control import LeaseRenewed, decode_control

from ..making import QUEUE, new_task
from ..processes import start_child
from ..steps import consuming, finish, log_of, read_until, story

HELD_MS = 2_000
"""Milliseconds after which the server closes the channel of whoever holds a message."""

LEASE = 3.0
"""Seconds. Long enough for a busy machine, short enough to be waited for."""

RENEWAL = 0.5
"""Seconds between two renewals."""


def with_short_leases(url: str) -> Broker:
    consumer.LOOK_SECONDS = 0.1
    lease.HAND_OVER, lease.LEASE_SECONDS, lease.RENEW_SECONDS = 0.5, LEASE, RENEWAL
    return make_broker(url)


@pytest.fixture
def impatient(tmp_path):
    (folder := tmp_path / "node").mkdir()
    with RabbitNode(folder, release=need_rabbitmq_programs()) as node:
        for name, milliseconds in (("consumer_timeout", HELD_MS), ("channel_tick_interval", 100)):
            node.ctl("eval", f"application:set_env(rabbit, {name}, {milliseconds}).")
        yield node


@pytest.mark.bound(60)
async def test_a_long_task_is_held_for_longer_than_the_server_allows_and_runs_again_once(impatient, tmp_path, cleanup):
    maker = f"{__name__}:with_short_leases"
    child = await start_child(cleanup, maker, f"{impatient.url}?state={tmp_path}/theirs", "hold", "begun")
    broker = make_broker(f"{impatient.url}?state={tmp_path}/ours")
    await broker.open()
    cleanup.push_async_callback(broker.close)
    await broker.declare(QUEUE)
    await broker.submit([task := new_task()])
    assert await child.told() == ["holds", task.id]

    def renewed_for_longer(entries):
        messages = [decode_control(entry.body) for entry in entries]
        return sum(isinstance(each, LeaseRenewed) for each in messages) > 2 * HELD_MS / 1_000 / RENEWAL

    await read_until(broker, renewed_for_longer, CONTROL, after=(await broker.bounds(CONTROL)).first - 1)
    await child.kill()
    assert await child.all_told() == [], "it was never told that the task is lost"
    async with consuming(broker) as deliveries:
        again = await anext(deliveries)
        assert (again.task, again.attempt, again.suspect) == (task, 1, True)
        await finish(again)
        # By then every copy has come due.
        await broker.submit([last := new_task(delay=LEASE + 0.5)])
        assert (await anext(deliveries)).task == last
    assert story([event for event in await log_of(broker) if event.id == task.id]) == [
        "queued",
        "running",
        "running",
        "succeeded",
    ]
