"""The servers of `make brokers`: installed, started to stay, and stopped. All they have is in .brokers/."""

import os
import signal
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path

from . import compose, install, kafka
from .answers import kafka_answers, listens, rabbitmq_version
from .release import Ports, environment, installed, prepare
from .waiting import NotThere, wait_until

FOLDER = Path(__file__).parents[2] / ".brokers"

START_SECONDS = 90
"""A failure bound: RabbitMQ takes some 5 s to answer, and Kafka 3."""

STOP_SECONDS = 60
"""A failure bound: what has not ended by then is killed."""


class Server:
    """One of them. A subclass knows how it is installed, run and asked."""

    program = ""
    """What the command of its process contains."""

    def __init__(self, name, port, url):
        self.name = name
        self.url = url
        self._port = port
        self._folder = FOLDER / name
        self._log = self._folder / "server.log"
        self._pid_file = self._folder / "pid"
        self._in_compose = self._folder / "in-compose"

    def answers(self):
        """What it says it is, or None where it does not answer."""
        raise NotImplementedError

    def install(self):
        """See that it can be run here. Raises NotThere with the reason why it cannot."""
        raise NotImplementedError

    def prepare(self):
        """Make ready its folder; the command that runs it, and its environment."""
        raise NotImplementedError

    def clean_up(self):
        """End what its process leaves behind."""

    def start(self):
        """Until it answers. One that answers already is taken as it is, whoever has started it."""
        if already := self.answers():
            return self._say(f"{already} answers already")
        if self._pid():
            return self._wait(alive=self._pid)
        if listens(self._port):
            raise NotThere(f"something else listens on 127.0.0.1:{self._port}; end it first")
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self.install()
        except NotThere as reason:
            return self._start_in_compose(reason)
        return self._start_here()

    def stop(self):
        """Only what `start` has started."""
        if pid := self._pid():
            _end_group(pid)
            self.clean_up()
        elif self._in_compose.exists():
            compose.stop(self.name)
        else:
            return print(f"{self.name}: nothing that was started from here runs")
        self._pid_file.unlink(missing_ok=True)
        self._in_compose.unlink(missing_ok=True)
        return print(f"{self.name}: stopped")

    def _start_here(self):
        command, variables = self.prepare()
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=variables,
                cwd=self._folder,
                start_new_session=True,
            )
        self._pid_file.write_text(f"{process.pid}\n")
        self._wait(alive=lambda: process.poll() is None)

    def _start_in_compose(self, reason):
        if missing := compose.missing():
            raise NotThere(f"it cannot be run here: {reason}.\nIn a container neither: {missing}.")
        print(f"{self.name}: in a container, since it cannot be run here: {reason}", flush=True)
        compose.start(self.name)
        self._in_compose.touch()
        self._wait(log=lambda: compose.log(self.name))

    def _wait(self, log=None, alive=lambda: True):
        log = log or partial(self._log.read_text, errors="replace")
        said = wait_until(self.answers, "it does not answer", seconds=START_SECONDS, log=log, alive=alive)
        self._say(f"{said} answers")

    def _say(self, what):
        pid = self._pid()
        print(f"{self.name}: {what} at {self.url}" + (f" (pid {pid})" if pid else ""))

    def _pid(self):
        """Of the process that was started, if it runs still; not of another that has got its number since."""
        with suppress(FileNotFoundError, ValueError):
            pid = int(self._pid_file.read_text())
            if self.program in _ps("args=", "-p", pid):
                return pid
        return None


class RabbitMQ(Server):
    """The RabbitMQ that this machine has, or can install; or the one of another Debian in that root folder."""

    program = "rabbit"

    def __init__(self, name, ports, root=None):
        super().__init__(name, ports.amqp, ports.url)
        self._node = self._folder / "node"
        self._root = root
        self._environment = environment(self._node, f"{name}@localhost", ports)

    def answers(self):
        version = rabbitmq_version(self._port)
        return version and f"RabbitMQ {version}"

    def install(self):
        if self._root:
            install.debian_root(self._root, "rabbitmq-server")
        elif not installed():
            install.debian_packages("rabbitmq-server")

    def prepare(self):
        prepare(self._node)
        return installed(self._root).command(self._node, "rabbitmq-server"), self._environment

    def clean_up(self):
        # Erlang has started its port mapper by itself, as a daemon.
        mapper = installed(self._root).epmd(self._node, "-kill")
        subprocess.run(mapper, env=self._environment, capture_output=True, check=False)


class Kafka(Server):
    """A Kafka of one node."""

    program = "kafka.Kafka"

    def __init__(self, name, port, controller):
        super().__init__(name, port, f"kafka://127.0.0.1:{port}")
        self._controller = controller

    def answers(self):
        return "Kafka" if kafka_answers(self._port) else None

    def install(self):
        kafka.fetch(kafka.libs_in(self._folder))

    def prepare(self):
        return kafka.prepare(self._folder, kafka.libs_in(self._folder), self._port, self._controller), None


SERVERS = {
    server.name: server
    for server in (
        RabbitMQ("rabbitmq", Ports(amqp=5672, distribution=25682, epmd=4372)),
        RabbitMQ("rabbitmq-4", Ports(amqp=5674, distribution=25684, epmd=4374), FOLDER / "rabbitmq-4" / "root"),
        Kafka("kafka", 9092, controller=9093),
    )
}
"""By the names that they have on the command line and in compose.yaml."""


def _end_group(pid):
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGTERM)
        with suppress(NotThere):
            wait_until(lambda: not _group_runs(pid), "the end", seconds=STOP_SECONDS)
        os.killpg(pid, signal.SIGKILL)


def _group_runs(pid):
    """Whether anything of it runs still. The dead whom nobody has buried, as in many containers, do not count."""
    return any(not state.startswith("Z") for state in _ps("stat=", "-g", pid).split())


def _ps(shown, chosen_by, pid):
    return subprocess.run(["ps", "-o", shown, chosen_by, str(pid)], capture_output=True, text=True, check=False).stdout
