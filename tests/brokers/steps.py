"""The steps that the contract's tests are made of: reading a log, working as a worker does."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple

import pytest

from queuecast.brokers import Broker, Delivery, Retention
from queuecast.brokers.base import Entry
from queuecast.codec import decode_event
from queuecast.event import Event, OutputEvent, ResultEvent, TaskEvent
from queuecast.lifecycle import Record, apply

from .making import QUEUE, Run, new_task

OTHER = "mail"

FAR = 3_600.0
"""Seconds: a time that no test waits for."""

SOON = 0.06
"""Seconds: a time that a test does wait for."""

IN_TIME = 1.0
"""Seconds: enough to begin a task in on a busy machine; a test does wait for their end."""

EARLY = 0.005
"""Seconds by which a backend's clock may run before ours."""


class Backend(NamedTuple):
    """What the suite must know of a backend and cannot ask."""

    url_for_processes: str | None = None
    """The store of this test as other processes reach it; None where none can."""
    maker: str = "queuecast.brokers:make_broker"
    """`module:function` that makes a broker of that URL in another process, for instance one with a short lease."""
    lost_within: float = 20.0
    """Seconds within which the deliveries of a process that died, or stands still, are handed to others."""
    atomic: bool = True
    """Whether a task becomes durable together with its first event, so that what is told of both is exact.

    Else a worker may be quicker than the first event, which the fold then refuses, and who follows no log knows only a
    place somewhere before it.
    """
    deals_in_parts: bool = False
    """What is in a part of a queue waits for the consumer that has the part, though another one has room."""


class Suite:
    @pytest.fixture
    def backend(self) -> Backend:
        return Backend()

    @pytest.fixture
    def open_fresh(self):
        """`open_broker` for a store of the same place and names, as it is after somebody has deleted this one."""
        pytest.skip("this backend's fixtures make no second store")

    @pytest.fixture
    def connect(self, open_broker):
        """One more connection to the store of this test, with its queue declared."""

        async def connect(retention: Retention = Retention()) -> Broker:  # noqa: B008 - immutable
            broker = await open_broker(retention)
            await broker.declare(QUEUE)
            return broker

        return connect


# Reading


async def read_until(
    broker: Broker, enough: Callable[[list[Entry]], bool], queue: str = QUEUE, *, after: int
) -> list[Entry]:
    """Read on, waiting for more, until it is enough."""
    entries: list[Entry] = []
    async with aclosing(broker.read(queue, after)) as batches:
        async for batch in batches:
            entries += batch
            if enough(entries):
                break
    return entries


async def entries_of(broker: Broker, queue: str = QUEUE, after: int | None = None) -> list[Entry]:
    """Everything that the log holds now, after an offset or from its beginning."""
    bounds = await broker.bounds(queue)
    start = bounds.first - 1 if after is None else after
    if start >= bounds.last:
        return []
    return await read_until(broker, lambda entries: entries[-1].offset >= bounds.last, queue, after=start)


async def log_of(broker: Broker, queue: str = QUEUE, after: int | None = None) -> list[Event]:
    return [decode_event(entry.body) for entry in await entries_of(broker, queue, after)]


def accepted(events: Iterable[Event]) -> list[Event]:
    """The events without those that the fold refuses."""
    records: dict[str, Record] = {}
    kept = []
    for event in events:
        record = apply(records.get(event.id), event)
        if record is not None:
            records[event.id] = record
            kept.append(event)
    return kept


async def shown(broker: Broker, of: str | None = None) -> list[Event]:
    """What subscribers see, of all tasks or of one."""
    return [event for event in accepted(await log_of(broker)) if of in (None, event.id)]


def story(events: list[Event]) -> list[str]:
    """The events as words, to compare with."""
    return [_word(event) for event in events]


def _word(event: Event) -> str:
    if isinstance(event, OutputEvent):
        return "output"
    return event.task.state if isinstance(event, TaskEvent) else event.state


async def results_of(broker: Broker, ids: Iterable[str]) -> dict[str, ResultEvent]:
    """The results of these tasks, waiting for those that are not there yet."""
    missing, results = set(ids), {}
    async with aclosing(broker.read(QUEUE, (await broker.bounds(QUEUE)).first - 1)) as batches:
        while missing:
            for entry in await anext(batches):
                event = decode_event(entry.body)
                if isinstance(event, ResultEvent) and event.id in missing:
                    results[event.id] = event
                    missing.remove(event.id)
    return results


async def result_of(broker: Broker, id: str) -> ResultEvent:
    return (await results_of(broker, [id]))[id]


# Working


def not_lost(delivery: Delivery) -> None:
    raise AssertionError(f"{delivery.task.id} was taken from a consumer that lives")


def consuming(broker: Broker, concurrency: int = 10, queue: str = QUEUE) -> aclosing[AsyncGenerator[Delivery, None]]:
    return aclosing(broker.consume(queue, concurrency, not_lost))


def run_of(delivery: Delivery) -> Run:
    return Run(delivery.task, delivery.attempt)


async def begin(delivery: Delivery, *, alone: bool = False) -> Run:
    run = run_of(delivery)
    await delivery.append(run.running(alone=alone))
    return run


async def finish(delivery: Delivery, run: Run | None = None) -> None:
    run = run or await begin(delivery)
    await delivery.ack(run.succeeded())


async def begin_to_take(broker: Broker, deliveries: AsyncGenerator[Delivery, None]) -> None:
    """Take something, so that it is not the beginning that takes longer than a task has."""
    await broker.submit([new_task("first")])
    await finish(await anext(deliveries))


async def work(broker: Broker, ran: list[str]) -> None:
    """A worker: runs whatever comes."""
    async with consuming(broker, concurrency=5) as deliveries:
        async for delivery in deliveries:
            ran.append(delivery.task.id)
            await finish(delivery)


async def outgrow(broker: Broker, offset: int) -> None:
    """Let one task's run report progress until the log has forgotten everything up to the offset."""
    await broker.submit([task := new_task("long")])
    run = Run(task)
    await broker.append(QUEUE, [run.running()])
    deadline = time.monotonic() + 10
    while (await broker.bounds(QUEUE)).first <= offset:
        assert time.monotonic() < deadline, "nothing is ever trimmed"
        await broker.append(QUEUE, [run.progress(note="x" * 1_000) for _ in range(5)])


async def outgrow_all(broker: Broker) -> None:
    await outgrow(broker, (await broker.bounds(QUEUE)).last)


async def turns() -> None:
    """Let whatever else is ready in this loop go on until it waits for something."""
    for _ in range(10):
        await asyncio.sleep(0)


async def a_round_trip(broker: Broker) -> None:
    """Long enough for what must not happen to happen."""
    await broker.post(b"{}")
    await turns()


@asynccontextmanager
async def meanwhile(*coroutines: Awaitable[None]):
    """These run beside the block, begun before it, and are stopped at its end.

    Where one fails, the test fails of that.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    await turns()
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
