"""A gateway without its private file: how fast is a server's log of finished tasks folded, and in how much memory?

The log (three events a task) lies in a file and is read by this process, so that decoding, folding and the table are
measured and no server. Then the same process takes single events, as in quiet times, and another one resumes. With
`--logs` it also lies on a RabbitMQ node of its own, or on a Kafka that is running: the topics are deleted again.
"""

import argparse
import asyncio
import json
import resource
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median

from lib import filed_log, options, proc, rabbitmq, report, trials

from queuecast.brokers.base import Retention
from queuecast.brokers.folded.driver import Driver
from queuecast.brokers.folded.projection import Projection
from queuecast.brokers.folded.table import Table
from queuecast.codec import encode_event
from queuecast.errors import BrokerUnavailable

EVENTS_OF_A_TASK = 3
STEP = 0.01  # seconds
SINGLE = 2_000  # tasks whose events come one by one
APPENDED_AT_ONCE = 2_000  # tasks whose events are on their way together
CALL = 20  # events of one call
KEEP_ALL = Retention(age=1e9, size=1 << 40)
Figures = dict[str, float]


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def lateness(ended: asyncio.Event) -> list[float]:
    """Seconds by which others were late who wanted to run again after STEP."""
    late: list[float] = []
    while not ended.is_set():
        began = time.perf_counter()
        await asyncio.sleep(STEP)
        late.append(time.perf_counter() - began - STEP)
    return sorted(late)


async def catch_up(projection: Projection) -> None:
    while True:
        try:
            return await projection.caught_up()
        except BrokerUnavailable as error:
            report.note(str(error))


async def folded(log: Driver | filed_log.FiledLog, queue: str, table: Path, tasks: int) -> tuple[Projection, Figures]:
    """Of a log of so many finished tasks."""
    events = tasks * EVENTS_OF_A_TASK
    projection = Projection(log, queue, KEEP_ALL, Table(table))
    before_mb, before_cpu, began = peak_mb(), cpu_s(), time.perf_counter()
    ended = asyncio.Event()
    late = asyncio.create_task(lateness(ended))
    await projection.start()
    await catch_up(projection)
    took, cpu = time.perf_counter() - began, cpu_s() - before_cpu
    ended.set()
    counted = projection.counts()["succeeded"]
    if counted != tasks:
        raise RuntimeError(f"{counted} tasks were folded, not {tasks}")
    return projection, {
        "events_per_s": events / took,
        "events_per_cpu_s": events / cpu,
        "rss_before_mb": before_mb,
        "rss_peak_mb": peak_mb(),
        "loop_late_p99_ms": report.percentile(await late, 99) * 1000,
    }


async def measure(file: str, table: str, tasks: int) -> Figures:
    log = filed_log.FiledLog(Path(file), tasks * EVENTS_OF_A_TASK)
    projection, figures = await folded(log, filed_log.QUEUE, Path(table), tasks)
    figures |= await one_by_one(projection, log)
    await projection.stop()
    files = [Path(f"{table}{suffix}") for suffix in ("", "-wal")]
    size = sum(file.stat().st_size for file in files if file.exists())
    return {**figures, "bytes_per_task": size / (tasks + SINGLE)}


async def one_by_one(projection: Projection, log: filed_log.FiledLog) -> Figures:
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


async def resume(file: str, table: str, tasks: int) -> Figures:
    log = filed_log.FiledLog(Path(file), tasks * EVENTS_OF_A_TASK)
    projection = Projection(log, filed_log.QUEUE, KEEP_ALL, Table(Path(table)))
    began = time.perf_counter()
    await projection.start()
    await projection.status("nobody")
    took = time.perf_counter() - began
    await projection.stop()
    return {"resume_ms": took * 1000}


# The log on a server


@asynccontextmanager
async def driver_for(url: str):
    """As in `open_broker`, whose driver it is."""
    if url.startswith("kafka"):
        from queuecast.brokers.kafka import KafkaDriver as MadeDriver
    else:
        from queuecast.brokers.rabbitmq import RabbitDriver as MadeDriver
    driver = MadeDriver(url, KEEP_ALL)
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


async def fill(url: str, queue: str, tasks: int) -> Figures:
    """Several writers' appends at a time, each with the events of some tasks."""
    async with driver_for(url) as driver:
        await driver.declare(queue, None)
        for start in range(0, tasks, APPENDED_AT_ONCE):
            numbers = range(start, min(start + APPENDED_AT_ONCE, tasks))
            bodies = [body for group in groups(numbers) for body in filed_log.mixed(group)]
            appends = [driver.append(queue, bodies[place : place + CALL]) for place in range(0, len(bodies), CALL)]
            await asyncio.gather(*appends)
    return {}


def groups(numbers: range) -> list[range]:
    return [numbers[start : start + filed_log.AT_ONCE] for start in range(0, len(numbers), filed_log.AT_ONCE)]


async def serve(url: str, queue: str, table: str, tasks: int) -> Figures:
    async with driver_for(url) as driver:
        projection, figures = await folded(driver, queue, Path(table), tasks)
        await projection.stop()
        return figures


# Trials


def child(work: Callable[..., object], *arguments: object) -> Figures:
    """In a process of its own, so that nobody else's memory counts."""
    command = [sys.executable, __file__, "--as", work.__name__, *map(str, arguments)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    if done.returncode:
        raise RuntimeError(f"the process has ended with {done.returncode}")
    return json.loads(done.stdout)


def from_file(chosen: argparse.Namespace) -> Figures:
    with proc.workdir() as folder:
        file, table = folder / "log", folder / "reports.db"
        subprocess.run([sys.executable, filed_log.__file__, file, str(chosen.tasks)], check=True)
        return {**child(measure, file, table, chosen.tasks), **child(resume, file, table, chosen.tasks)}


def from_server(url: str, folder: Path, tasks: int) -> Figures:
    queue = f"bench-{secrets.token_hex(4)}"
    try:
        child(fill, url, queue, tasks)
        return child(serve, url, queue, folder / "reports.db", tasks)
    finally:
        if url.startswith("kafka"):
            from lib import kafka

            kafka.delete(url.partition("://")[2], queue, f"_qc.events.{queue}")


def from_rabbitmq(chosen: argparse.Namespace) -> Figures:
    with proc.workdir() as folder, rabbitmq.node(folder, None) as url:
        return from_server(url, folder, chosen.served)


def from_kafka(chosen: argparse.Namespace) -> Figures:
    with proc.workdir() as folder:
        return from_server(f"kafka://{chosen.kafka}", folder, chosen.served)


LOGS = {"file": from_file, "rabbitmq": from_rabbitmq, "kafka": from_kafka}
WORKS = {work.__name__: work for work in (measure, resume, fill, serve)}


def main() -> None:
    if sys.argv[1:2] == ["--as"]:
        name, *arguments, tasks = sys.argv[2:]
        print(json.dumps(asyncio.run(WORKS[name](*arguments, int(tasks)))))
        return
    parser = options.parser(__doc__)
    parser.add_argument("--logs", default="file", help=f"comma-separated: {', '.join(LOGS)}")
    parser.add_argument("--tasks", type=int, default=1_000_000, help="in the file")
    parser.add_argument("--served", type=int, default=100_000, help="tasks on a server")
    parser.add_argument("--kafka", default="127.0.0.1:9092", help="host:port")
    chosen = parser.parse_args()
    todo = {("queuecast", log): partial(LOGS[log], chosen) for log in chosen.logs.split(",")}
    report.emit("rebuild", vars(chosen), trials.interleaved(todo, chosen.rounds))


if __name__ == "__main__":
    main()
