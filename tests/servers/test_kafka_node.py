"""Private Kafka nodes: what they keep when they are killed, and where they send who comes to a proxy before them."""

from contextlib import suppress

import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from .answers import kafka_answers
from .found import need_kafka_programs
from .kafka_node import KafkaNode
from .proxy import Proxy
from .waiting import wait_until

SECONDS = 30
"""A failure bound: what a server has not done by then it will not."""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with KafkaNode(tmp_path_factory.mktemp("node"), need_kafka_programs()) as node:
        admin = AdminClient({"bootstrap.servers": node.address})
        admin.create_topics([NewTopic("work", 1, 1)])["work"].result()
        yield node


def put(address):
    failed = []
    producer = Producer({"bootstrap.servers": address, "acks": "all"})
    producer.produce("work", b"kept", on_delivery=lambda error, _: failed.append(error))
    producer.flush(SECONDS)
    assert failed == [None]


def end_of(address):
    """Once the partition has a leader: a topic is there a little before."""
    partition = TopicPartition("work", 0)
    admin = AdminClient({"bootstrap.servers": address})

    def told():
        with suppress(KafkaException):
            return admin.list_offsets({partition: OffsetSpec.latest()}, request_timeout=SECONDS)[partition].result()

    return wait_until(told, "no leader tells where its log ends", seconds=SECONDS).offset


def test_what_is_confirmed_outlives_its_node(node):
    before = end_of(node.address)
    put(node.address)
    for end in (node.kill_9, node.stop):
        end()
        assert not kafka_answers(node.ports.clients)
        node.start()
        assert end_of(node.address) == before + 1


def test_who_comes_to_the_proxy_stays_behind_it(node):
    with Proxy(node.ports.behind_proxy, port=node.ports.proxy) as proxy:
        before = end_of(f"127.0.0.1:{proxy.port}")
        put(f"127.0.0.1:{proxy.port}")
        assert end_of(node.address) == before + 1
        client = AdminClient({"bootstrap.servers": f"127.0.0.1:{proxy.port}", "log_level": 0})
        assert [broker.port for broker in client.list_topics(timeout=SECONDS).brokers.values()] == [proxy.port]
        proxy.refuse()
        with pytest.raises(KafkaException):
            client.list_topics(timeout=1)
