"""Imports go one way, and `import queuecast` is cheap."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import queuecast

SOURCE = Path(queuecast.__file__).parent

MODEL = {"errors", "task", "event", "lifecycle", "retry", "codec", "control", "cursor", "sse"}
LAYERS = [MODEL, {"brokers"}, {"tail"}, {"app"}, {"worker", "hub"}, {"gateway"}, {"cli", "demo", "__main__", "testing"}]
"""Each may import from those before it. Whatever is not named stands beside `app`."""

ON_DEMAND = {("app", "gateway"), ("app", "worker"), ("queue", "gateway")}
"""What the application offers from above (`qc.gateway`, `running(worker=True)`), imported when it is asked for."""


def layer_of(part: str) -> int:
    return next((place for place, parts in enumerate(LAYERS) if part in parts), LAYERS.index({"app"}))


def may_import(part: str, other: str) -> bool:
    beside = part == other or {part, other} != {"worker", "hub"}
    return layer_of(other) < layer_of(part) or (layer_of(other) == layer_of(part) and beside)


def imports_of(path: Path) -> Iterator[tuple[str, bool]]:
    """The parts of queuecast that a module imports, and whether it does so only on demand."""
    package = ("queuecast", *path.relative_to(SOURCE).parts[:-1])
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = [*package[: len(package) - node.level + 1]] if node.level else []
            module += node.module.split(".") if node.module else []
            names = [[*module, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [[*alias.name.split("."), ""] for alias in node.names]
        else:
            continue
        yield from ((name[1], node not in tree.body) for name in names if name[0] == "queuecast")


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for other, on_demand in imports_of(path):
        allowed = part == "__init__" or may_import(part, other) or (on_demand and (part, other) in ON_DEMAND)
        assert allowed, f"{part} must not import {other}"


@pytest.mark.parametrize(
    ("part", "other", "allowed"),
    [
        ("gateway", "hub", True),
        ("hub", "gateway", False),
        ("worker", "worker", True),
        ("worker", "hub", False),
        ("hub", "worker", False),
        ("brokers", "tail", False),
        ("codec", "event", True),
        ("event", "brokers", False),
        ("queue", "app", True),
        ("app", "gateway", False),
    ],
)
def test_the_rule_itself(part, other, allowed):
    assert may_import(part, other) == allowed


@pytest.mark.parametrize("module", ["uvicorn", "starlette", "typer", "sqlite3", "prometheus_client", "pydantic"])
def test_importing_queuecast_does_not_import(module):
    check = f"import sys, queuecast; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
