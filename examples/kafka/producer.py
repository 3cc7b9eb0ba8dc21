"""A producer: plain confluent-kafka. Publishes an order and prints the answer. `python producer.py 19.5 3.5`"""

import json
import os
import sys
import uuid

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

KAFKA = {"bootstrap.servers": os.environ.get("KAFKA", "localhost:9092")}
ANSWERS = "order-answers"

prices = [float(price) for price in sys.argv[1:]]
correlation_id = str(uuid.uuid4())

admin = AdminClient(KAFKA)
admin.create_topics([NewTopic(ANSWERS, 1)])[ANSWERS].exception()  # it may be there

consumer = Consumer(KAFKA | {"group.id": "producers"})
consumer.assign([TopicPartition(ANSWERS, 0, OFFSET_BEGINNING)])  # everybody's answers are there

producer = Producer(KAFKA)
producer.produce(
    "orders",
    json.dumps({"prices": prices}),
    headers={"type": "total", "reply-to": ANSWERS, "correlation-id": correlation_id},
)
producer.flush()

while True:
    message = consumer.poll(1)
    if message is None or message.error():
        continue
    headers = dict(message.headers())
    if headers["correlation-id"].decode() == correlation_id:
        print("failed:" if "error" in headers else "answer:", message.value().decode(), flush=True)
        break

consumer.close()
