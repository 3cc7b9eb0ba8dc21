"""A gateway without its private file: how fast is a server's log of finished tasks folded, and in how much memory?

The log (three events a task) lies in a file and is read by this process, so that decoding, folding and the table are
measured and no server. Then the same process takes single events, as in quiet times, and another one resumes.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from contextlib import aclosing
from functools import partial
from pathlib import Path
from statistics import median

from lib import filed_log, options, proc, report, trials

from queuecast.brokers.base import Retention
from queuecast.brokers.folded.projection import Projection
from queuecast.brokers.folded.table import Table
from queuecast.codec import encode_event

EVENTS_OF_A_TASK = 3
SINGLE = 2_000  # tasks whose events come one by one
KEEP_ALL = Retention(age=1e9, size=1 << 40)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def longest_stall(ended: asyncio.Event) -> float:
    """CPU seconds for which the event loop let nobody else run."""
    longest, before = 0.0, time.thread_time()
    while not ended.is_set():
        await asyncio.sleep(0)
        now = time.thread_time()
        longest, before = max(longest, now - before), now
    return longest


async def catch_up(projection: Projection, last: int) -> None:
    while True:
        try:
            return await projection.reaches(last)
        except Exception as error:
            report.note(str(error))


async def measure(file: Path, table: Path, tasks: int) -> trials.Figures:
    events = tasks * EVENTS_OF_A_TASK
    log = filed_log.FiledLog(file, events)
    projection = Projection(log, filed_log.QUEUE, KEEP_ALL, Table(table))
    before_mb, before_cpu, began = peak_mb(), cpu_s(), time.perf_counter()
    ended = asyncio.Event()
    stall = asyncio.create_task(longest_stall(ended))
    await projection.start()
    await catch_up(projection, events)
    took, cpu = time.perf_counter() - began, cpu_s() - before_cpu
    ended.set()
    counted = projection.counts()["succeeded"]
    if counted != tasks:
        raise RuntimeError(f"{counted} tasks were folded, not {tasks}")
    figures = {
        "events_per_s": events / took,
        "events_per_cpu_s": events / cpu,
        "rss_before_mb": before_mb,
        "rss_peak_mb": peak_mb(),
        "stall_cpu_ms": await stall * 1000,
    }
    figures |= await one_by_one(projection, log)
    await projection.stop()
    size = sum(Path(f"{table}{suffix}").stat().st_size for suffix in ("", "-wal") if Path(f"{table}{suffix}").exists())
    return {**figures, "bytes_per_task": size / (tasks + SINGLE)}


async def one_by_one(projection: Projection, log: filed_log.FiledLog) -> trials.Figures:
    """From an event's arrival to a reader that waits for it."""
    bodies = [encode_event(event) for number in range(SINGLE) for event in filed_log.story(number)]
    waits: list[float] = []
    before = cpu_s()
    async with aclosing(projection.read(projection.bounds().last)) as reader:
        for body in bodies:
            began = time.perf_counter()
            log.add(body)
            await anext(reader)
            waits.append(time.perf_counter() - began)
    return {
        "single_p50_ms": median(waits) * 1000,
        "single_p99_ms": report.percentile(sorted(waits), 99) * 1000,
        "single_cpu_us": (cpu_s() - before) / len(bodies) * 1e6,
    }


async def resume(file: Path, table: Path, tasks: int) -> trials.Figures:
    log = filed_log.FiledLog(file, tasks * EVENTS_OF_A_TASK)
    projection = Projection(log, filed_log.QUEUE, KEEP_ALL, Table(table))
    began = time.perf_counter()
    await projection.start()
    await projection.status("nobody")
    took = time.perf_counter() - began
    await projection.stop()
    return {"resume_ms": took * 1000}


def child(work: str, *arguments: object) -> trials.Figures:
    """In a process of its own, so that nobody else's memory counts."""
    command = [sys.executable, __file__, "--as", work, *map(str, arguments)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    if done.returncode:
        raise RuntimeError(f"the process has ended with {done.returncode}")
    return json.loads(done.stdout)


def rebuild(chosen: argparse.Namespace) -> trials.Figures:
    with proc.workdir() as folder:
        file, table = folder / "log", folder / "reports.db"
        subprocess.run([sys.executable, filed_log.__file__, file, str(chosen.tasks)], check=True)
        return {**child("measure", file, table, chosen.tasks), **child("resume", file, table, chosen.tasks)}


def main() -> None:
    if sys.argv[1:2] == ["--as"]:
        work, file, table, tasks = sys.argv[2:]
        figures = asyncio.run({"measure": measure, "resume": resume}[work](Path(file), Path(table), int(tasks)))
        print(json.dumps(figures))
        return
    parser = options.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    chosen = parser.parse_args()
    report.emit(
        "rebuild", vars(chosen), trials.interleaved({("queuecast", "file"): partial(rebuild, chosen)}, chosen.rounds)
    )


if __name__ == "__main__":
    main()
