import secrets

import pytest
from confluent_kafka.admin import AdminClient
from servers.found import need_kafka_programs
from servers.kafka_node import KafkaNode

from queuecast.brokers import Retention
from queuecast.brokers.kafka import KafkaDriver


@pytest.fixture(scope="package")
def node(tmp_path_factory):
    with KafkaNode(tmp_path_factory.mktemp("node"), need_kafka_programs()) as node:
        yield node


@pytest.fixture
def address(node):
    """Of a Kafka that these tests have to themselves, one after the other."""
    return node.address


@pytest.fixture
def admin(address):
    return AdminClient({"bootstrap.servers": address})


@pytest.fixture
def name(admin):
    """A queue's name of its own; what carries it is deleted afterwards."""
    name = f"test-{secrets.token_hex(4)}"
    yield name
    topics = [topic for topic in admin.list_topics(timeout=10).topics if name in topic]
    for deleted in (admin.delete_topics(topics) if topics else {}).values():
        deleted.result()


@pytest.fixture
def open_driver(address, cleanup):
    async def open_driver(retention=None, **parameters):
        options = "&".join(f"{key}={value}" for key, value in parameters.items())
        driver = KafkaDriver(f"kafka://{address}?{options}", retention or Retention())
        cleanup.push_async_callback(driver.close)
        await driver.open()
        return driver

    return open_driver


@pytest.fixture
def make(name, open_driver):
    """A driver whose queue is declared, with one partition unless told otherwise."""

    async def make(partitions=1, retention=None):
        driver = await open_driver(retention, partitions=partitions)
        await driver.declare(name, None)
        return driver

    return make


@pytest.fixture
def consume(cleanup):
    """An intake that is closed at the end."""

    def consume(driver, queue, concurrency=10):
        intake = driver.consume(queue, concurrency)
        cleanup.push_async_callback(intake.aclose)
        return intake

    return consume
