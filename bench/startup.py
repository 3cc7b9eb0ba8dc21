"""Starting: how long does `import queuecast` take, and how much memory does an idle worker hold?

The import is timed as a whole interpreter, less an empty one's; `asyncio` alone stands beside it, since no asynchronous
program does without it.
"""

import argparse
import subprocess
import sys
import time
from functools import partial

import ours
from lib import options, proc, report, trials

REPEATS = 9  # of each import; the quickest counts, as the others were disturbed
SETTLE = 3.0  # seconds after the worker has said that it is ready


def import_ms(code: str) -> float:
    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - began

    return min(once() for _ in range(REPEATS)) * 1000


def imports(chosen: argparse.Namespace) -> trials.Figures:
    empty = import_ms("pass")
    return {"queuecast_ms": import_ms("import queuecast") - empty, "asyncio_ms": import_ms("import asyncio") - empty}


def idle_worker(chosen: argparse.Namespace) -> trials.Figures:
    with proc.workdir() as folder, ours.worker(folder) as process:
        while "is ready" not in process.tail():
            if not process.alive():
                raise RuntimeError(f"the worker has ended:\n{process.tail()}")
            time.sleep(0.05)
        time.sleep(SETTLE)
        return {"rss_mb": process.rss() / 1024**2}


def main() -> None:
    chosen = options.parser(__doc__).parse_args()
    cases = {("import", "time"): partial(imports, chosen), ("worker", "idle"): partial(idle_worker, chosen)}
    report.emit("startup", vars(chosen), trials.interleaved(cases, chosen.rounds))


if __name__ == "__main__":
    main()
