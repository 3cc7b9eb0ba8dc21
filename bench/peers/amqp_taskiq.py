"""Taskiq's no-op task over aio-pika, whose publishing is confirmed."""

import os

from lib import counted
from taskiq_aio_pika import AioPikaBroker, Queue
from taskiq_aio_pika.queue import QueueType

PREFETCH = 200
KIND = QueueType(os.environ.get("BENCH_KIND", "classic"))

broker = AioPikaBroker(
    os.environ.get("BENCH_AMQP_URL"),
    qos=PREFETCH,
    task_queues=[Queue(name="taskiq", type=KIND)],
    dead_letter_queue=Queue(name="taskiq.dead_letter", type=KIND),
)


@broker.task
async def noop() -> None:
    counted.ran()
