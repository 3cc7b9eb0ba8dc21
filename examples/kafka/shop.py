"""A queue of each kind: one with workers of queuecast's own, one whose workers are programs like worker.py.

`queuecast run shop:qc`
"""

import os

from queuecast import Queuecast

qc = Queuecast(os.environ.get("QUEUECAST_BROKER", "kafka://localhost"))
orders = qc.queue("orders")
qc.queue("task_queue", external=True, reply_within=60)


@orders.task
def total(prices: list[float]) -> float:
    return sum(prices)
