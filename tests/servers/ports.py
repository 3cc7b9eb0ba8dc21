"""Ports for servers that are started, killed and started again on the same one."""

import random
import socket

PORTS = range(20_000, 30_000)
"""Below those that systems give to outgoing connections, one of which could otherwise take a dead gateway's port."""


def free_port():
    """A port that nobody listens on, so that a server can have it again and again."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")
