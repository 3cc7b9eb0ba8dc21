"""A producer: plain pika. Publishes an order and prints the answer. `python producer.py 19.5 3.5`"""

import json
import os
import sys
import uuid

import pika

prices = [float(price) for price in sys.argv[1:]]

connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost")))
channel = connection.channel()
channel.confirm_delivery()
replies = channel.queue_declare(queue="", exclusive=True).method.queue
correlation_id = str(uuid.uuid4())

channel.basic_publish(
    exchange="",
    routing_key="orders",
    properties=pika.BasicProperties(
        type="total",
        content_type="application/json",
        delivery_mode=pika.DeliveryMode.Persistent,
        reply_to=replies,
        correlation_id=correlation_id,
    ),
    body=json.dumps({"prices": prices}),
    mandatory=True,  # raises UnroutableError where there is no such queue: shop.py declares it
)

for _, properties, body in channel.consume(replies, auto_ack=True):
    if properties.correlation_id == correlation_id:
        failed = properties.headers and "error" in properties.headers
        print("failed:" if failed else "answer:", body.decode(), flush=True)
        break

connection.close()
