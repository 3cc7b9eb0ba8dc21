"""The memory broker keeps the contract."""

import pytest

from queuecast.brokers import Retention
from queuecast.brokers.memory import MemoryBroker

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
