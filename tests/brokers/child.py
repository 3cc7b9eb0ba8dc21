"""A process of its own on a store: `python -m brokers.child MAKER URL VERB …`, run by the contract's `Processes`.

It says on standard output what it did, once that is durable, so that a test knows what a kill must not undo.
"""

import asyncio
import importlib
import sys
from contextlib import aclosing

from queuecast.brokers import Broker, Delivery

from .making import QUEUE, Run, new_task


async def submit(broker: Broker, count: str) -> None:
    for _ in range(int(count)):
        [receipt] = await broker.submit([new_task()])
        print("submitted", receipt.id)


async def work(broker: Broker) -> None:
    print("ready")
    async with aclosing(broker.consume(QUEUE, 5, tell_lost)) as deliveries:
        async for delivery in deliveries:
            run = Run(delivery.task, delivery.attempt)
            await delivery.append(run.running())
            await delivery.ack(run.succeeded())
            print("ran", delivery.task.id)


async def hold(broker: Broker, how: str) -> None:
    async with aclosing(broker.consume(QUEUE, 1, tell_lost)) as deliveries:
        async for delivery in deliveries:
            if how == "begun":
                await delivery.append(Run(delivery.task, delivery.attempt).running())
            print("holds", delivery.task.id)


def tell_lost(delivery: Delivery) -> None:
    print("lost", delivery.task.id)


async def main(maker: str, url: str, verb: str, *arguments: str) -> None:
    module, _, function = maker.partition(":")
    broker: Broker = getattr(importlib.import_module(module), function)(url)
    await broker.open()
    await broker.declare(QUEUE)
    try:
        await {"submit": submit, "work": work, "hold": hold}[verb](broker, *arguments)
    finally:
        await broker.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
