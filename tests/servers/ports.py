"""Ports for servers that are started, killed and started again on the same one."""

import fcntl
import random
import socket
import tempfile
from pathlib import Path

PORTS = range(20_000, 30_000)
"""Below those that systems give to outgoing connections, one of which could otherwise take a dead gateway's port."""


_ours = []
"""Open files: a server of another test run may take seconds to listen on its port, and is not to find ours there."""


def free_port():
    """A port that nobody listens on, so that a server can have it again and again until this process ends."""
    for port in random.sample(PORTS, 100):
        if not _reserve(port):
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def _reserve(port):
    """Among all test runs of this machine."""
    folder = Path(tempfile.gettempdir(), "queuecast-ports")
    folder.mkdir(exist_ok=True)
    file = (folder / str(port)).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    _ours.append(file)
    return True
