"""A client of the gateway over plain sockets: requests, submitters that do not give up, and readers that come back."""

import asyncio
import itertools
import json
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

from queuecast.sse import Parser

from .workload import STEPS

PAUSE_SECONDS = 0.02
"""Between two tries at a gateway that is there and does not answer as it should."""


class Answer(NamedTuple):
    status: int
    headers: dict
    body: dict


async def request(port, method, path, body=None, **headers):
    """One request on a connection of its own. Raises `ConnectionError` where the answer was lost."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        raise ConnectionError from error
    try:
        writer.write(_request(method, path, body, headers))
        status, answered = await _answer_head(reader)
        content = await reader.readexactly(int(answered.get("content-length", 0)))
    except (OSError, EOFError) as error:
        raise ConnectionError from error
    finally:
        writer.transport.abort()
    return Answer(status, answered, json.loads(content) if content else {})


@asynccontextmanager
async def unread(port, method, path, body, **headers):
    """A request whose answer nobody reads."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_request(method, path, body, headers))
        yield
    finally:
        writer.transport.abort()


def _request(method, path, body, headers):
    content = b"" if body is None else json.dumps(body).encode()
    kind = {"content_type": "application/json", "content_length": len(content)} if content else {}
    return _head(method, path, connection="close", **kind, **headers) + content


def _head(method, path, **headers):
    fields = {"host": "127.0.0.1", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _answer_head(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = (line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), {name.lower(): value for name, value in fields}


# Gateways


class Gateways:
    """Where clients find a gateway: whichever is up. A test says what comes and goes."""

    def __init__(self):
        self._up = []
        self._turn = itertools.count()
        self._some = asyncio.Event()

    def up(self, port):
        self._up.append(port)
        self._some.set()

    def down(self, port):
        self._up.remove(port)
        if not self._up:
            self._some.clear()

    async def any(self):
        """A port, each time another one; waits while there is none."""
        while not self._up:  # it may be gone again before who was woken gets its turn
            await self._some.wait()
        return self._up[next(self._turn) % len(self._up)]


# Submitting


@dataclass(frozen=True)
class Work:
    """What is asked for."""

    queue: str
    name: str
    number: int
    gate: str = ""

    @property
    def body(self):
        gate = {"gate": self.gate} if self.gate else {}
        return {"name": self.name, "args": {"number": self.number, **gate}}

    @property
    def attempts(self):
        return 2 if self.name == "refusing" else 1

    def is_done_by(self, events):
        """Whether these events of a task tell of this work, done in as many attempts as it takes."""
        result = events[-1]
        if (result["queue"], result.get("state"), result["attempt"]) != (self.queue, "succeeded", self.attempts):
            return False
        if "streaming" not in self.name:
            return result["result"] == self.number
        outputs = [event["output"] for event in events if event["type"] == "output" and event["run"] == result["run"]]
        wanted = [self.number + step for step in range(STEPS)]
        # Once another run has begun, a superseded one is told no more of but its result, where that comes first.
        superseded = [event["run"] for event in events[:-1] if event.get("run")][-1] != result["run"]
        return outputs == (wanted[: len(outputs)] if superseded else wanted)


KINDS = (
    ("reports", "awaited"),
    ("tokens", "streaming"),
    ("reports", "threaded"),
    ("pictures", "separate"),
    ("tokens", "threaded_streaming"),
    ("reports", "awaited"),
    ("tokens", "refusing"),
)


class Submitter:
    """Submits work of every kind, without end; sends it again with the same key until it is accepted."""

    def __init__(self, gateways):
        self.accepted = {}
        self.refusals = []
        self._gateways = gateways
        self._works = (Work(*kind, number) for number, kind in enumerate(itertools.cycle(KINDS)))
        self._stopping = False

    async def submit_steadily(self, room):
        """Until `stop`; several may do so at once. `room` waits for when there may be one more."""
        while not self._stopping:
            await room()
            await self.submit(next(self._works))

    def stop(self):
        self._stopping = True

    async def submit(self, work):
        path, key = f"/queues/{work.queue}/tasks", f'"{work.name}-{work.number}"'
        while True:
            port = await self._gateways.any()
            with suppress(ConnectionError):
                answer = await request(port, "POST", path, work.body, idempotency_key=key)
                if answer.status == 202:
                    break
                self.refusals.append(answer)
            await asyncio.sleep(PAUSE_SECONDS)
        id = answer.body["id"]
        assert self.accepted.setdefault(id, work) == work, f"{id} stands for two"
        return id


# Reading


class Reader:
    """An EventSource as a browser has it: over as many connections as it takes, each with the last id as its start.

    It comes back the moment there is a gateway, which is harder than a browser's pause of a second or two.
    """

    def __init__(self, gateways, *queues):
        self.queues = queues
        self.ids = []
        self.events = []
        self.results = Counter()
        self.resets = []
        self.drains = []
        """What the gateways said that sent it away."""
        self.connections = 0
        self.last_id = ""
        self._gateways = gateways
        self._path = _path_of(queues)
        self._news = asyncio.Event()

    def __repr__(self):
        return f"<Reader of {self._path}: {len(self.events)} events over {self.connections} connections>"

    async def follow(self):
        """Until it is cancelled."""
        while True:
            port = await self._gateways.any()
            events = len(self.events)
            with suppress(OSError):
                await self._follow_once(port)
            if len(self.events) == events:
                await asyncio.sleep(PAUSE_SECONDS)

    async def _follow_once(self, port):
        """One connection, to its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            resume = {"last_event_id": self.last_id} if self.last_id else {}
            writer.write(_head("GET", self._path, accept="text/event-stream", **resume))
            try:
                status, headers = await _answer_head(reader)
            except EOFError:
                return
            assert (status, "transfer-encoding" in headers) == (200, False), (status, headers)
            self.connections += 1
            await self._take(reader)
        finally:
            writer.transport.abort()

    async def _take(self, reader):
        parser = Parser(self.last_id)
        while chunk := await reader.read(1 << 16):
            for message in parser.feed(chunk):
                self._note(message)
            self.last_id = parser.last_event_id
            self._news.set()

    def _note(self, message):
        data = json.loads(message.data)
        if message.event == "reset":
            self.resets.append(data)
        elif message.event == "drain":
            self.drains.append(data)
        else:
            self.ids.append(message.id)
            self.events.append(data)
            if data["type"] == "result":
                self.results[data["id"]] += 1

    async def until(self, condition):
        """Until it holds; looked at whenever something came."""
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def until_told_of(self, accepted):
        """Until all of these tasks that are its queues' have ended."""
        ids = {id for id, work in accepted.items() if work.queue in self.queues}
        await self.until(lambda: self.results.keys() >= ids)


def _path_of(queues):
    """From the first event on."""
    if len(queues) == 1:
        return f"/queues/{queues[0]}/events?after=first"
    return "/events?after=first" + "".join(f"&queue={queue}" for queue in queues)


async def whole_log(port, queue):
    """The queue's log by a fresh stream from its first event to where a list says that it ends; and the ids."""
    answer = await request(port, "GET", f"/queues/{queue}/tasks?limit=1")
    gateways = Gateways()
    gateways.up(port)
    reader = Reader(gateways, queue)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(reader.follow())
        await reader.until(lambda: reader.last_id == answer.body["cursor"])
        following.cancel()
    assert (reader.connections, reader.resets) == (1, [])
    return reader
