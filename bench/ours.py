"""queuecast's side of every benchmark: only this module and ours_apps.py import it."""

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from urllib.request import urlopen

from lib import callers, counted, kafka, proc, rabbitmq
from lib.subject import Event, Server, post

APPS = str(proc.BENCH / "ours_apps.py")
UNICAST_TASKS = 5_000
SUBMITTED_AT_ONCE = 1_000
CONCURRENCY = "200"


def broadcast(folder: Path) -> AbstractContextManager[Server]:
    """All streams follow one queue, on the fast path. For fanout, unicast and idle."""
    return _streams(folder, 1, lambda i: "/queues/bench/events")


def broadcast_plain_asgi(folder: Path) -> AbstractContextManager[Server]:
    """The same on an ASGI server that does not offer the transport. For fanout."""
    return _streams(folder, 1, lambda i: "/queues/bench/events", plain=True)


def unicast(folder: Path) -> AbstractContextManager[Server]:
    """The i-th stream follows the i-th task of one queue. For unicast."""
    from ours_apps import stream_task

    return _streams(folder, UNICAST_TASKS, lambda i: f"/queues/bench/tasks/{stream_task(i)}/events?after=last")


@contextlib.contextmanager
def _streams(folder: Path, tasks: int, path: Callable[[int], str], *, plain: bool = False) -> Iterator[Server]:
    """A gateway that follows a log, and beside it, as workers are, a process that appends to it."""
    proc.need("queuecast")
    port, publish_port = proc.free_port(), proc.free_port()
    url = f"sqlite:///{folder / 'streams.db'}"

    def publish(events: Sequence[Event]) -> bytes:
        return post("/publish", json.dumps([[i, body.decode()] for i, body in events]).encode())

    publisher = proc.running(
        proc.python(APPS, "publisher", str(publish_port), str(tasks)),
        cpu=proc.LOAD_CPU,
        env={"QUEUECAST_BROKER": url},
        log=folder / "publisher.log",
    )
    with publisher as appending:
        proc.wait_for_port(publish_port, appending, timeout=60)
        with _gateway(folder, port, url, plain) as process, _ready(port, process):
            yield Server(process, port, path, publish, publish_port)


def _gateway(folder: Path, port: int, url: str, plain: bool) -> AbstractContextManager[proc.Process]:
    if not plain:
        return _command(folder, "gateway", "ours_apps:qc", "--port", str(port), url=url)
    env = {"QUEUECAST_BROKER": url}
    return proc.running(proc.uvicorn("ours_apps:plain_gateway", port), env=env, log=folder / "uvicorn.log")


def sqlite_tasks(folder: Path, tasks: int) -> dict[str, float]:
    """Submit `tasks` no-op async tasks to a SQLite file with FULL sync, then run them with their full event trail in
    one worker process, while a gateway process follows the log.

    Returns seconds under "submit_s" (in bulk, through Python) and "run_s" (first start to last result).
    """
    proc.need("queuecast")
    url = f"sqlite:///{folder / 'tasks.db'}"
    submitted = asyncio.run(_submit(url, tasks))
    port = proc.free_port()
    with (
        _command(folder, "gateway", "ours_apps:qc", "--port", str(port), url=url) as gateway,
        _ready(port, gateway),
        _command(folder, "worker", "ours_apps:qc", "--concurrency", CONCURRENCY, cpu=proc.LOAD_CPU, url=url) as worker,
    ):
        _wait_until_done(folder, tasks, worker)
    ran = asyncio.run(_run_seconds(url, tasks))
    return {"submit_s": submitted, "run_s": ran}


async def _submit(url: str, tasks: int) -> float:
    from ours_apps import noop, qc

    qc.use(url)
    async with qc.running():
        start = time.perf_counter()
        for begin in range(0, tasks, SUBMITTED_AT_ONCE):
            await asyncio.gather(*(noop.submit() for _ in range(min(SUBMITTED_AT_ONCE, tasks - begin))))
        return time.perf_counter() - start


async def _submit_by_callers(url: str, tasks: int) -> float:
    from ours_apps import count, noop, qc

    qc.use(url)
    async with qc.running():
        await noop.submit()  # connecting and declaring, as of the peers, is not what is measured
        return await callers.seconds(count.submit, tasks)


def _wait_until_done(folder: Path, tasks: int, worker: proc.Process) -> None:
    """Looks into the file now and then: a client of the broker would be woken by every commit, and take the CPU."""
    with contextlib.closing(sqlite3.connect(folder / "tasks.db")) as db:
        while db.execute("SELECT succeeded FROM queue WHERE name = 'noop'").fetchone()[0] < tasks:
            if not worker.alive():
                raise RuntimeError(f"the worker has ended:\n{worker.tail()}")
            time.sleep(0.2)


async def _run_seconds(url: str, tasks: int, queue: str = "noops") -> float:
    """From the log itself: the first `running` to the last result."""
    import ours_apps

    qc, noops = ours_apps.qc, getattr(ours_apps, queue)
    qc.use(url)
    async with qc.running():
        times: list[str] = []
        results = 0
        async for event in noops.events(after="first"):
            if event.type == "result" or event.task.state == "running":
                times.append(event.time)
            results += event.type == "result"
            if results == tasks:
                break
    first, last = (datetime.fromisoformat(moment) for moment in (min(times), max(times)))
    return (last - first).total_seconds()


def server_tasks(folder: Path, url: str, tasks: int) -> dict[str, float]:
    """The same on a server: nothing else runs there than the one worker process, and afterwards who reads the log."""
    proc.need("queuecast")
    proc.need("confluent_kafka" if url.startswith("kafka") else "pika")
    url = f"{url}{'&' if '?' in url else '?'}state={folder / 'state'}"
    submitted = asyncio.run(_submit_by_callers(url, tasks))
    env = counted.environment(folder, tasks)
    program = ("worker", "ours_apps:qc", "--queue", "counted", "--concurrency", CONCURRENCY)
    with _command(folder, *program, cpu=proc.LOAD_CPU, url=url, env=env) as worker:
        figures = counted.figures(folder, tasks, worker)
        trail = asyncio.run(_run_seconds(url, tasks, "counting"))
    return {"submitted_per_s": tasks / submitted, **figures, "trail_per_s": tasks / trail}


def task_gateway(folder: Path) -> AbstractContextManager[int]:
    """A gateway with a worker as its child, on a SQLite file with FULL sync. For latency."""
    return _run(folder, f"sqlite:///{folder / 'tasks.db'}")


@contextlib.contextmanager
def task_gateway_rabbitmq(folder: Path) -> Iterator[int]:
    """The same on a fresh RabbitMQ node. For latency."""
    proc.need("pika")
    with rabbitmq.node(folder, None) as url, _run(folder, f"{url}?state={folder / 'state'}") as port:
        yield port


@contextlib.contextmanager
def task_gateway_kafka(folder: Path) -> Iterator[int]:
    """The same on a fresh Kafka node. For latency."""
    proc.need("confluent_kafka")
    with kafka.node(folder, None) as address, _run(folder, f"kafka://{address}?state={folder / 'state'}") as port:
        yield port


@contextlib.contextmanager
def _run(folder: Path, url: str) -> Iterator[int]:
    proc.need("queuecast")
    port = proc.free_port()
    with (
        _command(folder, "run", "ours_apps:qc", "--port", str(port), cpu=None, url=url) as process,
        _ready(port, process),
    ):
        yield port


@contextlib.contextmanager
def submit_gateway(folder: Path) -> Iterator[int]:
    """A gateway without a worker. For http_submit."""
    proc.need("queuecast")
    port = proc.free_port()
    url = f"sqlite:///{folder / 'tasks.db'}"
    with (
        _command(folder, "gateway", "ours_apps:qc", "--port", str(port), url=url) as process,
        _ready(port, process),
    ):
        yield port


def worker(folder: Path) -> AbstractContextManager[proc.Process]:
    """A worker with nothing to do. For startup."""
    proc.need("queuecast")
    return _command(folder, "worker", "idle_app:qc", url=f"sqlite:///{folder / 'tasks.db'}")


def _command(
    folder: Path, *words: str, url: str, cpu: int | None = proc.SERVER_CPU, env: Mapping[str, str] | None = None
) -> AbstractContextManager[proc.Process]:
    argv = proc.python("-m", "queuecast", *words)
    log = folder / f"{words[0]}.log"
    return proc.running(argv, cpu=cpu, env={"QUEUECAST_BROKER": url, **(env or {})}, cwd=folder, log=log)


@contextlib.contextmanager
def _ready(port: int, process: proc.Process) -> Iterator[None]:
    """Once the gateway has caught up with the log."""
    proc.wait_for_port(port, process)
    while True:
        with contextlib.suppress(OSError), urlopen(f"http://{proc.HOST}:{port}/readyz") as answer:
            if answer.status == 200:
                break
        time.sleep(0.05)
    yield
