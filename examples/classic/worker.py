"""The worker: plain pika, and nothing else. Start as many as you like: `python worker.py`."""

import json
import os
import time

import pika


def process_task(body):
    """The work. What it returns is the answer: JSON here, plain text in worker_acks.py."""
    task = json.loads(body)
    time.sleep(task.get("seconds", 1))
    return json.dumps({"words": len(task["text"].split())})


def callback(channel, method, properties, body):
    print("received", body.decode(), flush=True)
    answer = process_task(body)
    channel.basic_publish(
        exchange="",
        routing_key=properties.reply_to,
        properties=pika.BasicProperties(correlation_id=properties.correlation_id),
        body=answer,
    )


connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost")))
channel = connection.channel()
channel.queue_declare(queue="task_queue", durable=True)
channel.basic_consume(queue="task_queue", on_message_callback=callback, auto_ack=True)
print("waiting for tasks", flush=True)
channel.start_consuming()
