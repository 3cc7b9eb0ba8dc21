"""A machine for each test, and nothing left of it afterwards."""

import pytest

from .processes import Machine


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    yield machine
    machine.clean_up()
