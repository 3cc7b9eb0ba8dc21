"""Another process on a SQLite file: `python -m brokers.sqlite_child URL VERB …`. More verbs than child.py has."""

import asyncio
import os
import signal
import sys
from contextlib import aclosing

from queuecast.brokers import make_broker
from queuecast.brokers.base import Broker, Delivery
from queuecast.brokers.sqlite import duties
from queuecast.brokers.sqlite.store import Store

from . import child
from .making import QUEUE, Run, new_task

LEASE = 2.0
"""Seconds. Long enough for a busy machine, short enough to be waited for."""


def with_short_lease(url: str) -> Broker:
    duties.LEASE_SECONDS = LEASE
    return make_broker(url)


async def both(broker: Broker, count: str) -> None:
    """Submit so many tasks and work at the same time, until killed."""
    await asyncio.gather(child.submit(broker, count), child.work(broker))


async def outlast(broker: Broker) -> None:
    """Hold one task, begun; finish it only after it is lost."""
    lost = asyncio.Event()
    async with aclosing(broker.consume(QUEUE, 1, lambda _: lost.set())) as deliveries:
        delivery: Delivery = await anext(deliveries)
        run = Run(delivery.task, delivery.attempt)
        await delivery.append(run.running())
        print("holds", delivery.task.id)
        await lost.wait()
        await delivery.ack(run.succeeded("too late"))
        print("acked", delivery.task.id)


async def untouched(broker: Broker) -> None:
    """Hold one task of which nothing is told, until killed."""
    await child.hold(broker, "untouched")


async def die(broker: Broker, moment: str, number: str) -> None:
    """Work, and be killed just before or just after the commit of this number."""
    commit, left = Store._commit, int(number)

    def deadly(store, *arguments) -> None:
        nonlocal left
        left -= 1
        if left == 0 and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        commit(store, *arguments)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    Store._commit = deadly
    await child.work(broker)


async def storm(broker: Broker) -> None:
    """Submit without end, many at once."""

    async def one_after_another() -> None:
        while True:
            [receipt] = await broker.submit([new_task()])
            print("submitted", receipt.id)

    await asyncio.gather(*(one_after_another() for _ in range(8)))


async def main(url: str, verb: str, *arguments: str) -> None:
    broker = with_short_lease(url)
    await broker.open()
    await broker.declare(QUEUE)
    verbs = {"both": both, "outlast": outlast, "untouched": untouched, "die": die, "storm": storm}
    await verbs[verb](broker, *arguments)
    await broker.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
