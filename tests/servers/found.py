"""The servers that this run of the tests has: by their addresses in the environment, or where `make brokers` puts them.

`need_…()` in a test or fixture gives one. Where it is missing the test is skipped, and in CI it fails.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from . import kafka
from .answers import kafka_answers, rabbitmq_version
from .local import FOLDER
from .release import installed


def need_rabbitmq():
    """The URL of a RabbitMQ."""
    return _need_rabbitmq("QUEUECAST_TEST_AMQP", 5672, "make brokers")


def need_rabbitmq_4():
    """The URL of a RabbitMQ 4.x."""
    return _need_rabbitmq("QUEUECAST_TEST_AMQP_4", 5674, "make brokers-4")


@contextmanager
def alone_on(url):
    """No other test uses this server meanwhile, of this run or another: what is ours is there once for all of them."""
    where = urlsplit(url)
    file = Path(tempfile.gettempdir(), f"queuecast-tests-{where.hostname}-{where.port}.lock")
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def need_kafka():
    """The `host:port` of a Kafka."""
    address = os.environ.get("QUEUECAST_TEST_KAFKA", "127.0.0.1:9092")
    host, _, port = address.rpartition(":")
    if not kafka_answers(int(port), host):
        _missing(f"no Kafka answers at {address} (QUEUECAST_TEST_KAFKA): `make brokers` starts one")
    return address


def need_rabbitmq_programs():
    """The release of RabbitMQ that private nodes are run with."""
    release = installed()
    if release is None:
        _missing("no rabbitmq-server is installed on this machine: `make brokers`, as root, installs it on Debian")
    return release


def need_rabbitmq_4_programs():
    """The release of RabbitMQ 4.x that private nodes are run with."""
    root = FOLDER / "rabbitmq-4" / "root"
    if os.geteuid() != 0:
        _missing("running the programs of another Debian takes root")
    release = installed(root)
    if release is None:
        _missing(f"no RabbitMQ 4.x is in {root}: `make brokers-4`, as root, puts one there on Debian")
    return release


def need_kafka_programs():
    """The folder with the jars that private nodes are run from."""
    libs = kafka.libs_in(FOLDER / "kafka")
    if not (libs.exists() and shutil.which("java")):
        _missing("no Kafka to run is on this machine: `make brokers` fetches one where it finds Java and Maven")
    return libs


def _need_rabbitmq(variable, port, command):
    url = os.environ.get(variable, f"amqp://guest:guest@127.0.0.1:{port}/")
    where = urlsplit(url)
    if not rabbitmq_version(where.port or 5672, where.hostname):
        # Not the whole URL, which may carry a password.
        _missing(f"no RabbitMQ answers at {where.hostname}:{where.port or 5672} ({variable}): `{command}` starts one")
    return url


def _missing(reason):
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
