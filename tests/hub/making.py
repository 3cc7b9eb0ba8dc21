"""A hub over logs in memory, logs to write to, and clients that record what they get."""

import asyncio
import json
import random
import secrets
import time

import msgspec
from msgspec import Raw

from queuecast.brokers import Retention
from queuecast.brokers.base import end_of
from queuecast.brokers.memory import MemoryBroker
from queuecast.event import OutputEvent, Progress, ResultEvent, TaskEvent, TaskInfo
from queuecast.hub import cohort, fanout
from queuecast.hub.hub import Hub
from queuecast.sse import Parser
from queuecast.tail import Tail
from queuecast.task import Options, make_task, timestamp

BACKLOG = 2_000


async def until(condition):
    """Wait for a fact. One that never comes true ends with the test's bound."""
    while not condition():
        await asyncio.sleep(0.001)


def members_of_a_cohort(monkeypatch, number):
    monkeypatch.setattr(cohort, "MAX_MEMBERS", number)
    monkeypatch.setattr(fanout, "MAX_MEMBERS", number)
    monkeypatch.setattr(fanout, "SLICE", number)


class Run:
    """One task of a queue, and a worker that writes its events."""

    def __init__(self, broker, queue, owner):
        self.broker = broker
        self.queue = queue
        args = Raw(msgspec.json.encode({}))
        self.task = make_task(queue, "render", args, Options(owner=owner), now=time.time(), horizon=1e9)
        self.id = self.task.id
        self.name = secrets.token_hex(4)
        self.seq = 0

    async def begin(self):
        await self.broker.submit([self.task])
        await self._append(TaskEvent, task=self._info(None))
        return self

    async def progress(self, count=1, note=""):
        for _ in range(count):
            await self._append(TaskEvent, task=self._info(Progress(self.seq, note=note)))

    async def output(self, value):
        await self._append(OutputEvent, output=value, index=0)

    async def succeed(self, result="done"):
        await self._append(ResultEvent, state="succeeded", result=result)

    def _info(self, progress):
        return TaskInfo(id=self.id, name="render", state="running", attempt=1, progress=progress)

    def _append(self, kind, **payload):
        self.seq += 1
        known = {"id": self.id, "queue": self.queue, "attempt": 1, "owner": self.task.owner}
        event = kind(**known, run=self.name, seq=self.seq, time=timestamp(time.time()), **payload)
        return self.broker.append(self.queue, [event])


class World:
    """A broker, its tails and a hub."""

    def __init__(self, *, retention=None, backlog=BACKLOG, **options):
        self.broker = MemoryBroker(retention=retention or Retention())
        self.tails = {}
        self.backlog = backlog
        self.hub = Hub(self.broker, self.tail, **options)

    async def __aenter__(self):
        await self.broker.open()
        return self

    async def __aexit__(self, *_):
        await self.hub.stop()
        for tail in self.tails.values():
            await tail.stop()
        await self.broker.close()

    async def tail(self, queue):
        if queue not in self.tails:
            await self.broker.declare(queue)
            self.tails[queue] = Tail(self.broker, queue, self.backlog)
            await self.tails[queue].start()
        return self.tails[queue]

    async def run(self, queue="a", owner=None):
        return await Run(self.broker, queue, owner).begin()

    async def end(self, queue="a"):
        return str(await end_of(self.broker, queue))

    async def log(self, queue="a", after=0):
        """What the log holds after this offset, as clients see it."""
        last = (await self.broker.bounds(queue)).last
        events = []
        if after >= last:
            return events
        reader = self.broker.read(queue, after)
        async for entries in reader:
            events += [json.loads(entry.body) for entry in entries]
            if entries[-1].offset >= last:
                break
        await reader.aclose()
        return events

    async def settled(self, *queues):
        """Everything that is in the logs has been passed on."""
        for queue in queues or ("a",):
            last = (await self.broker.bounds(queue)).last
            await until(lambda queue=queue, last=last: self.tails[queue].at.offset >= last)
        followed = [each.fanout for each in self.hub._followed.values()]
        await until(lambda: not any(each._passing for each in followed))

    async def caught_up(self, *clients):
        """Each of them has all that its stream has."""
        for client in clients:
            await until(lambda client=client: client.sub.live and not client.sub.fanout._passing)

    async def follow(self, *queues, asked="", task=None, owner=None, named=False, client=None):
        """Open a stream as the gateway does."""
        followed = await self.hub.fanout(queues or ("a",), named)
        start = await self.hub.begin(followed, asked, task=task, owner=owner)
        client = client or Client()
        client.start = start
        client.sub = self.hub.open(followed, start, client, task=task, owner=owner)
        return client


class Client:
    """A sink that records. While `frozen` it takes nothing after what it has been given."""

    def __init__(self):
        self.written = []
        self.closed = False
        self.aborted = False
        self.waiting = 0
        self.sub = None
        self.write = self.written.append

    def backlog(self):
        return self.waiting

    def close(self):
        self.closed = True

    def abort(self):
        self.aborted = True

    def freeze(self, waiting=100_000):
        self.waiting = waiting
        self.sub.pause()

    def thaw(self):
        self.waiting = 0
        self.sub.resume()

    @property
    def bytes(self):
        return b"".join(self.written)

    @property
    def messages(self):
        return Parser().feed(self.bytes)

    @property
    def events(self):
        return [json.loads(message.data) for message in self.messages if message.event != "reset"]

    @property
    def resets(self):
        return [json.loads(message.data) for message in self.messages if message.event == "reset"]

    @property
    def cursor(self):
        parser = Parser()
        parser.feed(self.bytes)
        return parser.last_event_id


class Hesitant(Client):
    """Takes what it is given, but not always at once."""

    def __init__(self, seed):
        super().__init__()
        self.random = random.Random(seed)
        self.write = self._write

    def _write(self, data):
        self.written.append(data)
        if self.sub is not None and self.random.random() < 0.3 and self.sub.ready:
            self.sub.pause()
            asyncio.get_running_loop().call_later(self.random.random() * 0.01, self._go_on)

    def _go_on(self):
        if not self.sub.closed:
            self.sub.resume()
