"""The life of streams: kept alive, cut, sent away, counted."""

import asyncio
import json

from msgspec.structs import replace

from queuecast.hub import hub as hub_module
from queuecast.hub import wheel as wheel_module
from queuecast.hub import window as window_module
from queuecast.hub.wheel import KEEPALIVE_SECONDS, STALL_SECONDS, visit
from queuecast.sse import KEEPALIVE

from .making import Client, Run, World, until


async def test_only_a_silent_stream_is_kept_alive():
    async with World() as world:
        client = await world.follow()
        begin = client.sub.wrote_at
        visit(client.sub, begin + KEEPALIVE_SECONDS / 2)
        assert len(client.written) == 1
        visit(client.sub, begin + KEEPALIVE_SECONDS)
        assert client.written[1:] == [KEEPALIVE]
        visit(client.sub, begin + KEEPALIVE_SECONDS * 1.5)
        assert len(client.written) == 2


async def test_a_filtered_stream_is_told_how_far_it_has_come():
    async with World() as world:
        run = await world.run(owner="ann")
        client = await world.follow(owner="bob")
        await run.progress(5)
        await world.settled()
        visit(client.sub, client.sub.wrote_at + KEEPALIVE_SECONDS)
        assert client.messages == []
        assert client.cursor == await world.end()
        visit(client.sub, client.sub.wrote_at + KEEPALIVE_SECONDS)
        assert client.written[-1] == KEEPALIVE


async def test_a_filtered_stream_is_never_told_more_than_it_was_sent():
    async with World() as world:
        run = await world.run(owner="ann")
        client = await world.follow(owner="ann")
        mark = client.cursor
        client.freeze(waiting=0)
        await run.progress(5)
        await world.settled()
        visit(client.sub, client.sub.wrote_at + KEEPALIVE_SECONDS)
        assert client.cursor == mark
        client.thaw()
        await world.caught_up(client)
        assert len(client.events) == 5


async def test_a_client_that_takes_nothing_is_cut():
    async with World() as world:
        client, other = await world.follow(), await world.follow()
        begin = client.sub.moved_at
        client.freeze()
        visit(client.sub, begin + 1)
        visit(client.sub, begin + STALL_SECONDS)
        assert not client.aborted
        visit(client.sub, begin + STALL_SECONDS + 1)
        assert client.aborted
        assert not other.aborted
        assert world.hub.counters.streams_closed == {"stalled": 1}


async def test_a_client_that_takes_a_little_is_left_alone():
    async with World() as world:
        client = await world.follow()
        client.freeze()
        for second in range(100):
            client.waiting -= 1
            visit(client.sub, client.sub.wrote_at + second)
        assert not client.aborted


async def test_one_wheel_visits_all(monkeypatch):
    monkeypatch.setattr(wheel_module, "VISIT_SECONDS", 0.02)
    monkeypatch.setattr(wheel_module, "KEEPALIVE_SECONDS", 0.1)
    async with World() as world:
        clients = [await world.follow() for _ in range(50)]
        await until(lambda: all(len(client.written) > 2 for client in clients))


async def test_a_drain_sends_everybody_away_with_their_cursors():
    async with World() as world:
        run = await world.run()
        everything, of_task, slow = (
            await world.follow(),
            await world.follow(task=run.id, asked="last"),
            await world.follow(),
        )
        await run.progress()
        await world.settled()
        slow.freeze()
        mark = await world.end()
        await run.progress()
        await world.settled()
        await world.hub.drain(0.05)
        clients = [everything, of_task, slow]
        assert world.hub.draining
        assert all(client.closed for client in clients)
        assert [client.messages[-1].event for client in clients] == ["drain"] * 3
        assert [client.cursor for client in clients] == [await world.end(), await world.end(), mark]
        assert json.loads(slow.messages[-1].data)["cursor"] == mark
        assert world.hub.counters.streams_closed == {"drain": 3}
        assert world.hub.streams == 0


async def test_who_was_being_let_in_when_the_drain_began_is_sent_away_too():
    async with World() as world:
        await world.run()
        followed = await world.hub.fanout(("a",))
        start = await world.hub.begin(followed, "first")
        await world.hub.drain(0)
        late = Client()
        world.hub.open(followed, start, late)
        await until(lambda: late.closed)
        assert [message.event for message in late.messages][-1] == "drain"


async def test_a_task_is_replayed_whatever_its_id_is_made_of(monkeypatch):
    monkeypatch.setattr(window_module, "MAX_FRAMES", 5)
    monkeypatch.setattr(window_module, "SLACK_FRAMES", 0)
    async with World(backlog=1) as world:
        run = Run(world.broker, "a", None)
        run.id = 'order "7" \\ é'
        run.task = replace(run.task, id=run.id)
        await run.begin()
        await run.succeed()
        other = await world.run()
        await other.progress(20)
        client = await world.follow(task=run.id, asked="first")
        await until(lambda: client.closed)
        assert [event["id"] for event in client.events] == [run.id] * 3


async def test_counts_what_is_open_and_why_it_ended():
    async with World(max_streams=2) as world:
        await world.run()
        one, _ = await world.follow("a"), await world.follow("a", "b")
        assert world.hub.counters.streams_open == {"a": 2, "b": 1}
        assert world.hub.full
        one.sub.lost()
        one.sub.lost()
        assert world.hub.counters.streams_open == {"a": 1, "b": 1}
        assert world.hub.counters.streams_closed == {"client": 1}
        assert not world.hub.full


async def test_sets_of_queues_are_bounded_and_let_go(monkeypatch):
    monkeypatch.setattr(hub_module, "MAX_SETS", 1)
    async with World() as world:
        client = await world.follow("a", "b")
        assert await world.hub.fanout(("a", "c")) is None
        assert await world.hub.fanout(("b", "a", "a")) is client.sub.fanout
        client.sub.lost()
        assert await world.hub.fanout(("a", "c")) is not None
        assert client.sub.fanout.closed


async def test_a_stream_that_opens_where_nothing_is_fed_any_more_ends_at_once():
    async with World() as world:
        fanout = await world.hub.fanout(("a", "b"))
        start = await world.hub.begin(fanout, "")
        fanout.closed = True
        client = Client()
        world.hub.open(fanout, start, client)
        assert client.closed


async def test_a_task_appears(monkeypatch):
    async with World() as world:
        fanout = await world.hub.fanout(("a",))
        monkeypatch.setattr(hub_module, "UNKNOWN_TASK_SECONDS", 0.01)
        assert not await world.hub.appears(fanout, "unheard-of")
        run = await world.run()
        assert await world.hub.appears(fanout, run.id)


async def test_nothing_is_kept_of_a_task_that_never_appeared(monkeypatch):
    monkeypatch.setattr(hub_module, "UNKNOWN_TASK_SECONDS", 0.01)
    async with World() as world:
        followed = await world.hub.fanout(("a",))
        assert not await world.hub.appears(followed, "unheard-of")
        assert not followed._awaited


async def test_a_task_of_somebody_else_is_unknown_no_earlier_than_one_that_does_not_exist():
    async with World() as world:
        followed = await world.hub.fanout(("a",))
        run = Run(world.broker, "a", "ann")
        others, own = (asyncio.create_task(world.hub.appears(followed, run.id, owner)) for owner in ("bob", "ann"))
        await until(lambda: len(followed._awaited.get(run.id, ())) == 2)
        await run.begin()
        assert await own
        assert not others.done()
        others.cancel()


async def test_a_client_that_cannot_be_written_to_does_not_end_the_others_keepalives(monkeypatch, caplog):
    monkeypatch.setattr(wheel_module, "VISIT_SECONDS", 0.02)
    monkeypatch.setattr(wheel_module, "KEEPALIVE_SECONDS", 0.1)
    async with World() as world:
        bad, good = await world.follow(), await world.follow()
        bad.sub.write = broken
        await until(lambda: bad.aborted)
        said = len(good.written)
        await until(lambda: len(good.written) >= said + 2)
        assert world.hub.counters.streams_closed == {"failed": 1}
        assert "cannot be looked after" in caplog.text


def broken(data):
    raise RuntimeError("no")
