"""Huey on SQLite: no-op tasks, one consumer process of threads.

As a program it is one half of a trial: `python -m peers.huey_tasks submit|run FOLDER TASKS FSYNC THREADS`
prints the seconds it took.
"""

import itertools
import os
import sys
import time
from pathlib import Path

from lib import proc

LIMIT = 300.0  # seconds that one half may take


def measure(folder: Path, tasks: int, fsync: bool, threads: int) -> dict[str, float]:
    """Submit all, then run all: each in a process of its own, pinned to the server's CPU."""
    proc.need("huey")
    return {
        "submitted_per_s": tasks / _half("submit", folder, tasks, fsync, threads),
        "run_per_s": tasks / _half("run", folder, tasks, fsync, threads),
    }


def _half(which: str, folder: Path, tasks: int, fsync: bool, threads: int) -> float:
    program = ["-m", "peers.huey_tasks", which, str(folder), str(tasks), str(int(fsync)), str(threads)]
    log = folder / f"{which}.log"
    with proc.running(proc.python(*program), log=log) as process:
        code = process.popen.wait(LIMIT)
    lines = log.read_text().splitlines()
    if code or not lines:
        raise RuntimeError(f"huey's {which} ended with {code}: {process.tail()}")
    return float(lines[-1])


def _main(which: str, folder: str, tasks: int, fsync: bool, threads: int) -> None:
    from huey import SqliteHuey

    huey = SqliteHuey(filename=f"{folder}/huey.db", fsync=fsync)
    numbers = itertools.count(1)
    began = 0.0

    @huey.task()
    def noop() -> None:
        nonlocal began
        number = next(numbers)  # atomic among threads
        if number == 1:
            began = time.perf_counter()
        if number == tasks:
            print(time.perf_counter() - began, flush=True)
            os._exit(0)

    if which == "submit":
        began = time.perf_counter()
        for _ in range(tasks):
            noop()
        print(time.perf_counter() - began)
    else:
        huey.create_consumer(workers=threads, periodic=False, check_worker_health=False).run()


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1", int(sys.argv[5]))
