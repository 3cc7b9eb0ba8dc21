"""The usual stack: FastAPI + Celery on RabbitMQ + Redis pub/sub + sse-starlette, all started here.

RabbitMQ and Redis run on private ports and in the trial's folder, beside any that the machine has.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lib import proc, rabbitmq

NO_CPU = None  # five processes take turns on an idle system: the scheduler places them best itself


@contextlib.contextmanager
def gateway(folder: Path) -> Iterator[int]:
    """Yields the port of FastAPI, once a task has gone all the way through."""
    for module in ("fastapi", "celery", "redis", "sse_starlette", "uvicorn", "uvloop", "httptools"):
        proc.need(module)
    with contextlib.ExitStack() as stack:
        redis_port = stack.enter_context(_redis(folder))
        amqp_url = stack.enter_context(rabbitmq.node(folder, NO_CPU))
        env = {
            "BENCH_AMQP_URL": f"{amqp_url}/",
            "BENCH_REDIS_URL": f"redis://{proc.HOST}:{redis_port}/0",
        }
        celery = proc.python("-m", "celery", "-A", "peers.celery_app", "worker", "-P", "solo", "-l", "WARNING")
        log = folder / "celery.log"
        stack.enter_context(proc.running(celery, cpu=NO_CPU, env=env, cwd=proc.BENCH, log=log))
        port = proc.free_port()
        server = proc.uvicorn("peers.fastapi_app:app", port)
        process = stack.enter_context(proc.running(server, cpu=NO_CPU, env=env, log=folder / "uvicorn.log"))
        proc.wait_for_port(port, process)
        yield port


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[int]:
    program = proc.need_program("redis-server")
    port = proc.free_port()
    argv = [program, "--port", str(port), "--bind", proc.HOST, "--save", "", "--dir", str(folder)]
    with proc.running(argv, cpu=NO_CPU, log=folder / "redis.log") as process:
        proc.wait_for_port(port, process)
        yield port
