"""A machine for each test, and nothing left of it afterwards."""

from contextlib import contextmanager

import pytest
from servers.clean import cleaned
from servers.found import alone_on, need_rabbitmq

from .processes import Machine
from .test_browser import QUEUES as QUEUES_OF_THE_DEMO
from .workload import QUEUES


@contextmanager
def sqlite(folder):
    yield f"sqlite:///{folder}/work.db"


@contextmanager
def rabbitmq(_):
    url = need_rabbitmq()
    with alone_on(url):
        yield cleaned(url, [*QUEUES, *QUEUES_OF_THE_DEMO])


@pytest.fixture(params=[sqlite, pytest.param(rabbitmq, marks=pytest.mark.rabbitmq)], ids=lambda broker: broker.__name__)
def machine(request, tmp_path):
    """With the default broker, and with a server: what holds for one holds for the other."""
    with request.param(tmp_path) as broker:
        machine = Machine(tmp_path, broker)
        yield machine
        machine.clean_up()
