"""What a no-op task under measurement calls: the first notes when it ran, the last tells how long all have taken.

The file named by BENCH_COUNT then holds a line of JSON. Every system counts alike: from the start of the first task to
that of the last, with the CPU that the worker's process (all its threads) used between.
"""

import itertools
import json
import os
import time
from pathlib import Path

from lib import proc

_numbers = itertools.count(1)
_began = (0.0, 0.0)


def ran() -> None:
    global _began
    number = next(_numbers)  # atomic among threads
    if number == 1:
        _began = time.perf_counter(), time.process_time()
    if number == int(os.environ["BENCH_TASKS"]):
        seconds, cpu = time.perf_counter() - _began[0], time.process_time() - _began[1]
        part = Path(os.environ["BENCH_COUNT"] + ".part")
        part.write_text(json.dumps({"seconds": seconds, "cpu": cpu}))
        part.rename(os.environ["BENCH_COUNT"])


def environment(folder: Path, tasks: int) -> dict[str, str]:
    """For the worker's process."""
    return {"BENCH_COUNT": str(folder / "counted.json"), "BENCH_TASKS": str(tasks)}


def figures(folder: Path, tasks: int, worker: proc.Process, limit: float = 120.0) -> dict[str, float]:
    """Waits for the last task. A task that ran twice would make it come too early: those who look at logs may tell."""
    file = folder / "counted.json"
    deadline = time.monotonic() + limit
    while not file.exists():
        if not worker.alive() or time.monotonic() > deadline:
            raise RuntimeError(f"the worker did not come to the last task:\n{worker.tail()}")
        time.sleep(0.05)
    took = json.loads(file.read_text())
    return {"run_per_s": tasks / took["seconds"], "worker_us_per_task": took["cpu"] * 1e6 / tasks}
