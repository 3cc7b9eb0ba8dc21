"""A queue with workers of queuecast's own, for a producer that knows nothing of it. `queuecast run shop:qc`"""

import os

from queuecast import Queuecast

qc = Queuecast(os.environ.get("QUEUECAST_BROKER", "amqp://localhost"))
orders = qc.queue("orders")


@orders.task
def total(prices: list[float]) -> float:
    return sum(prices)
