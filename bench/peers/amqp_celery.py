"""Celery's no-op task: no result backend, nothing told to anybody."""

import os

from celery import Celery
from kombu import Queue
from lib import counted

KIND = os.environ.get("BENCH_KIND", "classic")

app = Celery("bench", broker=os.environ.get("BENCH_AMQP_URL", "amqp://") + "/")
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True
app.conf.broker_transport_options = {"confirm_publish": os.environ.get("BENCH_CONFIRMS") == "1"}
app.conf.task_queues = [Queue("celery", routing_key="celery", queue_arguments={"x-queue-type": KIND})]
# Delays by its own queues are what it offers beside quorum queues; here nothing is delayed.
app.conf.broker_native_delayed_delivery_queue_type = KIND


@app.task(name="noop")
def noop() -> None:
    counted.ran()
