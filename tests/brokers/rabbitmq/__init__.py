"""The driver of RabbitMQ against real servers, 3.10 and 4.x."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.steps")
