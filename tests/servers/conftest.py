"""One private node for the tests that only need any."""

import pytest

from .found import need_rabbitmq_programs
from .rabbitmq import RabbitNode


@pytest.fixture(scope="package")
def node(tmp_path_factory):
    """A node that tests leave as they found it; those that kill make their own."""
    release = need_rabbitmq_programs()
    with RabbitNode(tmp_path_factory.mktemp("node"), release=release) as node:
        yield node
