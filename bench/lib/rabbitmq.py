"""A RabbitMQ node of the machine's own package, beside any that runs here, for as long as a benchmark takes."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from lib import proc

SCRIPTS = "/usr/lib/rabbitmq/lib"  # Debian's wrapper insists on its own user; these do not
START = 60.0  # seconds it may take


@contextlib.contextmanager
def node(folder: Path, cpu: int | None) -> Iterator[str]:
    """A fresh node, kept in this folder, on this CPU if one is given. Yields the address of its virtual host /."""
    programs = sorted(Path(SCRIPTS).glob("rabbitmq_server-*/sbin"))
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
            proc.running([epmd, "-port", str(epmd_port), "-address", proc.HOST], cpu=cpu, log=folder / "epmd.log")
        )
        proc.wait_for_port(epmd_port)
        server = [str(programs[-1] / "rabbitmq-server")]
        process = stack.enter_context(proc.running(server, cpu=cpu, env=env, log=folder / "rabbitmq.log"))
        proc.wait_for_port(port, process, START)
        _await_startup(str(programs[-1] / "rabbitmqctl"), env)
        yield f"amqp://guest:guest@{proc.HOST}:{port}/"


def _await_startup(rabbitmqctl: str, env: dict[str, str]) -> None:
    """The port opens a little before the node is ready."""
    time.sleep(0.5)
    command = [rabbitmqctl, "await_startup", "--timeout", str(int(START))]
    subprocess.run(command, env={**os.environ, **env}, check=True, capture_output=True, timeout=START)
