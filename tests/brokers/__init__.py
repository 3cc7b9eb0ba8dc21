"""One contract, every backend: see contract.py."""

import pytest

# Asserts outside a test file are explained on failure only where pytest is told so before the import.
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in ("contract", "processes", "steps")))
