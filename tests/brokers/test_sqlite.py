"""The SQLite broker keeps the contract, and what only a file can promise."""

import pytest

from queuecast.brokers.sqlite import SQLiteBroker

from .contract import Backend, BrokerContract


class TestSQLite(BrokerContract):
    @pytest.fixture
    def backend(self, tmp_path):
        return Backend(url_for_processes=f"sqlite:///{tmp_path}/work.db")

    @pytest.fixture
    def open_broker(self, tmp_path, backend, cleanup):
        async def open_broker(retention):
            broker = SQLiteBroker(backend.url_for_processes, retention, path=str(tmp_path / "work.db"))
            await broker.open()
            cleanup.push_async_callback(broker.close)
            return broker

        return open_broker
