"""Publishing at a demanded rate over one keep-alive connection, pipelined, so that it is never the limit."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from lib import proc

PAUSE = 0.002  # between looks at the clock: events due meanwhile go out in one write


class Publisher:
    """Requests go out without waiting for answers; a thread reads those and throws them away."""

    def __init__(self, port: int, check: bytes) -> None:
        self._socket = socket.create_connection((proc.HOST, port), 30.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._check(check)
        threading.Thread(target=self._drain, daemon=True).start()

    def _check(self, request: bytes) -> None:
        """One request with its answer read: a wrong URL must not look like a slow server."""
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        if not answer.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"publishing was refused: {answer[:300]!r}")

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while self._socket.recv(65536):
                pass

    def at_rate(self, rate: float, seconds: float, request: Callable[[int, int], bytes]) -> int:
        """Send events as they fall due; request(first, last) makes the bytes of those from first to last - 1."""
        start = time.monotonic()
        sent = 0
        while (elapsed := time.monotonic() - start) < seconds:
            due = int(elapsed * rate) + 1
            if due > sent:
                self._socket.sendall(request(sent, due))
                sent = due
            next_due = start + sent / rate
            time.sleep(max(PAUSE, min(next_due, start + seconds) - time.monotonic()))
        return sent

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
