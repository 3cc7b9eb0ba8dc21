"""Brokers, connections, members and clients that are lost, or were never there."""

import asyncio
import gc
import socket
import threading
import time
import weakref

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from servers.found import need_kafka_programs
from servers.kafka_node import KafkaNode
from servers.ports import free_port
from servers.proxy import Proxy, Way

from queuecast.brokers import Retention
from queuecast.brokers.folded.driver import Parcel
from queuecast.brokers.kafka import KafkaDriver
from queuecast.brokers.kafka import member as member_module
from queuecast.brokers.kafka import producer as producer_module
from queuecast.brokers.kafka import tail as tail_module
from queuecast.brokers.kafka.member import CLAIM, group_of
from queuecast.brokers.kafka.topics import ANSWER_SECONDS
from queuecast.cursor import beginning
from queuecast.errors import BrokerUnavailable, OutcomeUnknown

from .steps import ids, message, parcels, take, trim, until


@pytest.fixture
def behind_proxy(tmp_path):
    """A node of one's own, and the proxy before it."""
    with (
        KafkaNode(tmp_path / "node", need_kafka_programs()) as node,
        Proxy(node.ports.behind_proxy, port=node.ports.proxy) as proxy,
    ):
        yield node, proxy


@pytest.fixture
def open_at(cleanup):
    async def open_at(address):
        driver = KafkaDriver(f"kafka://{address}?partitions=1", Retention())
        cleanup.push_async_callback(driver.close)
        await driver.open()
        return driver

    return open_at


# Opening


async def test_opening_where_nobody_listens_is_refused_at_once_with_the_reason(open_at):
    asked = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="Connection refused"):
        await open_at(f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}")
    assert time.monotonic() < asked + ANSWER_SECONDS / 2


async def test_opening_where_nobody_answers_ends(open_at, monkeypatch):
    monkeypatch.setattr("queuecast.brokers.kafka.topics.ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(BrokerUnavailable, match="Kafka"):
            await open_at(f"127.0.0.1:{port}")


async def test_a_broker_that_is_gone_does_not_matter_where_another_answers(open_at, address):
    await open_at(f"127.0.0.1:{free_port()},{address}")


# Writing


async def test_an_append_that_is_not_confirmed_in_time_may_be_there(behind_proxy, open_at, monkeypatch):
    monkeypatch.setattr("queuecast.brokers.kafka.producer.APPEND_SECONDS", 1.0)
    node, proxy = behind_proxy
    driver = await open_at(f"127.0.0.1:{proxy.port}")
    await driver.declare("queue", None)
    await driver.append("queue", [b"first"])
    proxy.stall(Way.TO_CLIENT)
    appended = driver.append("queue", [b"second"])
    with pytest.raises(OutcomeUnknown):
        await appended
    proxy.resume()
    other = await open_at(node.address)
    assert (await other.bounds("queue")).last == 2


async def test_a_client_that_can_do_no_more_is_replaced(make, name, consume):
    driver = await make()
    producer = driver._producer
    broken = producer._client
    under_way = [asyncio.ensure_future(driver.append(name, [b"%d" % number])) for number in range(100)]
    # What brokers must have lost for it to happen is more than a test can make them lose.
    producer._look_at(KafkaError(KafkaError._FATAL, "it is over", fatal=True))
    await until(lambda: producer._client is not broken)
    ended = await asyncio.gather(*under_way, return_exceptions=True)
    assert all(isinstance(end, int | OutcomeUnknown | BrokerUnavailable) for end in ended)
    last = await driver.append(name, [b"again"])
    assert last > max((end for end in ended if isinstance(end, int)), default=0)
    await driver.put([Parcel(name, message("id"))])
    assert ids(await take(consume(driver, name), 1)) == ["id"]


# Clients that fail in a way that nobody knows


class Failing:
    """A client that fails once, when it has been polled and `is_due` is set."""

    is_due = False

    def poll(self, *arguments):
        polled = super().poll(*arguments)
        if self.is_due:
            self.is_due = False
            raise RuntimeError("the client has failed")
        return polled


async def test_readers_of_a_client_that_fails_are_told_and_the_next_one_gets_another(make, name, monkeypatch, caplog):
    class FailingConsumer(Failing, Consumer):
        pass

    monkeypatch.setattr(tail_module, "Consumer", FailingConsumer)
    driver = await make()
    await driver.append(name, [b"first"])
    start = beginning(None, 0)
    pages = driver.read(name, start)
    while not (await anext(pages)).entries:
        pass
    for tail in driver._tails._tails:
        tail._consumer.is_due = True
    with pytest.raises(BrokerUnavailable, match="the client has failed"):
        await anext(pages)
    assert "RuntimeError: the client has failed" in caplog.text
    await driver.append(name, [b"second"])
    read = []
    async for page in driver.read(name, start):
        read += [entry.body for entry in page.entries]
        if len(read) == 2:
            break
    assert read == [b"first", b"second"]


async def test_a_producer_that_fails_is_replaced_and_what_was_under_way_is_told(make, name, monkeypatch, caplog):
    class FailingProducer(Failing, Producer):
        pass

    monkeypatch.setattr(producer_module, "Client", FailingProducer)
    driver = await make()
    first = driver._producer._client
    first.is_due = True
    with pytest.raises(OutcomeUnknown, match="the client has failed"):
        await driver.append(name, [b"under way"])
    assert "RuntimeError: the client has failed" in caplog.text
    assert await driver.append(name, [b"again"]) > 0
    assert driver._producer._client is not first


async def test_a_member_that_fails_takes_again(make, name, consume, monkeypatch):
    class FailingConsumer(Failing, Consumer):
        pass

    monkeypatch.setattr(member_module, "Consumer", FailingConsumer)
    driver = await make()
    intake = consume(driver, name)
    await driver.put(parcels(name, "a"))
    await take(intake, 1)
    driver._members[name]._consumer.is_due = True
    await driver.put(parcels(name, "b"))
    assert ids(await take(intake, 2)) == ["a", "b"]


# Closing


async def test_closing_leaves_no_client_to_the_garbage_collector(open_driver, name):
    """Which would destroy it on any thread, the event loop's as well, that then waits for the client's threads."""
    gc.collect()
    gc.disable()
    try:
        before = clients()
        driver = await open_driver()
        await driver.declare(name, None)
        await driver.append(name, [b"{}"])
        await driver.bounds(name)
        ended_in = []
        told = weakref.ref(driver._topics._admin, lambda _: ended_in.append(threading.current_thread()))
        await driver.close()
        assert told() is None
        assert ended_in[0] is not threading.main_thread()
        assert clients() <= before
    finally:
        gc.enable()


async def test_opening_in_vain_leaves_none_either(open_at):
    gc.collect()
    gc.disable()
    try:
        before = clients()
        with pytest.raises(BrokerUnavailable):
            await open_at(f"127.0.0.1:{free_port()}")
        assert clients() <= before
    finally:
        gc.enable()


def clients():
    return {id(each) for each in gc.get_objects() if isinstance(each, AdminClient | Producer | Consumer)}


# Taking


async def test_what_arrives_while_its_partition_goes_and_comes_back_is_read_again(make, name, consume, monkeypatch):
    """Otherwise what was handed out before, and comes again, would count as passed over."""
    few = 5

    class Interrupted(Consumer):
        """One whose first partition is taken away and given back in the middle of a batch."""

        waits_for = few
        is_interrupted = False

        def subscribe(self, topics, *, on_assign, on_revoke, on_lost):
            self.moves = on_revoke, on_assign
            super().subscribe(topics, on_assign=on_assign, on_revoke=on_revoke, on_lost=on_lost)

        def consume(self, *arguments):
            messages = super().consume(*arguments)
            if not self.is_interrupted and self.first >= few and self.assignment():
                self.is_interrupted = True
                partitions = self.assignment()
                for move in self.moves:
                    move(self, partitions)
            return messages

        def poll(self, *arguments):
            message = super().poll(*arguments)
            if message is not None and message.error() is None:
                self.first = message.offset()
            return message

    monkeypatch.setattr(member_module, "Consumer", Interrupted)
    monkeypatch.setattr(member_module, "GRACE_SECONDS", 0.1)
    driver = await make()
    intake = consume(driver, name, concurrency=100)
    await driver.put(parcels(name, *map(str, range(few))))
    assert ids(await take(intake, few)) == [str(number) for number in range(few)]
    await driver.put(parcels(name, *map(str, range(few, 2 * few))))
    again = await take(intake, 2 * few)
    assert ids(again) == [str(number) for number in range(2 * few)]
    assert [each.again for each in again[:few]] == [True] * few


async def test_a_member_that_is_not_told_what_is_finished_asks_again(make, name, consume, monkeypatch):
    asked = []

    class Uninformed(Consumer):
        def committed(self, partitions, **options):
            asked.extend(partition for partition in partitions if partition.topic == name)
            if len(asked) == 1:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            return super().committed(partitions, **options)

    monkeypatch.setattr(member_module, "Consumer", Uninformed)
    driver = await make()
    await driver.put(parcels(name, "a"))
    (handed,) = await take(consume(driver, name), 1)
    assert (handed.message.id, len(asked)) == ("a", 2)


async def test_a_partition_whose_beginning_nobody_tells_is_taken_from_its_first_record_on(
    make, name, consume, admin, monkeypatch
):
    class Uninformed(Consumer):
        def get_watermark_offsets(self, *arguments, **options):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    driver = await make()
    await driver.put(parcels(name, "trimmed", "a"))
    trim(admin, name, 1)
    monkeypatch.setattr(member_module, "Consumer", Uninformed)
    (handed,) = await take(intake := consume(driver, name), 1)
    assert handed.message.id == "a"
    handed.settle()
    await intake.aclose()
    [asked] = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group_of(name))]).values()
    assert [each.offset for each in asked.result().topic_partitions] == [2]


@pytest.mark.bound(60)
async def test_a_member_that_was_put_out_of_its_group_without_knowing_hands_out_nothing(behind_proxy, open_at, consume):
    """It has a record already when its group gives the partition to another one, and is about to claim it."""
    node, proxy = behind_proxy
    one, other = await open_at(f"127.0.0.1:{proxy.port}"), await open_at(node.address)
    await one.declare("queue", None)
    cut_off = asyncio.ensure_future(take(consume(one, "queue"), 1))
    claim = b"%d" % (CLAIM + 1)  # what it says of the first record
    proxy.stall_at(Way.TO_SERVER, claim)
    await other.put(parcels("queue", "first"))
    await asyncio.to_thread(proxy.wait_held, Way.TO_SERVER)
    intake = consume(other, "queue")
    (taken,) = await take(intake, 1)
    proxy.resume()
    taken.settle()
    await intake.aclose()
    await other.put(parcels("queue", "second"))
    assert ids(await cut_off) == ["second"]
