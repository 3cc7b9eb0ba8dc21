"""One broker of three is gone, and stays away: all goes on with the two others, each of which knows what it knew."""

from contextlib import contextmanager

import pytest
from servers.found import need_kafka_programs
from servers.kafka_node import cluster, leader_of, whole

from queuecast.brokers import Retention
from queuecast.brokers.kafka import KafkaDriver
from queuecast.brokers.kafka.topics import ANSWER_SECONDS
from queuecast.cursor import beginning

from .steps import ids, parcels, take

pytestmark = [pytest.mark.cluster, pytest.mark.bound(90)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("nodes"), need_kafka_programs()) as nodes:
        yield nodes


@pytest.fixture
def open_driver(nodes, cleanup):
    async def open_driver():
        driver = KafkaDriver(f"kafka://{','.join(node.address for node in nodes)}?replicas=3&partitions=3", Retention())
        cleanup.push_async_callback(driver.close)
        await driver.open()
        await driver.declare("queue", None)
        return driver

    return open_driver


@contextmanager
def gone(node, nodes):
    node.kill_9()
    yield
    node.start()
    whole(nodes)


async def appends_and_reads(driver):
    number = await driver.append("queue", [b"{}"])
    bounds = await driver.bounds("queue")
    assert bounds.last == number
    pages = driver.read("queue", beginning(bounds.identity, number - 1))
    while not (page := await anext(pages)).entries:
        pass
    await pages.aclose()
    assert [entry.offset for entry in page.entries] == [number]


async def test_a_controller_that_is_gone_is_asked_for_no_longer(open_driver, nodes):
    driver = await open_driver()
    # Whom a client takes for the controller is any of the brokers, and each client is told another one.
    controller = driver._topics._admin.list_topics(timeout=ANSWER_SECONDS).controller_id
    with gone(nodes[controller - 1], nodes):
        await appends_and_reads(driver)
        await driver.declare("another", None)


@pytest.mark.parametrize("topic", ["__consumer_offsets", "_qc.watermarks"])
async def test_who_begins_to_consume_gets_its_partitions(open_driver, nodes, topic):
    """Though the one is gone that coordinated its group, or that kept how far a group was that has no offsets."""
    first = await open_driver()
    intake = first.consume("queue", 10)
    await first.put(parcels("queue", "before"))
    (handed,) = await take(intake, 1)
    handed.settle()
    await intake.aclose()
    driver = await open_driver()
    await driver.put(parcels("queue", "a", "b", "c"))
    with gone(leader_of(topic, nodes), nodes):
        intake = driver.consume("queue", 10)
        taken = await take(intake, 3)
        assert sorted(ids(taken)) == ["a", "b", "c"]
        for handed in taken:
            handed.settle()
        await intake.aclose()
