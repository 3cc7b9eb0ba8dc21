"""What the contract says of taking tasks holds for the other protocols of groups, too, that can be chosen by option."""

import pytest
from servers.clean import cleaned_kafka
from servers.found import need_kafka_programs
from servers.kafka_node import KafkaNode

from queuecast.brokers import Broker, Retention, make_broker

from .contract import Backend, Cancelling, Consuming, Losing, Settling
from .making import QUEUE
from .processes import Processes
from .steps import OTHER

pytestmark = [pytest.mark.xdist_group("kafka-groups"), pytest.mark.bound(60)]

QUICK = [
    f"group.{kind}.{setting}"
    for kind in ("consumer", "share")
    for setting in (
        "min.session.timeout.ms=4000",
        "session.timeout.ms=4000",
        "min.heartbeat.interval.ms=200",
        "heartbeat.interval.ms=200",
    )
]
"""By default a session is 45 s, and what has changed is told with a heartbeat each 5 s."""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with KafkaNode(tmp_path_factory.mktemp("node"), need_kafka_programs(), lines=QUICK) as node:
        yield node


class Taking(Consuming, Settling, Losing, Cancelling, Processes):
    protocol = ""
    deals_in_parts = False

    @pytest.fixture
    def url(self, node, tmp_path):
        clean = cleaned_kafka(node.address, [QUEUE, OTHER])
        return f"{clean}?partitions=1&protocol={self.protocol}&state={tmp_path}/state"

    @pytest.fixture
    def backend(self, url):
        return Backend(url, atomic=False, deals_in_parts=self.deals_in_parts)

    @pytest.fixture
    def open_broker(self, url, cleanup):
        async def open_broker(retention: Retention = Retention()) -> Broker:  # noqa: B008 - immutable
            broker = make_broker(url)
            await broker.open()
            cleanup.push_async_callback(broker.close)
            return broker

        return open_broker


class TestConsumerProtocol(Taking):
    """KIP-848."""

    protocol = "consumer"
    deals_in_parts = True


class TestShareGroups(Taking):
    """KIP-932."""

    protocol = "share"
