"""The load process: opens many SSE streams on raw sockets and counts what arrives, as cheaply as it can.

Started by sse_load.py. Its stdin gives one line of JSON with what to open, then one command a line:
`reset` starts a measurement, `report` ends it; each is answered with one line of JSON.
It ends with its stdin.
"""

import array
import contextlib
import gc
import json
import select
import socket
import sys
import time
from typing import Any

from lib.events import MARK, STAMP
from lib.proc import allow_open_files

AT_ONCE = 128  # opening connections in flight; servers' listen queues hold at least that
BUFFER = 1 << 18
READABLE = select.EPOLLIN | select.EPOLLET  # edge-triggered: a drained socket costs nothing until new data


class Streams:
    """All open connections of this process and what they have received since the last reset."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.address = (config["host"], config["port"])
        self.paths: list[str] = config["paths"]
        self.sockets: dict[int, socket.socket] = {}
        self.tails: dict[int, bytes] = {}  # sampled connection -> the end of its stream, maybe half a stamp
        self.poll = select.epoll()
        self.closed = 0
        self.reset()

    def reset(self) -> None:
        self.deliveries = 0
        self.bytes = 0
        self.latencies = array.array("q")
        self.began = time.monotonic()
        self.cpu_began = time.process_time()

    def report(self) -> dict[str, Any]:
        return {
            "seconds": time.monotonic() - self.began,
            "cpu_seconds": time.process_time() - self.cpu_began,
            "deliveries": self.deliveries,
            "bytes": self.bytes,
            "open": len(self.sockets),
            "closed": self.closed,
            "latencies_us": [value // 1000 for value in self.latencies],
        }

    def open(self, samples: int) -> None:
        """Open every path; returns when each one's response head has come."""
        waiting = list(reversed(self.paths))
        heads: dict[int, bytes] = {}
        while waiting or heads:
            while waiting and len(heads) < AT_ONCE:
                fd = self._connect(waiting.pop())
                heads[fd] = b""
            ready = self.poll.poll(30.0)
            if not ready:
                raise TimeoutError(f"{len(heads)} streams got no answer within 30 s")
            for fd, _ in ready:
                if fd in heads and self._head_complete(fd, heads):
                    del heads[fd]
        every = max(1, len(self.sockets) // samples) if samples else len(self.sockets) + 1
        self.tails = dict.fromkeys(list(self.sockets)[::every], b"")

    def _connect(self, path: str) -> int:
        sock = socket.create_connection(self.address, 30.0)
        request = f"GET {path} HTTP/1.1\r\nHost: {self.address[0]}\r\nAccept: text/event-stream\r\n\r\n"
        sock.sendall(request.encode())
        sock.setblocking(False)
        self.poll.register(sock.fileno(), READABLE)
        self.sockets[sock.fileno()] = sock
        return sock.fileno()

    def _head_complete(self, fd: int, heads: dict[int, bytes]) -> bool:
        try:
            got = self.sockets[fd].recv(BUFFER)
        except BlockingIOError:
            return False
        heads[fd] += got
        head, end, _ = heads[fd].partition(b"\r\n\r\n")
        if not got or (end and b" 200 " not in head.split(b"\r\n", 1)[0]):
            raise ConnectionError(f"a stream was refused: {head[:200]!r}")
        return bool(end)

    def pump(self, commands: Any) -> None:
        """Receive until a command comes."""
        control = commands.fileno()
        buffer = bytearray(BUFFER)
        count, poll, tails = buffer.count, self.poll.poll, self.tails
        receive = {fd: sock.recv_into for fd, sock in self.sockets.items()}
        while True:
            called = False
            for fd, _ in poll(-1, 8192):
                if fd == control:
                    called = True
                    continue
                size = BUFFER
                while size == BUFFER:
                    try:
                        size = receive[fd](buffer)
                    except BlockingIOError:
                        break
                    except OSError:
                        size = 0
                    if size == 0:
                        self._close(fd)
                        break
                    self.deliveries += count(MARK, 0, size)
                    self.bytes += size
                    if fd in tails:
                        self._sample(fd, bytes(buffer[:size]))
            if called:
                return

    def _sample(self, fd: int, data: bytes) -> None:
        now = time.monotonic_ns()
        data = self.tails[fd] + data
        end = 0
        for stamp in STAMP.finditer(data):
            self.latencies.append(now - int(stamp[1]))
            end = stamp.end()
        self.tails[fd] = data[max(end, len(data) - 64) :]

    def _close(self, fd: int) -> None:
        self.closed += 1
        self.poll.unregister(fd)
        self.sockets.pop(fd).close()


def main() -> None:
    allow_open_files()
    commands = sys.stdin.buffer.raw
    config = json.loads(_line(commands))
    streams = Streams(config)
    streams.open(config["samples"])
    streams.poll.register(commands.fileno(), select.EPOLLIN)
    gc.freeze()
    gc.disable()  # no pauses of our own in the latencies; a trial is short
    _answer({"open": len(streams.sockets)})
    while True:
        streams.pump(commands)
        command = _line(commands)
        if command == b"reset":
            streams.reset()
            _answer({})
        elif command == b"report":
            _answer(streams.report())
        else:
            return


def _line(source: Any) -> bytes:
    """Byte by byte: what follows the line must stay in the pipe, where epoll sees it."""
    line = b""
    while not line.endswith(b"\n") and (got := source.read(1)):
        line += got
    return line.strip()


def _answer(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
