"""What a benchmark of streams needs to know of the system it measures.

A subject is a name and a context manager `start(folder)` that starts a server process, pinned to
proc.SERVER_CPU, and yields a Server; it raises MissingError when the system is not installed here.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from lib.proc import HOST, Process

Event = tuple[int, bytes]  # for which stream (0-based; a broadcast ignores it), and its payload


@dataclass
class Server:
    process: Process  # whose CPU and memory count, with all its descendants
    port: int
    path: Callable[[int], str]  # of the i-th stream
    publish: Callable[[Sequence[Event]], bytes]  # raw HTTP for these events: one request or several
    publish_port: int | None = None  # where publishing is not the measured process's work


@dataclass(frozen=True)
class Subject:
    name: str
    start: Callable[[Path], AbstractContextManager[Server]]


def post(path: str, body: bytes, content_type: str = "application/json") -> bytes:
    """A raw HTTP request."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
