"""A program of its own that submits: `python -m system.submitting HOW FIRST COUNT`.

It prints a line for each task once it is accepted: id, queue, name, number. `followed`: follows each task to its end,
as its result's receiver would; `sync`: without an event loop, as a cron job or a shell does.
"""

import asyncio
import sys
from itertools import cycle, islice

from .client import KINDS
from .workload import qc


def works(first, count):
    for number, (queue, name) in enumerate(islice(cycle(KINDS), count), first):
        yield qc.queues[queue].handlers[name], number


def tell(ref, handler, number):
    print(ref.id, handler.queue.name, handler.name, number)


def submit_all(first, count):
    for handler, number in works(first, count):
        tell(handler.submit_sync(number=number), handler, number)


async def submit_and_follow_all(first, count):
    async with qc.running(), asyncio.TaskGroup() as group:
        for handler, number in works(first, count):
            ref = await handler.submit(number=number)
            tell(ref, handler, number)
            group.create_task(follow(ref, handler, number))


async def follow(ref, handler, number):
    """By the events and by the result: they tell the same."""
    *_, last = [event async for event in ref.events()]
    result = await ref.result()
    assert (last.type, last.state) == ("result", "succeeded"), last
    assert result == (None if handler.signature.generates else number), (result, number)


if __name__ == "__main__":
    how, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if how == "followed":
        asyncio.run(submit_and_follow_all(first, count))
    else:
        submit_all(first, count)
