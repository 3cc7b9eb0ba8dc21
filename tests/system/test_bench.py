"""The benchmarks still run against the code as it is: each once, as small as it gets. Their figures are not judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SECONDS = 60
"""A bound for failure."""

SMALL = {
    "fanout": ["--streams", 20, "--rates", "20", "--warmup", 0.1, "--seconds", 0.3],
    "unicast": ["--streams", 20, "--warmup", 0.1, "--seconds", 0.3],
    "idle": ["--streams", 20, "--seconds", 0.3],
    "sqlite_tasks": ["--tasks", 50],
    "latency": ["--requests", 3, "--warmup", 1],
    "http_submit": ["--connections", 2, "--warmup", 0.1, "--seconds", 0.3],
    "startup": [],
    "rebuild": ["--tasks", 500],
}

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks need Linux: epoll, /proc, affinity"),
    pytest.mark.bound(SECONDS),
]


@pytest.mark.parametrize("script", SMALL)
def test_a_benchmark_runs(script):
    command = [sys.executable, ROOT / "bench" / f"{script}.py", "--rounds", 1, "--only", "queuecast", *SMALL[script]]
    answer = subprocess.run(
        [str(part) for part in command], check=False, capture_output=True, text=True, timeout=SECONDS
    )
    assert answer.returncode == 0, answer.stderr
    results = json.loads(answer.stdout)["results"]
    for subject, trials in results.items():
        assert None not in trials.values(), f"{subject} brought no figures: {answer.stderr}"
