"""Dramatiq's no-op task. It declares its queues as classic ones, whatever the virtual host would say."""

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from lib import counted

dramatiq.set_broker(
    RabbitmqBroker(
        url=os.environ.get("BENCH_AMQP_URL", "amqp://"), confirm_delivery=os.environ.get("BENCH_CONFIRMS") == "1"
    )
)


@dramatiq.actor
def noop() -> None:
    counted.ran()
