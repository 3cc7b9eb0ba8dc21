"""An application, a worker in the test's own event loop, and what the log tells of a task."""

import asyncio
from contextlib import aclosing, asynccontextmanager

from queuecast import Queuecast, TaskRef
from queuecast.brokers import CONTROL
from queuecast.brokers.memory import MemoryBroker
from queuecast.event import Event
from queuecast.lifecycle import kind_of
from queuecast.worker import Worker

BACKENDS = ("memory", "sqlite")


def url_of(backend: str, folder) -> str:
    return "memory://" if backend == "memory" else f"sqlite:///{folder}/work.db?sync=normal"


@asynccontextmanager
async def working(app: Queuecast, **options):
    """A worker of the application, gone again after the block."""
    session = await app.session()
    worker = Worker(app, session, **options)
    async with worker.running():
        yield worker


def word_of(event: Event) -> str:
    return event.state if event.type == "result" else kind_of(event)


async def story(ref: TaskRef) -> list[str]:
    """All that happened to a task, in words, once it is over."""
    return [word_of(event) async for event in ref.events()]


async def until(ref: TaskRef, word: str) -> Event:
    """Wait for what the log will tell."""
    async with aclosing(ref.events()) as events:
        async for event in events:
            if word_of(event) == word:
                return event
    raise AssertionError(f"{ref} ended without {word}")


class Gate:
    """Where a test and a handler of its event loop meet: the handler says that it is here, the test lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def pass_through(self) -> None:
        self.reached.set()
        await self.opened.wait()


def hold_back_control_log(monkeypatch) -> asyncio.Event:
    """In memory: nobody can read it until the event is set, as with a server that does not answer."""
    let_go = asyncio.Event()
    read = MemoryBroker.read

    async def held_back(broker, queue, after):
        if queue == CONTROL:
            await let_go.wait()
        async with aclosing(read(broker, queue, after)) as reader:
            async for entries in reader:
                yield entries

    monkeypatch.setattr(MemoryBroker, "read", held_back)
    return let_go
