"""The RabbitMQ broker keeps the contract, on the version that Debian 12 has and on 4.x."""

import pytest
from servers.clean import cleaned

from queuecast.brokers import Broker, Retention, make_broker

from .contract import Backend, BrokerContract
from .making import QUEUE
from .steps import OTHER

HEARTBEAT = 2
"""Seconds: a process that stands still is given up after two of them."""


class TestRabbitMQ(BrokerContract):
    @pytest.fixture
    def url(self, rabbitmq, tmp_path):
        return f"{cleaned(rabbitmq, [QUEUE, OTHER])}?heartbeat={HEARTBEAT}&state={tmp_path}/state"

    @pytest.fixture
    def backend(self, url):
        return Backend(url, atomic=False)

    @pytest.fixture
    def open_broker(self, url, cleanup):
        async def open_broker(retention: Retention = Retention()) -> Broker:  # noqa: B008 - immutable
            broker = make_broker(f"{url}&retain_days={retention.age / 86_400}&retain_mb={retention.size / 1e6}")
            await broker.open()
            cleanup.push_async_callback(broker.close)
            return broker

        return open_broker
