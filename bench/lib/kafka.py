"""A Kafka for as long as a benchmark takes; and what was made on one that is running goes again."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lib import proc

sys.path.append(str(proc.BENCH.parent / "tests"))  # which knows how one is run

START = 90.0  # seconds it may take


@contextlib.contextmanager
def node(folder: Path, cpu: int | None) -> Iterator[str]:
    """A fresh node of one broker, kept in this folder, on this CPU if one is given. Yields its host:port."""
    from servers import kafka, local
    from servers.answers import kafka_answers

    proc.need("confluent_kafka")
    libs = kafka.libs_in(local.FOLDER / "kafka")
    if not libs.exists():
        raise proc.MissingError("Kafka's jars are not here: `make brokers` fetches them")
    port = proc.free_port()
    command = kafka.prepare(folder, libs, port, proc.free_port())
    with proc.running(command, cpu=cpu, log=folder / "kafka.log") as process:
        deadline = time.monotonic() + START
        while not kafka_answers(port):
            if not process.alive() or time.monotonic() > deadline:
                raise RuntimeError(f"Kafka does not start: {process.tail()}")
            time.sleep(0.1)
        yield f"{proc.HOST}:{port}"


def make(address: str, *topics: str, partitions: int = 1) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": address})
    for made in admin.create_topics([NewTopic(topic, partitions) for topic in topics]).values():
        made.result()


def delete(address: str, *topics: str) -> None:
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": address})
    for deleted in admin.delete_topics([*topics]).values():
        deleted.result()
