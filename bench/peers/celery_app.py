"""The worker of the usual stack: a Celery task that tells its result on Redis pub/sub."""

import json
import os

import redis
from celery import Celery

app = Celery("bench", broker=os.environ.get("BENCH_AMQP_URL"))
app.conf.task_ignore_result = True  # the result goes out on pub/sub; a result backend would only slow it
app.conf.broker_connection_retry_on_startup = True
results = redis.Redis.from_url(os.environ.get("BENCH_REDIS_URL", "redis://"))


@app.task(name="noop", bind=True)
def noop(self) -> None:
    message = {"type": "result", "id": self.request.id, "state": "succeeded", "result": None}
    results.publish("results", json.dumps(message))
