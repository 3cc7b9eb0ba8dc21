"""No-op tasks on RabbitMQ with the peers: Celery, Dramatiq, Taskiq (aio-pika).

As a program it is the submitting half: `python -m peers.amqp_tasks SYSTEM TASKS` prints the seconds it took.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lib import callers, counted, proc

LIMIT = 300.0  # seconds that submitting may take


def measure(folder: Path, subject: str, *, url: str, kind: str, tasks: int, worker: list[str]) -> dict[str, float]:
    """Submit all, then run all, each in a process of its own on the load's CPU; the broker has the other."""
    system, _, confirms = subject.partition("_")
    for module in MODULES[system]:
        proc.need(module)
    env = {
        "BENCH_AMQP_URL": url,
        "BENCH_KIND": kind,
        "BENCH_CONFIRMS": str(int(bool(confirms))),
        **counted.environment(folder, tasks),
    }
    log = folder / "submit.log"
    submit = proc.python("-m", "peers.amqp_tasks", system, str(tasks))
    with proc.running(submit, cpu=proc.LOAD_CPU, env=env, cwd=proc.BENCH, log=log) as process:
        code = process.popen.wait(LIMIT)
    if code:
        raise RuntimeError(f"submitting with {system} ended with {code}: {process.tail()}")
    submitted = float(log.read_text().splitlines()[-1])
    with proc.running(worker, cpu=proc.LOAD_CPU, env=env, cwd=proc.BENCH, log=folder / "worker.log") as running:
        ran = counted.figures(folder, tasks, running)
    return {"submitted_per_s": tasks / submitted, **ran}


def celery(prefetch: int) -> list[str]:
    quiet = "--without-gossip --without-mingle --without-heartbeat -l WARNING"
    return proc.python(
        *f"-m celery -A peers.amqp_celery worker -P solo --prefetch-multiplier {prefetch} {quiet}".split()
    )


def dramatiq(threads: int) -> list[str]:
    return proc.python(*f"-m dramatiq peers.amqp_dramatiq --processes 1 --threads {threads}".split())


def taskiq(concurrency: int) -> list[str]:
    options = f"--workers 1 --max-async-tasks {concurrency} --log-level WARNING"
    return proc.python(*f"-m taskiq worker peers.amqp_taskiq:broker {options}".split())


MODULES = {"celery": ["celery"], "dramatiq": ["dramatiq", "pika"], "taskiq": ["taskiq", "taskiq_aio_pika"]}


def _celery(tasks: int) -> None:
    from peers.amqp_celery import noop

    for _ in range(tasks):
        noop.delay()


def _dramatiq(tasks: int) -> None:
    from peers.amqp_dramatiq import noop

    for _ in range(tasks):
        noop.send()
    if tasks > 1:
        noop.broker.close()  # else the last ones may not have left the process


def _taskiq(tasks: int) -> None:
    from peers.amqp_taskiq import broker, noop

    async def submit() -> float:
        await broker.startup()
        took = await callers.seconds(noop.kiq, tasks)
        await broker.shutdown()
        return took

    print(asyncio.run(submit()))


def _timed(submit: Callable[[int], None], tasks: int) -> None:
    submit(1)  # connecting and declaring
    start = time.perf_counter()
    submit(tasks - 1)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    if sys.argv[1] == "taskiq":
        _taskiq(int(sys.argv[2]))
    else:
        _timed({"celery": _celery, "dramatiq": _dramatiq}[sys.argv[1]], int(sys.argv[2]))
