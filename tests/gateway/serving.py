"""A real server on a real socket, and a client that reads a stream byte by byte."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from typing import ClassVar
from urllib.parse import parse_qs

import uvicorn

from queuecast.gateway.server import StreamProtocol
from queuecast.gateway.streams import Streams
from queuecast.sse import Parser

PROTOCOLS = {"transport": StreamProtocol, "plain": "h11"}


class Face:
    """Streams alone, without the gateway's routes: `/events?queue=a&queue=b` and `/task/<id>`."""

    def __init__(self, hub):
        self.hub = hub
        self.streams = Streams(hub)

    async def __call__(self, scope, receive, send):
        query = parse_qs(scope["query_string"].decode())
        owner = query.get("owner", [None])[0]
        if scope["path"].startswith("/task/"):
            id = scope["path"].removeprefix("/task/")
            wish = {"queues": ("a",), "task": id, "unknown": not_found}
        else:
            wish = {"queues": query.get("queue", ["a"])}
        await self.streams.follow(scope, receive, send, owner=owner, **wish)


async def not_found(scope, receive, send):
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@asynccontextmanager
async def serving(app, http):
    """Yields the uvicorn server, listening on `.port`. Its end does not wait for open streams."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=http, ws="none", lifespan="off", log_config=None, timeout_keep_alive=60)
        server = uvicorn.Server(config)
        server.port = listener.getsockname()[1]
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.001)
        try:
            yield server
        finally:
            Reader.close_all()
            server.should_exit = server.force_exit = True
            await task


class Reader:
    """One request and its answer, read as it comes."""

    _open: ClassVar[list["Reader"]] = []

    def __init__(self, reader, writer):
        self._open.append(self)
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers = {}
        self.body = b""
        self.parser = Parser()
        self.messages = []

    @classmethod
    async def connect(cls, port, *, receive_buffer=None):
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except OSError:
            sock.close()
            raise
        return cls(*await asyncio.open_connection(sock=sock))

    @classmethod
    async def get(cls, port, path="/events", headers=None, *, method="GET", version="1.1", receive_buffer=None):
        client = await cls.connect(port, receive_buffer=receive_buffer)
        told = {"host": "test", **(headers or {})}
        lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in told.items())]
        client.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        await client.read_head()
        return client

    def widen(self):
        """Have room for what comes from now on: through a receive buffer of 4 kB it would trickle."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    async def read_head(self):
        head = await self.reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").strip().split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}

    async def read(self):
        """Some more of the body; empty at its end."""
        if self.headers.get("transfer-encoding") == "chunked":
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = (await self.reader.readexactly(size + 2))[:-2]
        else:
            data = await self.reader.read(65536)
        self.body += data
        self.messages += self.parser.feed(data)
        return data

    async def until(self, condition):
        """Read until this is true of the messages so far."""
        while not condition(self.messages):
            assert await self.read(), "the stream has ended"
        return self.messages

    async def opened(self):
        """Read the opening; returns the cursor of the start."""
        while b"\n\n" not in self.body:
            assert await self.read()
        return self.parser.last_event_id

    async def rest(self):
        while await self.read():
            pass
        self.close()
        return self.messages

    def events(self):
        return [json.loads(message.data) for message in self.messages if message.event == "message"]

    def close(self):
        self.writer.close()

    @classmethod
    def close_all(cls):
        while cls._open:
            cls._open.pop().close()
