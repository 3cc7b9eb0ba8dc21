"""An application beside plain programs: an external queue that does not wait long, and orders that wait for a file."""

import asyncio
import os
from pathlib import Path

from queuecast import Queuecast

REPLY_WITHIN = 2
PAUSE_SECONDS = 0.01

qc = Queuecast()
qc.queue("task_queue", external=True, reply_within=REPLY_WITHIN)
orders = qc.queue("orders")


@orders.task
async def total(prices: list[float]) -> float:
    """Done once there is a file named GATE."""
    while not Path(os.environ["GATE"]).exists():
        await asyncio.sleep(PAUSE_SECONDS)
    return sum(prices)
