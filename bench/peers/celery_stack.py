"""The usual stack: FastAPI + Celery on RabbitMQ + Redis pub/sub + sse-starlette, all started here.

RabbitMQ and Redis run on private ports and in the trial's folder, beside any that the machine has.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from lib import proc

RABBITMQ_SCRIPTS = "/usr/lib/rabbitmq/lib"  # Debian's wrapper insists on its own user; these do not
START = 60.0  # seconds RabbitMQ may take
NO_CPU = None  # five processes take turns on an idle system: the scheduler places them best itself


@contextlib.contextmanager
def gateway(folder: Path) -> Iterator[int]:
    """Yields the port of FastAPI, once a task has gone all the way through."""
    for module in ("fastapi", "celery", "redis", "sse_starlette", "uvicorn", "uvloop", "httptools"):
        proc.need(module)
    with contextlib.ExitStack() as stack:
        redis_port = stack.enter_context(_redis(folder))
        amqp_port = stack.enter_context(_rabbitmq(folder))
        env = {
            "BENCH_AMQP_URL": f"amqp://guest:guest@{proc.HOST}:{amqp_port}//",
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


@contextlib.contextmanager
def _rabbitmq(folder: Path) -> Iterator[int]:
    programs = sorted(Path(RABBITMQ_SCRIPTS).glob("rabbitmq_server-*/sbin"))
    if not programs:
        raise proc.MissingError("rabbitmq-server is not installed (see bench/README.md)")
    epmd = proc.need_program("epmd")
    port, dist_port, epmd_port = proc.free_port(), proc.free_port(), proc.free_port()
    config = folder / "rabbitmq.conf"
    config.write_text(f"listeners.tcp.1 = {proc.HOST}:{port}\n")
    plugins = folder / "enabled_plugins"
    plugins.write_text("[].\n")
    env = {
        "HOME": str(folder),  # the Erlang cookie
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": proc.HOST,
        "RABBITMQ_NODENAME": f"bench{os.getpid()}@localhost",
        "RABBITMQ_DIST_PORT": str(dist_port),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_CONFIG_FILE": str(config),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_PID_FILE": str(folder / "rabbitmq.pid"),
    }
    with contextlib.ExitStack() as stack:
        # epmd would otherwise be started as a daemon that outlives us
        stack.enter_context(
            proc.running([epmd, "-port", str(epmd_port), "-address", proc.HOST], cpu=NO_CPU, log=folder / "epmd.log")
        )
        proc.wait_for_port(epmd_port)
        server = [str(programs[-1] / "rabbitmq-server")]
        process = stack.enter_context(proc.running(server, cpu=NO_CPU, env=env, log=folder / "rabbitmq.log"))
        proc.wait_for_port(port, process, START)
        _await_startup(str(programs[-1] / "rabbitmqctl"), env)
        yield port


def _await_startup(rabbitmqctl: str, env: dict[str, str]) -> None:
    """The port opens a little before the node is ready."""
    time.sleep(0.5)
    command = [rabbitmqctl, "await_startup", "--timeout", str(int(START))]
    subprocess.run(command, env={**os.environ, **env}, check=True, capture_output=True, timeout=START)
