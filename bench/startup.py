"""Starting: how long does `import queuecast` take, and how much memory does an idle worker hold?

The import is timed as a whole interpreter, less an empty one's; `asyncio` alone stands beside it, since no asynchronous
program does without it. All of it is compiled before, as pip leaves a package that it installs.
"""

import argparse
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import ours
from lib import options, proc, report, trials

REPEATS = 9  # of each import; the quickest counts, as the others were disturbed
SETTLE = 3.0  # seconds after the worker has said that it is ready


def import_ms(code: str, folder: Path) -> float:
    """Compiled into the folder: from an editable tree nothing may have been compiled yet, or ever be."""
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)

    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, env=env)
        return time.perf_counter() - began

    once()
    return min(once() for _ in range(REPEATS)) * 1000


def imports(chosen: argparse.Namespace) -> trials.Figures:
    with proc.workdir() as folder:
        empty, ours, asyncio = (import_ms(code, folder) for code in ("pass", "import queuecast", "import asyncio"))
    return {"queuecast_ms": ours - empty, "asyncio_ms": asyncio - empty}


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
