"""What our uvicorn does that uvicorn does not: the transport is taken over, heads have a deadline, signals drain."""

import asyncio
import json
import os
import resource
import signal
from contextlib import suppress
from functools import partial

import pytest
import uvicorn
import uvloop
from hub.making import World, until
from starlette.applications import Starlette
from starlette.routing import Mount

from queuecast import Queuecast
from queuecast.gateway import server as server_module
from queuecast.gateway.server import StreamProtocol, allow_streams, drain_at_signals, listen, serve
from queuecast.hub import window as window_module
from queuecast.hub.hub import MAX_STREAMS, OTHER_FILES, most_streams

from .serving import Face, Reader, hello, serving


async def test_an_open_stream_costs_no_task():
    async with World() as world, serving(Face(world.hub), StreamProtocol) as server:
        before = await Reader.get(server.port)
        await before.opened()
        tasks = len(asyncio.all_tasks())
        clients = [await Reader.get(server.port) for _ in range(20)]
        for client in clients:
            await client.opened()
        await until(lambda: not server.server_state.tasks)
        assert len(asyncio.all_tasks()) == tasks
        assert len(server.server_state.connections) == 21


async def test_a_middleware_that_holds_the_head_back_gets_the_plain_way():
    """As BaseHTTPMiddleware does: the application's `send` returns before the server has the head."""

    async def delaying(scope, receive, send):
        messages = asyncio.Queue()

        async def forward():
            while (message := await messages.get()) is not None:
                await asyncio.sleep(0.001)
                await send(message)

        forwarding = asyncio.create_task(forward())
        try:
            await face(scope, receive, messages.put)
        finally:
            messages.put_nowait(None)
            await forwarding

    async with World() as world, serving(delaying, StreamProtocol) as server:
        face = Face(world.hub)
        run = await world.run()
        client = await Reader.get(server.port)
        await client.opened()
        await run.output(1)
        await client.until(len)
        assert client.headers["transfer-encoding"] == "chunked"
        client.close()
        await until(lambda: world.hub.streams == 0)


async def test_old_and_new_http():
    async with World() as world, serving(Face(world.hub), StreamProtocol) as server:
        run = await world.run()
        for version in ("1.0", "1.1"):
            client = await Reader.get(server.port, "/events?after=first", version=version)
            await client.until(len)
            assert client.headers["connection"] == "close"
            assert "transfer-encoding" not in client.headers
        await run.progress()


async def test_head_has_no_body():
    async with World() as world, serving(Face(world.hub), StreamProtocol) as server:
        client = await Reader.get(server.port, method="HEAD", headers={"connection": "close"})
        assert client.status == 200
        assert client.headers["content-type"].startswith("text/event-stream")
        assert await client.reader.read() == b""
        assert world.hub.streams == 0


async def test_what_is_pipelined_behind_a_stream_is_never_answered():
    async with World() as world, serving(Face(world.hub), StreamProtocol) as server:
        run = await world.run()
        client = await Reader.connect(server.port)
        request = b"GET /events HTTP/1.1\r\nhost: test\r\n\r\n"
        client.writer.write(request + request)
        await client.read_head()
        await client.opened()
        client.writer.write(request + b"\x00 garbage")
        await run.output(1)
        await client.until(len)
        assert b"HTTP/1.1" not in client.body
        client.close()
        await until(lambda: world.hub.streams == 0)


async def test_a_stream_may_follow_other_requests_on_its_connection():
    async def app(scope, receive, send):
        await (face if scope["path"] == "/events" else hello)(scope, receive, send)

    async with World() as world, serving(app, StreamProtocol) as server:
        face = Face(world.hub)
        client = await Reader.connect(server.port)
        client.writer.write(b"GET / HTTP/1.1\r\nhost: t\r\n\r\nGET /events HTTP/1.1\r\nhost: t\r\n\r\n")
        await client.read_head()
        assert await client.reader.readexactly(5) == b"hello"
        await client.read_head()
        await client.opened()
        assert world.hub.streams == 1


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(server_module, "SWEEP_SECONDS", 0.02)


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nhost: t\r\nx-endless: "])
async def test_a_head_without_an_end_is_cut(head, impatient):
    async with serving(hello, StreamProtocol) as server:
        client = await Reader.connect(server.port)
        client.writer.write(head)
        await client.read_head()
        body = await client.reader.read()
        assert client.status == json.loads(body)["status"] == 408
        assert client.headers["content-type"] == "application/problem+json"
        assert client.headers["content-length"] == str(len(body))


async def test_a_head_that_is_too_large_is_told_so():
    async with serving(hello, StreamProtocol) as server:
        client = await Reader.connect(server.port)
        client.writer.write(b"GET / HTTP/1.1\r\nhost: test\r\nx: " + b"a" * server_module.MAX_HEAD_BYTES)
        await client.writer.drain()
        while not server.server_state.connections or not next(iter(server.server_state.connections)).head_bytes:
            await asyncio.sleep(0.001)
        client.writer.write(b"a")
        await client.read_head()
        body = await client.reader.read()
        assert client.status == json.loads(body)["status"] == 431


async def test_an_endless_head_is_cut_before_it_stalls_the_others():
    async with serving(hello, StreamProtocol) as server:
        client = await Reader.connect(server.port)
        client.writer.write(b"GET / HTTP/1.1\r\nhost: test\r\nx: ")
        sent = 0
        # What is still on its way when the server has answered 431 and closed comes back as a reset.
        with suppress(ConnectionError):
            while not client.reader.at_eof():
                client.writer.write(b"a" * 16_384)
                await client.writer.drain()
                sent += 16_384
                assert sent < 100 * server_module.MAX_HEAD_BYTES
        other = await Reader.get(server.port)
        assert other.status == 200


async def test_an_endless_trickle_is_cut(impatient):
    async with serving(hello, StreamProtocol) as server:
        client = await Reader.connect(server.port)
        client.writer.write(b"GET / HTTP/1.1\r\nx: ")
        answer = asyncio.create_task(client.read_head())
        while not answer.done():
            client.writer.write(b"y")
            await asyncio.sleep(0.01)
        assert client.status == 408


async def test_a_connection_that_says_nothing_is_closed(impatient):
    async with serving(hello, StreamProtocol) as server:
        client = await Reader.connect(server.port)
        assert await client.reader.read() == b""


async def test_the_second_head_on_a_connection_has_a_deadline_too(impatient):
    async with serving(hello, StreamProtocol) as server:
        client = await Reader.get(server.port, "/")
        assert await client.reader.readexactly(5) == b"hello"
        client.writer.write(b"\r\n")
        await client.read_head()
        assert client.status == 408


async def test_a_body_after_the_answer_has_a_deadline_too(impatient):
    async with serving(hello, StreamProtocol) as server:
        client = await Reader.get(server.port, "/", {"content-length": "1000000"}, method="POST")
        assert await client.reader.readexactly(5) == b"hello"
        end = asyncio.create_task(client.reader.read())
        while not end.done():
            client.writer.write(b"x")
            await asyncio.sleep(0.01)
        # A close with bytes still unread is a reset on the wire (RFC 1122, 4.2.2.13): which one, timing decides.
        with suppress(ConnectionResetError):
            assert await end == b"", "one answer, no second one"


async def test_half_a_head_behind_a_request_that_is_being_answered_is_waited_for(impatient):
    released = asyncio.Event()

    async def slow(scope, receive, send):
        await released.wait()
        await hello(scope, receive, send)

    async with serving(slow, StreamProtocol) as server:
        client = await Reader.connect(server.port)
        client.writer.write(b"GET / HTTP/1.1\r\nhost: t\r\n\r\nGET / HTTP/1.1\r\n")
        await asyncio.sleep(0.3)
        released.set()
        await client.read_head()
        assert await client.reader.readexactly(5) == b"hello"
        await client.read_head()
        assert client.status == 408


async def test_what_keeps_its_deadlines_is_left_alone(impatient):
    released = asyncio.Event()

    async def slow(scope, receive, send):
        await released.wait()
        await hello(scope, receive, send)

    async with World() as world, serving(Face(world.hub), StreamProtocol) as server:
        stream = await Reader.get(server.port)
        await stream.opened()
        async with serving(slow, StreamProtocol) as other:
            answer = asyncio.create_task(Reader.get(other.port, "/"))
            await asyncio.sleep(0.3)
            released.set()
            client = await answer
            assert await client.reader.readexactly(5) == b"hello"
            assert world.hub.streams == 1


async def test_the_end_of_a_stream_that_nobody_reads_is_cut(monkeypatch):
    monkeypatch.setattr(server_module, "LINGER_SECONDS", 0.1)
    monkeypatch.setattr(server_module, "SWEEP_SECONDS", 0.02)
    async with World() as world, serving(Face(world.hub), StreamProtocol) as server:
        run = await world.run()
        frozen = await Reader.get(server.port, receive_buffer=4096)
        await frozen.opened()
        [sub] = world.hub._subs
        while sub.ready:
            await run.progress(note="x" * 100_000)
            await asyncio.sleep(0)
        await world.hub.drain(0)
        await until(lambda: not server.server_state.connections)


@pytest.fixture
def files():
    """Sets how many files this process may have open, as a shell does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda number: resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_shells_limit_of_open_files_is_not_the_streams(files):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files(1_024)
    assert most_streams() == 1_024 - OTHER_FILES
    allow_streams()
    most = MAX_STREAMS + OTHER_FILES
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (
        most if hard == resource.RLIM_INFINITY else min(most, hard),
        hard,
    )


async def test_a_stream_for_which_there_is_no_descriptor_is_told_to_come_back(files):
    files(OTHER_FILES + 1)
    async with World() as world, serving(Face(world.hub), StreamProtocol) as server:
        await (await Reader.get(server.port)).opened()
        second = await Reader.get(server.port)
        assert (second.status, await second.rest()) == (200, [])
        assert world.hub.counters.streams_refused == {"full": 1}


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_ends(sig):
    async with World() as world:
        handler = signal.getsignal(sig)
        sockets = await listen("127.0.0.1", 0)
        port = sockets[0].getsockname()[1]
        started = asyncio.Event()
        server = asyncio.create_task(
            serve(Face(world.hub), sockets, drain=world.hub.drain, drain_seconds=0.1, on_start=started.set)
        )
        await started.wait()
        client = await Reader.get(port)
        await client.opened()
        os.kill(os.getpid(), sig)
        assert [message.event for message in await client.rest()] == ["drain"]
        await server
        assert world.hub.draining
        assert signal.getsignal(sig) is handler
        with pytest.raises(ConnectionError):
            await Reader.connect(port)


async def test_a_second_signal_ends_at_once():
    async with World() as world:
        sockets = await listen("127.0.0.1", 0)
        server = asyncio.create_task(serve(Face(world.hub), sockets, drain=world.hub.drain, drain_seconds=1e9))
        clients = [await Reader.get(sockets[0].getsockname()[1]) for _ in range(3)]
        for client in clients:
            await client.opened()
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: world.hub.draining)
        os.kill(os.getpid(), signal.SIGTERM)
        await server
        assert world.hub.streams == 3
        Reader.close_all()


async def test_in_somebody_elses_server_a_signal_drains_as_well():
    async with World() as world:
        seen = []
        own = signal.signal(signal.SIGTERM, lambda sig, _: seen.append(sig))
        mine = signal.getsignal(signal.SIGTERM)
        try:
            client = await world.follow()
            undo = drain_at_signals(world.hub.drain, 0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: client.closed)
            undo()
            assert seen == [signal.SIGTERM]
            assert signal.getsignal(signal.SIGTERM) is mine
        finally:
            signal.signal(signal.SIGTERM, own)


def test_mounted_and_started_by_a_request_its_streams_are_sent_away_too(tmp_path, monkeypatch):
    """Under uvicorn as it comes, whose own lifespan a mounted application never hears of."""
    monkeypatch.setattr(server_module, "drain_at_signals", partial(drain_at_signals, seconds=0.1))
    qc = Queuecast(f"sqlite:///{tmp_path}/work.db")
    qc.queue("reports")
    host = Starlette(routes=[Mount("/queuecast", qc.gateway)])

    async def scenario():
        server = uvicorn.Server(uvicorn.Config(host, port=0, http="h11", log_config=None))
        serving = asyncio.create_task(server.serve())
        await until(lambda: server.started)
        client = await Reader.get(server.servers[0].sockets[0].getsockname()[1], "/queuecast/queues/reports/events")
        await client.opened()
        os.kill(os.getpid(), signal.SIGTERM)
        assert (await client.rest())[-1].event == "drain"
        await serving
        await qc.close()

    own = signal.signal(signal.SIGTERM, lambda *_: None)  # which uvicorn puts back, and raises the signal anew
    try:
        asyncio.run(asyncio.wait_for(scenario(), 20))
    finally:
        signal.signal(signal.SIGTERM, own)


def test_on_uvloop(monkeypatch):
    """Its transports report a full buffer later than asyncio's, and write at another time."""
    monkeypatch.setattr(window_module, "MAX_BYTES", 500_000)

    async def scenario():
        async with World() as world:
            run = await world.run()
            sockets = await listen("127.0.0.1", 0)
            port = sockets[0].getsockname()[1]
            serving = asyncio.create_task(serve(Face(world.hub), sockets, drain=world.hub.drain, drain_seconds=0.1))
            slow = await Reader.get(port, receive_buffer=4096)
            quick = await Reader.get(port)
            await slow.opened()
            await quick.opened()
            sent = 0
            while world.hub._followed[("a",), False].fanout.window.base < 100:
                await run.progress(note="x" * 100_000)
                sent += 1
                await quick.until(lambda messages, sent=sent: len(messages) == sent)
            await slow.until(lambda messages: len(messages) == sent)
            assert slow.events() == quick.events() == (await world.log())[2:]
            assert world.hub.counters.replays >= 1
            os.kill(os.getpid(), signal.SIGTERM)
            assert (await slow.rest())[-1].event == "drain"
            await quick.rest()
            await serving

    uvloop.run(scenario())
