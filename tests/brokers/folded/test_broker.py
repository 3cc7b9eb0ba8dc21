"""What brokers with a server share keeps the contract, on a server that may repeat and never loses."""

import pytest

from .. import contract
from ..contract import Backend, BrokerContract
from ..steps import Suite
from .fake_driver import FakeServer


class OnFakeServer(Suite):
    @pytest.fixture
    def backend(self):
        return Backend(atomic=False)

    @pytest.fixture
    def open_fresh(self, open_on):
        async def open_fresh(retention):
            return await open_on(FakeServer("another"), retention)

        return open_fresh


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
