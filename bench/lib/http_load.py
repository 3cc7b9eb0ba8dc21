"""Closed-loop HTTP load: keep-alive connections that each send a request, await its answer, send the next.

One process, raw sockets and epoll, run in the caller. Answers must carry Content-Length.
"""

import contextlib
import itertools
import re
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lib import proc

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class HttpLoad:
    seconds: float = 0.0
    answers: int = 0
    refused: int = 0  # answers other than 2xx
    busy: float = 0.0  # of this process's CPU
    latencies_ms: list[float] = field(default_factory=list)


@dataclass
class _Connection:
    socket: socket.socket
    sent: float = 0.0
    received: bytes = b""


def closed_loop(
    port: int, request: Callable[[int], bytes], *, connections: int, warmup: float, seconds: float
) -> HttpLoad:
    """Send request(0), request(1), … over `connections` connections; count what is answered after the warm-up.

    Both use the same connections: event loops accept new ones one a turn, which under load takes a
    while and would look like slow answers.
    """
    with select.epoll() as poll, contextlib.ExitStack() as stack:
        open_ones = {}
        for _ in range(connections):
            connection = _Connection(stack.enter_context(socket.create_connection((proc.HOST, port), 10.0)))
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poll.register(connection.socket.fileno(), select.EPOLLIN)
            open_ones[connection.socket.fileno()] = connection
        requests = map(request, itertools.count())
        for connection in open_ones.values():
            _send(connection, next(requests))
        _exchange(poll, open_ones, requests, warmup)
        return _exchange(poll, open_ones, requests, seconds)


def _exchange(
    poll: select.epoll, open_ones: dict[int, _Connection], requests: Iterator[bytes], seconds: float
) -> HttpLoad:
    load = HttpLoad()
    began, cpu_began = time.perf_counter(), time.process_time()
    while time.perf_counter() < began + seconds:
        for fd, _ in poll.poll(1.0):
            connection = open_ones[fd]
            if not _receive(connection):
                continue
            load.latencies_ms.append((time.perf_counter() - connection.sent) * 1000)
            load.answers += 1
            load.refused += connection.received[9:10] != b"2"  # the status after `HTTP/1.1 `
            connection.received = b""
            _send(connection, next(requests))
    load.seconds = time.perf_counter() - began
    load.busy = (time.process_time() - cpu_began) / load.seconds
    return load


def _send(connection: _Connection, request: bytes) -> None:
    connection.sent = time.perf_counter()
    connection.socket.sendall(request)


def _receive(connection: _Connection) -> bool:
    """Read what is there; is the answer complete?"""
    got = connection.socket.recv(65536)
    if not got:
        raise ConnectionError("the server has closed a keep-alive connection")
    connection.received += got
    return complete(connection.received)


def complete(answer: bytes) -> bool:
    """Has the whole answer, head and body, come?"""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    length = LENGTH.search(answer, 0, end + 2)
    if length is None:
        raise RuntimeError(f"an answer without Content-Length: {answer[:300]!r}")
    return len(answer) >= end + 4 + int(length[1])
