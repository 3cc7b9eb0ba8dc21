import secrets

import pytest
from servers.found import need_rabbitmq_programs
from servers.rabbitmq import RabbitNode

from queuecast.brokers import Retention
from queuecast.brokers.rabbitmq import RabbitDriver

from .steps import plain


@pytest.fixture
def url(rabbitmq):
    """A server."""
    return rabbitmq


@pytest.fixture
def name(url):
    """A queue's name of its own; what carries it is deleted afterwards."""
    name = f"test-{secrets.token_hex(4)}"
    yield name
    with plain(url) as channel:
        for queue in (name, f"_qc.events.{name}", f"_qc.replies.{name}"):
            channel.queue_delete(queue)


@pytest.fixture
def open_driver(cleanup):
    async def open_driver(url, retention=None):
        driver = RabbitDriver(url, retention or Retention())
        cleanup.push_async_callback(driver.close)
        await driver.open()
        return driver

    return open_driver


@pytest.fixture
def make(url, name, open_driver):
    """A driver whose queue is declared."""

    async def make(at=None, retention=None):
        driver = await open_driver(at or url, retention)
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


@pytest.fixture
def node(tmp_path):
    """A node of the test's own, to be stopped and killed."""
    with RabbitNode(tmp_path, release=need_rabbitmq_programs()) as node:
        yield node
