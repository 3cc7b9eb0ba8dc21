"""A machine for each test, and nothing left of it afterwards."""

from contextlib import contextmanager

import pytest
from servers.clean import cleaned, cleaned_kafka
from servers.found import alone_on, need_kafka_programs, need_rabbitmq
from servers.kafka_node import KafkaNode

from . import classic as examples
from .processes import Machine
from .test_browser import QUEUES as QUEUES_OF_THE_DEMO
from .workload import QUEUES


@contextmanager
def sqlite(request):
    yield f"sqlite:///{request.getfixturevalue('tmp_path')}/work.db"


@contextmanager
def rabbitmq(_):
    url = need_rabbitmq()
    with alone_on(url):
        yield cleaned(url, [*QUEUES, *QUEUES_OF_THE_DEMO])


@contextmanager
def kafka(request):
    """Not the one of the other tests, which may so run beside these."""
    yield cleaned_kafka(request.getfixturevalue("kafka_node").address, [*QUEUES, *QUEUES_OF_THE_DEMO])


@pytest.fixture(scope="session")
def kafka_node(tmp_path_factory):
    """For the tests of one process, one after the other."""
    with KafkaNode(tmp_path_factory.mktemp("kafka"), need_kafka_programs()) as node:
        yield node


@pytest.fixture(
    params=[sqlite, pytest.param(rabbitmq, marks=pytest.mark.rabbitmq), pytest.param(kafka, marks=pytest.mark.kafka)],
    ids=lambda broker: broker.__name__,
)
def machine(request, tmp_path):
    """With the default broker, and with a server of each kind: what holds for one holds for the others."""
    with request.param(request) as broker:
        machine = Machine(tmp_path, broker)
        yield machine
        machine.clean_up()


@pytest.fixture
def classic(rabbitmq, tmp_path):
    """A RabbitMQ of each version, with plain programs beside ours."""
    machine = examples.Classic(tmp_path, cleaned(rabbitmq, examples.QUEUES))
    yield machine
    machine.clean_up()
