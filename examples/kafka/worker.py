"""A worker: plain confluent-kafka, and nothing else. Start as many as the topic has partitions: `python worker.py`."""

import json
import os

from confluent_kafka import Consumer, Producer

KAFKA = {"bootstrap.servers": os.environ.get("KAFKA", "localhost:9092")}

consumer = Consumer(KAFKA | {"group.id": "word-counters", "auto.offset.reset": "earliest", "enable.auto.commit": False})
producer = Producer(KAFKA)
consumer.subscribe(["task_queue"])
print("waiting for tasks", flush=True)

while True:
    message = consumer.poll(1)
    if message is None or message.error():
        continue
    print("received", message.value().decode(), flush=True)
    headers = dict(message.headers())
    answer = {"words": len(json.loads(message.value())["text"].split())}
    producer.produce(
        headers["reply-to"].decode(),
        json.dumps(answer),
        headers={"correlation-id": headers["correlation-id"]},
    )
    producer.flush()
    consumer.commit(message)
