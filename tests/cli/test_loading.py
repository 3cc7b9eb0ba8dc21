"""Which application a command is about."""

import pytest

from queuecast.cli.loading import app_of
from queuecast.errors import ConfigurationError
from queuecast.settings import Settings


def test_memory_is_refused_where_gateway_and_worker_are_two_processes():
    with pytest.raises(ConfigurationError, match="one process"):
        app_of(None, Settings(), "memory://")
