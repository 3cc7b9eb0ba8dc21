"""Latency on an idle system: from submitting a task over HTTP to its result on an open SSE stream.

One request after the other, on one keep-alive connection; the stream is another. The usual stack
(FastAPI, Celery on RabbitMQ, Redis pub/sub, sse-starlette) answers the same routes and bodies.
Beside them is what the servers alone take of it: a task's message to a plain worker and its answer
back, on RabbitMQ and on Kafka, and a message through a RabbitMQ stream.
Nothing is pinned here: an idle system lets each process run where it wakes fastest.
"""

import argparse
import contextlib
import gc
import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ours
from lib import http_load, options, proc, report, subject, trials
from peers import celery_stack, raw_kafka, raw_pika

QUEUE = "noop"
REQUEST = subject.post(f"/queues/{QUEUE}/tasks", b'{"name":"noop","args":{}}')
STREAM = f"GET /queues/{QUEUE}/events HTTP/1.1\r\nHost: {proc.HOST}\r\nAccept: text/event-stream\r\n\r\n"
PATIENCE = 30.0  # seconds for one result; the first waits until the worker is there


@dataclass(frozen=True)
class Stack:
    name: str
    start: Callable[[Path], AbstractContextManager[Callable[[], float]]]  # yields what runs one task, in ms


class Client:
    """A submitting connection and an open stream; knows when both the answer and the result have come."""

    def __init__(self, port: int) -> None:
        self.submit = _connect(port)
        self.stream = _connect(port)
        self.stream.sendall(STREAM.encode())
        self.unread = b""
        self._await_head()

    def _await_head(self) -> None:
        while b"\r\n\r\n" not in self.unread:
            got = self.stream.recv(65536)
            self.unread += got
            if not got or not self.unread.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the stream was refused: {self.unread[:300]!r}")
        self.unread = self.unread.partition(b"\r\n\r\n")[2]

    def run_task(self) -> float:
        """Milliseconds until the task's result stands on the stream."""
        answer, results = b"", {}
        began = time.perf_counter()
        self.submit.sendall(REQUEST)
        while True:
            ready, _, _ = select.select([self.submit, self.stream], [], [], PATIENCE)
            if not ready:
                raise TimeoutError(f"no result within {PATIENCE:g} s; answer so far: {answer[-300:]!r}")
            if self.stream in ready:
                results.update(dict.fromkeys(self._results(), time.perf_counter()))
            if self.submit in ready:
                answer += self.submit.recv(65536)
            if answer and results and http_load.complete(answer):
                task = json.loads(answer.partition(b"\r\n\r\n")[2])["id"]
                if task in results:
                    return (results[task] - began) * 1000

    def _results(self) -> list[str]:
        """Ids of the tasks whose result has come with what can be read now.

        Lines are looked at alone: a chunk's size may stand between them, but servers keep each
        event's data within a line.
        """
        got = self.stream.recv(65536)
        if not got:
            raise ConnectionError("the stream has ended")
        *lines, self.unread = (self.unread + got).split(b"\n")
        events = [json.loads(line[5:]) for line in lines if line.startswith(b"data:")]
        return [event["id"] for event in events if event["type"] == "result"]

    def close(self) -> None:
        self.submit.close()
        self.stream.close()


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection((proc.HOST, port), PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@contextlib.contextmanager
def over_http(gateway: Callable[[Path], AbstractContextManager[int]], folder: Path) -> Iterator[Callable[[], float]]:
    """`gateway` yields its port."""
    with gateway(folder) as port, closing(Client(port)) as client:
        yield client.run_task


SUBJECTS = (
    Stack("queuecast", partial(over_http, ours.task_gateway)),
    Stack("queuecast_rabbitmq", partial(over_http, ours.task_gateway_rabbitmq)),
    Stack("queuecast_kafka", partial(over_http, ours.task_gateway_kafka)),
    Stack("fastapi_celery_rabbitmq_redis", partial(over_http, celery_stack.gateway)),
    Stack("pika_request_reply", raw_pika.request_reply),
    Stack("pika_stream", raw_pika.stream),
    Stack("confluent_kafka_round_trip", raw_kafka.round_trip),
)


def trial(stack: Stack, chosen: argparse.Namespace) -> trials.Figures:
    with proc.workdir() as folder, stack.start(folder) as run_task:
        for _ in range(chosen.warmup):
            run_task()
        gc.disable()
        try:
            took = [run_task() for _ in range(chosen.requests)]
        finally:
            gc.enable()
    return report.spread(took)


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--warmup", type=int, default=50, help="requests before the first that counts")
    chosen = parser.parse_args()

    subjects = options.chosen(SUBJECTS, chosen, pin=False)
    results = trials.interleaved({(s.name, "idle"): partial(trial, s, chosen) for s in subjects}, chosen.rounds)
    report.emit("latency", vars(chosen), results)


if __name__ == "__main__":
    main()
