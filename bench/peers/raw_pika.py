"""RabbitMQ alone, by pika's blocking connection: what any system on it has to wait for at least.

Run as a program, `python -m peers.raw_pika URL` is the worker: it answers to `reply_to` at once.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib import proc, rabbitmq

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

QUEUE = "noop"
STREAM = "events"
BODY = b'{"name":"noop","args":{}}'
PATIENCE = 30.0  # seconds for one message
PERSISTENT = 2


@contextlib.contextmanager
def request_reply(folder: Path) -> Iterator[Callable[[], float]]:
    """A durable task to a classic queue, and its answer by a queue of the caller's own. Nothing is confirmed."""
    proc.need("pika")
    with rabbitmq.node(folder, None) as url, _channel(url) as channel:
        channel.queue_declare(QUEUE, durable=True)
        answers = channel.queue_declare("", exclusive=True).method.queue
        worker = proc.python("-m", "peers.raw_pika", url)
        with proc.running(worker, cpu=None, cwd=proc.BENCH, log=folder / "worker.log"):
            yield _exchange(channel, to=QUEUE, back=answers, reply_to=answers)


@contextlib.contextmanager
def stream(folder: Path) -> Iterator[Callable[[], float]]:
    """A message through a stream, to one who follows it."""
    proc.need("pika")
    with rabbitmq.node(folder, None) as url, _channel(url) as channel:
        channel.queue_declare(STREAM, durable=True, arguments={"x-queue-type": "stream"})
        channel.basic_qos(prefetch_count=100)
        yield _exchange(channel, to=STREAM, back=STREAM, arguments={"x-stream-offset": "next"})


def _exchange(
    channel: "BlockingChannel", *, to: str, back: str, arguments: dict[str, Any] | None = None, **properties: Any
) -> Callable[[], float]:
    import pika

    come: list[bytes] = []

    def take(channel: "BlockingChannel", method: Any, _: Any, body: bytes) -> None:
        come.append(body)
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(back, take, arguments=arguments)
    sent = pika.BasicProperties(delivery_mode=PERSISTENT, **properties)

    def once() -> float:
        come.clear()
        began = time.perf_counter()
        channel.basic_publish("", to, BODY, sent)
        while not come:
            channel.connection.process_data_events(PATIENCE)
            if time.perf_counter() - began > PATIENCE:
                raise TimeoutError(f"no answer within {PATIENCE:g} s")
        return (time.perf_counter() - began) * 1000

    return once


@contextlib.contextmanager
def _channel(url: str) -> "Iterator[BlockingChannel]":
    import pika

    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        connection.close()


def _work(url: str) -> None:
    with _channel(url) as channel:
        channel.basic_qos(prefetch_count=1)

        def answer(channel: "BlockingChannel", method: Any, properties: Any, body: bytes) -> None:
            channel.basic_publish("", properties.reply_to, body)
            channel.basic_ack(method.delivery_tag)

        channel.basic_consume(QUEUE, answer)
        channel.start_consuming()


if __name__ == "__main__":
    _work(sys.argv[1])
