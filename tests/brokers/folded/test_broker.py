"""What brokers with a server share keeps the contract, on a server that may repeat and never loses."""

import pytest

from queuecast.brokers import Retention
from queuecast.brokers.folded.broker import FoldedBroker

from .. import contract
from ..contract import Backend, BrokerContract
from ..steps import Suite
from .fake_driver import FakeServer


class OnFakeServer(Suite):
    @pytest.fixture
    def backend(self):
        return Backend(atomic=False)

    @pytest.fixture
    def server(self):
        return FakeServer()

    @pytest.fixture
    def open_broker(self, server, tmp_path, cleanup):
        return opener(server, tmp_path, cleanup)

    @pytest.fixture
    def open_fresh(self, tmp_path, cleanup):
        return opener(FakeServer("another"), tmp_path, cleanup)


class TestFolded(OnFakeServer, BrokerContract):
    """All of it."""


class TestFoldedWithoutIdentity(OnFakeServer, BrokerContract):
    """On a server whose logs have no name but their queue's."""

    @pytest.fixture
    def server(self):
        return FakeServer(None)


class TestFoldedTwice(
    OnFakeServer,
    contract.Submitting,
    contract.Keys,
    contract.Consuming,
    contract.Settling,
    contract.Losing,
    contract.Cancelling,
    contract.Appending,
    contract.Reading,
    contract.Bounding,
    contract.Verifying,
    contract.Retaining,
    contract.Projecting,
):
    """Every append lands twice, as after a confirm that was lost. Messages of the control log may be read twice."""

    @pytest.fixture
    def server(self):
        server = FakeServer()
        server.repeats = 1 << 30
        return server


def opener(server, folder, cleanup):
    async def open_broker(retention: Retention) -> FoldedBroker:
        broker = FoldedBroker("fake://", retention, server.driver(), state=str(folder))
        await broker.open()
        cleanup.push_async_callback(broker.close)
        return broker

    return open_broker
