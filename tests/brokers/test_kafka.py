"""The Kafka broker keeps the contract, where each queue has one partition: what is said of order holds for each."""

import pytest
from servers.clean import cleaned_kafka
from servers.found import alone_on, need_kafka

from queuecast.brokers import Broker, Retention, make_broker

from .contract import Backend, BrokerContract
from .making import QUEUE
from .steps import OTHER


class TestKafka(BrokerContract):
    @pytest.fixture
    def url(self, tmp_path):
        address = need_kafka()
        with alone_on(f"kafka://{address}"):
            yield f"{cleaned_kafka(address, [QUEUE, OTHER])}?partitions=1&state={tmp_path}/state"

    @pytest.fixture
    def backend(self, url):
        return Backend(url, atomic=False, deals_in_parts=True)

    @pytest.fixture
    def open_broker(self, url, cleanup):
        async def open_broker(retention: Retention = Retention()) -> Broker:  # noqa: B008 - immutable
            broker = make_broker(f"{url}&retain_days={retention.age / 86_400}&retain_mb={retention.size / 1e6}")
            await broker.open()
            cleanup.push_async_callback(broker.close)
            return broker

        return open_broker

    @pytest.fixture
    def open_fresh(self, open_broker):
        async def open_fresh(retention: Retention) -> Broker:
            cleaned_kafka(need_kafka(), [QUEUE, OTHER])
            return await open_broker(retention)

        return open_fresh
