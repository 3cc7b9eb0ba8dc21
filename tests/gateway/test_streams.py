"""Streams through real sockets: uvicorn with its transport taken over, and uvicorn as it comes. The same tests."""

import asyncio
import json
import random
from contextlib import suppress

import pytest
from hub.making import Run, World, until

from queuecast import BrokerUnavailable, Queuecast
from queuecast.brokers.sqlite import writer as writer_module
from queuecast.hub import hub as hub_module
from queuecast.hub import wheel as wheel_module
from queuecast.hub import window as window_module

from .asgi import get
from .serving import PROTOCOLS, Face, Reader, serving


@pytest.fixture(params=PROTOCOLS)
def http(request):
    return PROTOCOLS[request.param]


async def test_the_head_says_what_proxies_need(http):
    async with World() as world, serving(Face(world.hub), http) as server:
        client = await Reader.get(server.port)
        assert client.status == 200
        assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert client.headers["cache-control"] == "no-store, no-transform"
        assert client.headers["x-accel-buffering"] == "no"
        assert client.headers["vary"] == "Origin"
        assert "content-length" not in client.headers


async def test_opens_before_anything_happens_then_shows_what_does(http):
    async with World() as world, serving(Face(world.hub), http) as server:
        run = await world.run()
        client = await Reader.get(server.port)
        assert await client.opened() == await world.end()
        assert client.parser.retry_ms is not None
        await run.output({"text": "naïve \u2028 line"})
        await client.until(len)
        assert client.events() == (await world.log())[2:]


async def test_the_header_wins_over_the_query(http):
    async with World() as world, serving(Face(world.hub), http) as server:
        run = await world.run()
        mark = await world.end()
        await run.output(1)
        client = await Reader.get(server.port, "/events?after=first", {"Last-Event-ID": mark})
        await client.until(len)
        assert [event.get("output") for event in client.events()] == [1]


async def test_a_bad_cursor_is_no_error_of_http(http):
    async with World() as world, serving(Face(world.hub), http) as server:
        await world.run()
        for bad in ("garbage", "\xe9\x00".replace("\x00", "x"), "x" * 10_000, "-1", "..", "0.0"):
            client = await Reader.get(server.port, "/events", {"Last-Event-ID": bad})
            assert client.status == 200
            [message] = await client.until(len)
            assert message.event == "reset"
            told = json.loads(message.data)
            assert told["reason"] == "malformed"
            assert told["cursor"] == message.id == await world.end()


async def test_named_frames_on_request(http):
    async with World() as world, serving(Face(world.hub), http) as server:
        await (await world.run()).output(1)
        client = await Reader.get(server.port, "/events?named=1&after=first")
        messages = await client.until(lambda messages: len(messages) == 3)
        assert [message.event for message in messages] == ["task", "task", "output"]


async def test_several_queues(http):
    async with World() as world, serving(Face(world.hub), http) as server:
        one, two = await world.run("a"), await world.run("b")
        client = await Reader.get(server.port, "/events?queue=b&queue=a")
        mark = await client.opened()
        await one.output(1)
        await client.until(len)
        await two.output(2)
        await client.until(lambda messages: len(messages) == 2)
        client.close()
        again = await Reader.get(server.port, "/events?queue=a&queue=b", {"Last-Event-ID": mark})
        await again.until(lambda messages: len(messages) == 2)
        assert sorted(event["output"] for event in again.events()) == [1, 2]


async def test_a_tasks_stream_ends_with_its_result_and_then_there_is_nothing_more(http):
    async with World() as world, serving(Face(world.hub), http) as server:
        run = await world.run()
        client = await Reader.get(server.port, f"/task/{run.id}")
        await client.until(len)
        await run.succeed()
        assert [event["type"] for event in (json.loads(m.data) for m in await client.rest())][-1] == "result"
        told = await Reader.get(server.port, f"/task/{run.id}", {"Last-Event-ID": client.parser.last_event_id})
        assert told.status == 204
        again = await Reader.get(server.port, f"/task/{run.id}")
        await again.rest()
        assert again.events() == await world.log()


async def test_an_unknown_task_is_waited_for_and_then_not_found(http, monkeypatch):
    async with World() as world, serving(Face(world.hub), http) as server:
        run = await world.run("b")
        run.queue = "a"
        waiting = asyncio.create_task(Reader.get(server.port, f"/task/{run.id}"))
        await until(lambda: any(followed.fanout._awaited for followed in world.hub._followed.values()))
        run.task = await moved_to("a", run)
        client = await waiting
        assert client.status == 200
        await client.until(len)
        monkeypatch.setattr(hub_module, "UNKNOWN_TASK_SECONDS", 0.01)
        assert (await Reader.get(server.port, "/task/unheard-of")).status == 404


async def test_a_task_of_somebody_else_is_unknown(http, monkeypatch):
    monkeypatch.setattr(hub_module, "UNKNOWN_TASK_SECONDS", 0.01)
    async with World() as world, serving(Face(world.hub), http) as server:
        run = await world.run(owner="ann")
        assert (await Reader.get(server.port, f"/task/{run.id}?owner=bob")).status == 404
        assert (await Reader.get(server.port, f"/task/{run.id}?owner=ann")).status == 200


async def test_while_the_broker_is_down_clients_are_told_to_come_back(http):
    async with World() as world, serving(Face(world.hub), http) as server:
        await world.run()
        await world.broker.close()
        client = await Reader.get(server.port, "/events?after=first")
        assert (client.status, await client.rest()) == (200, [])
        assert client.parser.retry_ms is not None
        assert world.hub.counters.streams_refused == {"broker": 1}
        await world.broker.open()
        again = await Reader.get(server.port, "/events?after=first")
        await again.until(lambda messages: len(messages) == 2)


async def moved_to(queue, run):
    """The same id, submitted to another queue."""
    from msgspec.structs import replace

    task = replace(run.task, queue=queue)
    await run.broker.submit([task])
    return task


async def test_a_client_that_goes_is_noticed(http):
    async with World() as world, serving(Face(world.hub), http) as server:
        client = await Reader.get(server.port)
        await client.opened()
        assert world.hub.streams == 1
        client.close()
        await until(lambda: world.hub.streams == 0)
        assert world.hub.counters.streams_closed == {"client": 1}


async def test_half_a_goodbye_is_one(http):
    async with World() as world, serving(Face(world.hub), http) as server:
        client = await Reader.get(server.port)
        await client.opened()
        client.writer.write_eof()
        await until(lambda: world.hub.streams == 0)


async def test_keepalives_on_the_wire(http, monkeypatch):
    monkeypatch.setattr(wheel_module, "VISIT_SECONDS", 0.02)
    monkeypatch.setattr(wheel_module, "KEEPALIVE_SECONDS", 0.05)
    async with World() as world, serving(Face(world.hub), http) as server:
        client = await Reader.get(server.port)
        await client.opened()
        opening = len(client.body)
        while client.body[opening:] != b":\n:\n":
            assert await client.read()


async def test_too_many_streams_are_told_to_come_back(http):
    async with World(max_streams=1) as world, serving(Face(world.hub), http) as server:
        first = await Reader.get(server.port)
        await first.opened()
        second = await Reader.get(server.port)
        assert second.status == 200
        assert await second.rest() == []
        assert 5_000 <= second.parser.retry_ms <= 30_000
        assert world.hub.counters.streams_refused == {"full": 1}


async def test_of_those_who_open_at_once_no_more_are_taken_than_there_is_room_for(http):
    async with World(max_streams=1) as world, serving(Face(world.hub), http) as server:
        run = Run(world.broker, "a", None)
        clients = [await Reader.connect(server.port) for _ in range(3)]
        for client in clients:
            client.writer.write(f"GET /task/{run.id} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
        waiting = (await world.hub.fanout(("a",)))._awaited
        await until(lambda: len(waiting.get(run.id, ())) == 3)
        await run.begin()
        for client in clients:
            await client.read_head()
        assert [client.status for client in clients] == [200] * 3
        await run.succeed()
        told = [[event["type"] for event in await client_events(client)] for client in clients]
        assert sorted(told) == [[], [], ["task", "task", "result"]]
        assert world.hub.counters.streams_refused == {"full": 2}


async def client_events(client):
    await client.rest()
    return client.events()


async def test_a_drain_on_the_wire(http):
    async with World() as world, serving(Face(world.hub), http) as server:
        run = await world.run()
        client = await Reader.get(server.port)
        await client.opened()
        await run.output(1)
        await client.until(len)
        await world.hub.drain(0.05)
        messages = await client.rest()
        assert [message.event for message in messages] == ["message", "drain"]
        assert client.parser.last_event_id == await world.end()
        late = await Reader.get(server.port)
        assert (late.status, await late.rest()) == (200, [])
        assert late.parser.retry_ms is not None


async def test_a_frozen_client_is_cut_and_others_do_not_notice(http, monkeypatch):
    monkeypatch.setattr(wheel_module, "VISIT_SECONDS", 0.1)
    monkeypatch.setattr(wheel_module, "STALL_SECONDS", 0.5)
    async with World() as world, serving(Face(world.hub), http) as server:
        run = await world.run()
        frozen = await Reader.get(server.port, receive_buffer=4096)
        await frozen.opened()
        other = await Reader.get(server.port)
        await other.opened()
        count = 0
        while not world.hub.counters.streams_closed:
            await run.progress(note="x" * 100_000)
            count += 1
            await other.until(lambda messages, count=count: len(messages) == count)
        assert world.hub.counters.streams_closed == {"stalled": 1}
        assert world.hub.streams == 1


async def test_a_slow_client_catches_up_from_the_log(http, monkeypatch):
    monkeypatch.setattr(window_module, "MAX_BYTES", 500_000)
    async with World() as world, serving(Face(world.hub), http) as server:
        run = await world.run()
        slow = await Reader.get(server.port, receive_buffer=4096)
        await slow.opened()
        sent = 0
        while world.hub._followed[("a",), False].fanout.window.base < 100:
            await run.progress(note="x" * 100_000)
            sent += 1
            await asyncio.sleep(0)
        slow.widen()
        await slow.until(lambda messages: len(messages) == sent)
        await run.progress(3)
        await slow.until(lambda messages: len(messages) == sent + 3)
        assert slow.events() == (await world.log())[2:]
        assert world.hub.counters.replays >= 1


@pytest.mark.parametrize("seed", range(2))
async def test_hammer(http, seed, monkeypatch):
    """Append at full rate while clients reconnect at random cursors: each ends with exactly the log's interval."""
    monkeypatch.setattr(window_module, "MAX_FRAMES", 300)
    monkeypatch.setattr(window_module, "SLACK_FRAMES", 10)
    chance = random.Random(seed)
    async with World(backlog=50) as world, serving(Face(world.hub), http) as server:
        run = await world.run()
        followers = [asyncio.create_task(follow(server.port, chance.random())) for _ in range(8)]
        for _ in range(150):
            await run.progress(chance.randint(1, 40))
            await asyncio.sleep(chance.random() * 0.005)
        await run.succeed()
        log = await world.log()
        for follower in followers:
            assert await follower == log


async def follow(port, seed):
    """Everything from the first event to the result, over many connections that are cut anywhere."""
    chance = random.Random(seed)
    asked, events = "first", []
    while not events or events[-1]["type"] != "result":
        client = await Reader.get(port, f"/events?after={asked}")
        length = chance.randint(0, 60_000)
        while len(client.body) < length and not any('"type":"result"' in m.data for m in client.messages):
            await client.read()
        client.close()
        events += client.events()
        asked = client.parser.last_event_id or asked
    return events


async def test_a_broker_that_has_ended_ends_the_streams_and_says_what_to_do(http, tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "LOOK_SECONDS", 0.0)
    qc = Queuecast(f"sqlite:///{tmp_path}/work.db")
    qc.queue("reports")
    path = "/queues/reports/events"
    async with qc.running(), serving(qc.gateway, http) as server:
        client = await Reader.get(server.port, path)
        await client.opened()
        (tmp_path / "work.db").unlink()
        with suppress(BrokerUnavailable):
            while True:
                await (await qc.session()).broker.post(b"{}")
        assert [message.event for message in await client.rest()] == ["drain"]
        again = await Reader.get(server.port, path)
        assert await again.rest() == []
        assert again.parser.retry_ms is not None
        answer = await get(qc.gateway, "/readyz")
        assert answer.status == 503
        assert f"{tmp_path}/work.db was deleted" in answer.json["reason"]
