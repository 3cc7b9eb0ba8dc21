"""The worker in the manner of RabbitMQ's tutorials: one task at a time, acknowledged once it has been answered.

One that dies loses nothing: its task is handed to another.
"""

import json
import os
import time

import pika


def process_task(body):
    """The work. What it returns is the answer: plain text here, JSON in worker.py."""
    task = json.loads(body)
    time.sleep(task.get("seconds", 1))
    return f"{len(task['text'].split())} words"


def callback(channel, method, properties, body):
    print("received", body.decode(), flush=True)
    try:
        answer, headers = process_task(body), {}
    except Exception as error:  # whatever it is: a header named `error` says that the task has failed
        answer, headers = str(error), {"error": type(error).__name__}
    channel.basic_publish(
        exchange="",
        routing_key=properties.reply_to,
        properties=pika.BasicProperties(
            correlation_id=properties.correlation_id,
            delivery_mode=pika.DeliveryMode.Persistent,
            headers=headers,
        ),
        body=answer,
    )
    channel.basic_ack(delivery_tag=method.delivery_tag)


connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost")))
channel = connection.channel()
channel.queue_declare(queue="task_queue", durable=True)
channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue="task_queue", on_message_callback=callback)
print("waiting for tasks", flush=True)
channel.start_consuming()
