"""A machine for each test, and nothing left of it afterwards."""

import pytest

pytest.register_assert_rewrite("system.verdict", "system.client", "system.processes")

from .processes import Machine  # noqa: E402 - its assertions are to say what they saw


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    yield machine
    machine.clean_up()
