"""A reader of a queue's events: plain pika, from the first one that is left. `python reader.py task_queue`

The same event may come twice; docs/lifecycle.md says which one counts.
"""

import json
import os
import sys

import pika

queue = sys.argv[1] if len(sys.argv) > 1 else "task_queue"


def callback(channel, method, properties, body):
    # Many events make one message: a line each. One without any is for those who write.
    for number, line in enumerate(body.splitlines(), start=1):
        event = json.loads(line)
        offset = properties.headers["x-stream-offset"] * 1024 + number
        print(offset, event["type"], event["id"], line.decode(), flush=True)
    channel.basic_ack(delivery_tag=method.delivery_tag)


connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost")))
channel = connection.channel()
channel.basic_qos(prefetch_count=100)
channel.basic_consume(
    queue=f"_qc.events.{queue}",
    on_message_callback=callback,
    arguments={"x-stream-offset": "first"},  # or a number: the offset of a message, to go on from it
)
channel.start_consuming()
