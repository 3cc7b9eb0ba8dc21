"""The memory broker keeps the contract."""

import pytest

from queuecast.brokers import Retention, make_broker
from queuecast.brokers.memory import MemoryBroker
from queuecast.errors import ConfigurationError

from .contract import BrokerContract


class TestMemory(BrokerContract):
    @pytest.fixture
    def open_broker(self, cleanup):
        """The store is the object: every connection is the same one."""
        brokers: list[MemoryBroker] = []

        async def open_broker(retention: Retention) -> MemoryBroker:
            if not brokers:
                brokers.append(MemoryBroker(retention=retention))
                cleanup.push_async_callback(brokers[0].close)
            await brokers[0].open()
            return brokers[0]

        return open_broker

    @pytest.fixture
    def open_fresh(self, cleanup):
        async def open_fresh(retention: Retention) -> MemoryBroker:
            broker = MemoryBroker(retention=retention)
            await broker.open()
            cleanup.push_async_callback(broker.close)
            return broker

        return open_fresh


def test_a_url_names_a_memory_broker_of_its_own():
    broker = make_broker("memory://")
    assert isinstance(broker, MemoryBroker)
    assert broker is not make_broker("memory://")
    assert (broker.url, broker.retention) == ("memory://", Retention())


def test_a_url_tells_the_retention():
    assert make_broker("memory://?retain_days=0.5&retain_mb=2").retention == Retention(age=43_200, size=2_000_000)


@pytest.mark.parametrize(
    "query",
    [
        "retain_days=0",
        "retain_days=-1",
        "retain_days=",
        "retain_days=week",
        "retain_mb=0",
        "retain_mb=nan",
        "retain_hours=1",
        "sync=full",
        "retain_mb=inf",
        "retain_mb=1e18",
        "retain_days=nan",
    ],
)
def test_a_retention_that_means_nothing_is_refused(query):
    with pytest.raises(ConfigurationError):
        make_broker(f"memory://?{query}")
