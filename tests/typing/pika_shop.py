"""A shop with plain pika workers that stay as they are."""

from queuecast import Queuecast

qc = Queuecast("amqp://localhost")
shop = qc.queue("task_queue", external=True, reply_within=60)  # plain pika workers run it


async def order(number: int) -> object:
    ref = await shop.submit("process_task", {"order": number}, timeout=30)
    return await ref.result(timeout=30)
