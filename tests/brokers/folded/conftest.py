import pytest

from queuecast.brokers import Retention
from queuecast.brokers.folded.broker import FoldedBroker

from ..making import QUEUE
from .fake_driver import FakeServer


@pytest.fixture
def server():
    return FakeServer()


@pytest.fixture
def open_on(tmp_path, cleanup):
    """Open one more connection to a server, with a driver of its own."""

    async def open_on(server: FakeServer, retention: Retention) -> FoldedBroker:
        broker = FoldedBroker("fake://", retention, server.driver(), state=str(tmp_path))
        await broker.open()
        cleanup.push_async_callback(broker.close)
        return broker

    return open_on


@pytest.fixture
def open_broker(server, open_on):
    async def open_broker(retention: Retention = Retention()) -> FoldedBroker:  # noqa: B008 - immutable
        return await open_on(server, retention)

    return open_broker


@pytest.fixture
def connect(open_broker):
    """One more connection, with the tests' queue declared."""

    async def connect(retention: Retention = Retention()) -> FoldedBroker:  # noqa: B008 - immutable
        broker = await open_broker(retention)
        await broker.declare(QUEUE)
        return broker

    return connect
