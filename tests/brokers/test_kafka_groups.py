"""What the contract says of taking tasks holds for the other protocols of groups, too, that can be chosen by option."""

import pytest
from servers.clean import cleaned_kafka
from servers.found import need_kafka_programs
from servers.kafka_node import KafkaNode

from queuecast.brokers import Broker, Retention, make_broker
from queuecast.brokers.kafka.sharing import MANY_DELIVERIES

from .contract import Backend, Losing
from .making import QUEUE, new_task, new_tasks
from .processes import Processes
from .steps import OTHER, SOON, begin, consuming, finish, shown, story

pytestmark = pytest.mark.bound(60)

QUICK = [
    f"group.{kind}.{setting}"
    for kind in ("consumer", "share")
    for setting in (
        "min.session.timeout.ms=4000",
        "session.timeout.ms=4000",
        "min.heartbeat.interval.ms=200",
        "heartbeat.interval.ms=200",
    )
]
"""By default a session is 45 s, and what has changed is told with a heartbeat each 5 s."""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with KafkaNode(tmp_path_factory.mktemp("node"), need_kafka_programs(), lines=QUICK) as node:
        yield node


class Taking(Losing, Processes):
    protocol = ""

    @pytest.fixture
    def url(self, node, tmp_path):
        clean = cleaned_kafka(node.address, [QUEUE, OTHER])
        return f"{clean}?partitions=1&protocol={self.protocol}&state={tmp_path}/state"

    @pytest.fixture
    def backend(self, url):
        return Backend(url, atomic=False)

    @pytest.fixture
    def open_broker(self, url, cleanup):
        async def open_broker(retention: Retention = Retention()) -> Broker:  # noqa: B008 - immutable
            broker = make_broker(url)
            await broker.open()
            cleanup.push_async_callback(broker.close)
            return broker

        return open_broker


class TestConsumerProtocol(Taking):
    """KIP-848."""

    protocol = "consumer"


class TestShareGroups(Taking):
    """KIP-932."""

    protocol = "share"

    # See docs/kafka.md: who is given one more has dealt with all before, and who stands still learns it late.
    test_what_was_acknowledged_survives_the_death_of_its_process = None
    test_a_process_that_stood_still_learns_what_it_lost = None

    async def test_a_task_that_is_handed_out_often_is_not_thrown_away(self, connect):
        broker = await connect()
        await broker.submit([task := new_task()])
        async with consuming(broker) as deliveries:
            for _ in range(3 * MANY_DELIVERIES):
                delivery = await anext(deliveries)
                assert delivery.task == task
                await delivery.release()

    async def test_a_task_that_waits_goes_to_whoever_has_room(self, connect, monkeypatch):
        monkeypatch.setattr("queuecast.brokers.kafka.sharing.BEGIN_SECONDS", 0.2)
        broker, elsewhere = await connect(), await connect()
        await broker.submit(tasks := new_tasks(2))
        async with consuming(broker, concurrency=1) as deliveries:
            held = await anext(deliveries)
            async with consuming(elsewhere, concurrency=1) as others:
                other = await anext(others)
                assert [held.task, other.task] == tasks
                await finish(other)
            await finish(held)

    async def test_a_long_task_is_put_behind_a_lease_and_others_come(self, connect, monkeypatch):
        monkeypatch.setattr("queuecast.brokers.folded.consumer.LOOK_SECONDS", 0.1)
        monkeypatch.setattr("queuecast.brokers.kafka.sharing.HOLD_SECONDS", 0.1)
        broker = await connect()
        await broker.submit([long := new_task()])
        async with consuming(broker, concurrency=2) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await broker.submit([another := new_task()])
            other = await anext(deliveries)
            assert (delivery.task, other.task) == (long, another)
            await finish(other)
            await finish(delivery, run)

    async def test_a_task_is_retried_or_rejected_as_anywhere(self, connect):
        broker = await connect()
        await broker.submit([task := new_task(retries=1)])
        async with consuming(broker) as deliveries:
            first = await anext(deliveries)
            run = await begin(first)
            await first.retry(SOON, run.retrying(SOON))
            second = await anext(deliveries)
            assert (second.task, second.attempt) == (task, 2)
            run = await begin(second)
            await second.reject("ValueError", run.failed())
        assert story(await shown(broker)) == ["queued", "running", "retrying", "running", "failed"]
        assert await broker.load(QUEUE, task.id) == task
