"""Private RabbitMQ nodes for a test: killed, started again on the same data, put together to a cluster."""

import signal
import subprocess
from contextlib import ExitStack, contextmanager

from .answers import listens, rabbitmq_version
from .leash import Leash
from .ports import free_port
from .release import COOKIE, Ports, environment, installed, prepare
from .waiting import wait_until

START_SECONDS = 90
"""A failure bound: a node takes some 5 s to start, and longer in a crowd."""

END_SECONDS = 20
"""A failure bound: how long the ports of a killed node may outlive it."""

CTL_SECONDS = 90
"""A failure bound for one call of rabbitmqctl."""


DEAD_LETTER_TIMEOUT = "dead_letter_worker_publisher_confirm_timeout 2000"
"""Milliseconds after which a message that leaves a step of the ladder and was not confirmed is sent once more.

It is three minutes elsewhere, for which no test waits.
"""

STREAMS = "rabbit_stream_coordinator"
"""What stands for all streams of a node among the names of what is replicated."""


class RabbitNode:
    """A node on free ports, with all it has in `folder`; it runs within `with`, and never longer than this process.

    `config` are lines for its rabbitmq.conf. Nodes of one cluster are made `beside` each other, with a folder each.
    `release` is the machine's own unless given.
    """

    def __init__(self, folder, *, config="", beside=None, release=None):
        self.folder = folder
        self._log = folder / "node.log"
        self.release = release or (beside.release if beside else installed())
        self.ports = Ports(free_port(), free_port(), beside.ports.epmd if beside else free_port())
        self.name = f"node-{self.ports.amqp}@localhost"
        self._beside = beside
        self._process = None
        self._ending = ExitStack()
        cookie = (beside.folder / COOKIE).read_text() if beside else None
        prepare(folder, config, cookie)
        self._environment = environment(folder, self.name, self.ports)
        self._environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += f" -rabbit {DEAD_LETTER_TIMEOUT}"

    def __enter__(self):
        with self._ending as ending:
            if not self._beside:
                ending.enter_context(port_mapper(self.release, self.folder, self.ports.epmd))
            ending.callback(self._end)
            self.start()
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *_):
        self._ending.close()

    def __repr__(self):
        return f"<RabbitNode {self.name}>"

    @property
    def url(self):
        return self.ports.url

    @property
    def port(self):
        """Where it speaks AMQP, on 127.0.0.1: for a proxy before it."""
        return self.ports.amqp

    def start(self):
        """Start it, also again on the data it has, and wait until it answers."""
        self.begin()
        return self.ready()

    def begin(self):
        """Start it. The nodes of a stopped cluster wait for each other, so begin all before waiting for one."""
        command = self.release.command(self.folder, "rabbitmq-server")
        self._process = Leash(command, environment=self._environment, log=self._log)

    def ready(self):
        """Wait until it answers. Raises NotThere, with the end of its log, when it does not."""
        wait_until(
            lambda: rabbitmq_version(self.port),
            f"{self} does not answer",
            seconds=START_SECONDS,
            log=self._log.read_text,
            alive=self._process.runs,
        )
        return self

    def stop(self):
        """In good order, as for an upgrade."""
        self._process.stop()

    def kill_9(self):
        """As the out-of-memory killer does it."""
        self._process.end()
        wait_until(lambda: not any(map(listens, self.ports[:2])), f"{self} outlives kill -9", seconds=END_SECONDS)

    def freeze(self):
        """It stands still, with its connections open, as a machine does that swaps; until `thaw`."""
        self._process.signal_all(signal.SIGSTOP)

    def thaw(self):
        self._process.signal_all(signal.SIGCONT)

    def ctl(self, *arguments):
        """`rabbitmqctl ARGUMENTS` on this node: what it said. Raises AssertionError, with all of it, when it failed."""
        done = subprocess.run(
            self.release.command(self.folder, "rabbitmqctl", *arguments),
            env=self._environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CTL_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def has_written_down(self, name):
        """Wait until it knows this quorum queue, or its streams (`STREAMS`), after a kill as well.

        Until then, a second at most, 3.10.8 forgets for good that it has it.
        """
        wait_until(
            lambda: any(name.encode() in path.read_bytes() for path in self.folder.rglob("names.dets")),
            f"{self} has not written down that it has {name}",
            seconds=END_SECONDS,
        )

    def join(self, other):
        """Become a member of the other's cluster, and forget what it has itself."""
        self.ctl("stop_app")
        self.ctl("join_cluster", other.name)
        self.ctl("start_app")
        self.ready()

    def _end(self):
        if self._process:
            self.kill_9()


@contextmanager
def port_mapper(release, folder, port):
    """Erlang's epmd, by which the nodes of a cluster find each other: one of our own, so that it ends with them."""
    variables = environment(folder, "", Ports(0, 0, port))
    process = Leash(release.epmd(folder), environment=variables, log=folder / "epmd.log")
    try:
        wait_until(lambda: listens(port), "epmd does not start", seconds=END_SECONDS, alive=process.runs)
        yield
    finally:
        process.end()
