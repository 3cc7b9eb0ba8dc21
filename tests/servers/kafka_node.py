"""Private Kafka nodes for a test: killed, started again on the same data, three of them put together to a cluster."""

import signal
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from confluent_kafka.admin import AdminClient

from . import kafka
from .answers import kafka_answers, listens
from .leash import Leash
from .ports import free_port
from .waiting import wait_until

START_SECONDS = 90
"""A failure bound: a node takes some 3 s to start, and longer in a crowd."""

END_SECONDS = 20
"""A failure bound: how long the ports of a killed node may outlive it."""

SESSION_MS = 3_000
HEARTBEAT_MS = 500
"""Milliseconds until it is noticed that a node is gone, by itself as well when it is back, and between the signs of
life that put it off: 9,000 and 2,000 by default. With few of them to a session, a node that is merely slow is put out.
"""


class Ports(NamedTuple):
    """The ports of a node, all on 127.0.0.1."""

    clients: int
    controller: int
    behind_proxy: int
    proxy: int
    """Where a proxy before it has to listen: who comes by `behind_proxy` is sent there with all that follows."""


def free_ports():
    return Ports(*(free_port() for _ in Ports._fields))


class KafkaNode:
    """A node on free ports, with all it has in `folder`; it runs within `with`, and never longer than this process.

    `members` are the ports of all nodes of its cluster, which it is one of; `lines` are settings, in the place of ours.
    """

    def __init__(self, folder, libs, *, ports=None, members=(), lines=()):
        folder.mkdir(parents=True, exist_ok=True)
        self.ports = ports or free_ports()
        self._log = folder / "node.log"
        self._process = None
        settings = kafka.write_settings(
            folder,
            [*_listening(self.ports), *_quorum(self.ports, members), *_noticing(), *lines],
            node=members.index(self.ports) + 1 if members else 1,
            replicas=len(members) or 1,
        )
        kafka.format_data(libs, settings, *([] if members else ["--standalone"]))
        self._command = kafka.command(libs, settings, kafka.BRIEF)

    def __enter__(self):
        with ExitStack() as ending:
            ending.callback(self.__exit__)
            self.start()
            ending.pop_all()
        return self

    def __exit__(self, *_):
        if self._process:
            self.kill_9()

    def __repr__(self):
        return f"<KafkaNode {self.address}>"

    @property
    def address(self):
        return f"127.0.0.1:{self.ports.clients}"

    @property
    def url(self):
        return f"kafka://{self.address}"

    def start(self):
        """Start it, also again on the data it has, and wait until it answers."""
        self.begin()
        return self.ready()

    def begin(self):
        """Start it. The nodes of a cluster wait for each other, so begin all before waiting for one."""
        self._process = Leash(self._command, environment=None, log=self._log)

    def ready(self):
        """Wait until it answers. Raises NotThere, with the end of its log, when it does not."""
        wait_until(
            lambda: kafka_answers(self.ports.clients),
            f"{self} does not answer",
            seconds=START_SECONDS,
            log=self._log.read_text,
            alive=self.runs,
        )
        return self

    def runs(self):
        return self._process.runs()

    def stop(self):
        """In good order, as for an upgrade."""
        self._process.stop()

    def kill_9(self):
        """As the out-of-memory killer does it."""
        self._process.end()
        wait_until(lambda: not listens(self.ports.clients), f"{self} outlives kill -9", seconds=END_SECONDS)

    def freeze(self):
        """It stands still, with its connections open, as a machine does that swaps; until `thaw`."""
        self._process.signal_all(signal.SIGSTOP)

    def thaw(self):
        self._process.signal_all(signal.SIGCONT)


@contextmanager
def cluster(folder, libs, nodes=3):
    """So many nodes, of which each has all, and that take what most of them have."""
    members = [free_ports() for _ in range(nodes)]
    made = [KafkaNode(folder / str(ports.clients), libs, ports=ports, members=members) for ports in members]
    with ExitStack() as ending:
        for node in made:
            ending.callback(node.__exit__)
            node.begin()
        for node in made:
            node.ready()
        admin = AdminClient({"bootstrap.servers": made[0].address})
        wait_until(
            lambda: len(admin.list_topics(timeout=START_SECONDS).brokers) == nodes,
            "the nodes have not found each other",
            seconds=START_SECONDS,
            alive=lambda: all(node.runs() for node in made),
        )
        yield made


def leader_of(topic, nodes):
    """The node that leads its first partition."""
    return nodes[_admin(nodes).list_topics(topic, timeout=START_SECONDS).topics[topic].partitions[0].leader - 1]


def whole(nodes):
    """Wait until every partition has all its replicas in step, so that the next loss is the only one."""
    admin = _admin(nodes)
    wait_until(
        lambda: all(
            len(partition.isrs) == len(nodes)
            for topic in admin.list_topics(timeout=START_SECONDS).topics.values()
            for partition in topic.partitions.values()
        ),
        "not every replica has come back",
        seconds=START_SECONDS,
    )


def _admin(nodes):
    return AdminClient({"bootstrap.servers": ",".join(node.address for node in nodes)})


def _listening(ports):
    open_to_all = [f"PLAINTEXT://127.0.0.1:{ports.clients}", f"CONTROLLER://127.0.0.1:{ports.controller}"]
    return [
        f"listeners={','.join([*open_to_all, f'PROXY://127.0.0.1:{ports.behind_proxy}'])}",
        f"advertised.listeners={','.join([*open_to_all, f'PROXY://127.0.0.1:{ports.proxy}'])}",
    ]


def _noticing():
    return [f"broker.session.timeout.ms={SESSION_MS}", f"broker.heartbeat.interval.ms={HEARTBEAT_MS}"]


def _quorum(ports, members):
    if not members:
        return [f"controller.quorum.bootstrap.servers=127.0.0.1:{ports.controller}"]
    voters = ",".join(f"{number}@127.0.0.1:{each.controller}" for number, each in enumerate(members, 1))
    # In a crowd they would elect each other in turn all the time.
    return [f"controller.quorum.voters={voters}", "controller.quorum.fetch.timeout.ms=5000"]
