"""Where a stream starts, and every way in which a cursor cannot be honoured."""

import json

import pytest

from queuecast.brokers import Retention
from queuecast.cursor import cursor_at, parse_cursor
from queuecast.hub import window as window_module

from .making import BACKLOG, World, until


async def test_a_queues_stream_starts_at_the_end():
    async with World() as world:
        run = await world.run()
        client = await world.follow()
        await run.progress()
        await world.settled()
        assert client.events == (await world.log())[2:]


async def test_first_begins_with_the_oldest_event():
    async with World() as world:
        run = await world.run()
        await run.progress(5)
        client = await world.follow(asked="first")
        await world.caught_up(client)
        assert client.events == await world.log()


@pytest.mark.parametrize("backlog", [0, 5, BACKLOG])
async def test_a_cursor_goes_on_exactly_after_it(backlog):
    async with World(backlog=backlog) as world:
        run = await world.run()
        marks = []
        for _ in range(10):
            marks.append(await world.end())
            await run.progress()
        for mark in marks:
            client = await world.follow(asked=mark)
            await world.caught_up(client)
            assert client.events == await world.log(after=parse_cursor(mark).offset)
        assert world.hub.counters.stream_resumes == {"replayed": 10}


async def test_a_cursor_at_the_end_is_live_at_once():
    async with World() as world:
        await world.run()
        await world.caught_up(await world.follow())
        client = await world.follow(asked=await world.end())
        assert client.sub.live
        assert client.events == []
        assert world.hub.counters.stream_resumes == {"live": 1}


async def test_a_cursor_ahead_of_this_tail_waits_for_it():
    """It was given out by another process, whose tail is faster."""
    async with World() as world:
        run = await world.run()
        await world.follow()
        await run.progress(3)
        ahead = await world.end()
        client = await world.follow(asked=ahead)
        await run.progress(2)
        await world.settled()
        await world.caught_up(client)
        assert client.events == await world.log(after=parse_cursor(ahead).offset)


def tampered(cursor, **changes):
    return str(cursor._replace(**changes))


@pytest.mark.parametrize("backlog", [0, BACKLOG])
@pytest.mark.parametrize(
    ("reason", "spoil"),
    [
        ("malformed", lambda _: "garbage"),
        ("malformed", lambda _: "x" * 10_000),
        ("malformed", lambda cursor: f"{cursor}\x00"),
        ("malformed", lambda cursor: tampered(cursor, offset=-1)),
        ("malformed", lambda cursor: f"v0-{cursor}-{cursor}"),
        ("other-log", lambda cursor: tampered(cursor, identity="feedbeef")),
        ("other-log", lambda cursor: tampered(cursor, identity=None)),
        ("ahead", lambda cursor: tampered(cursor, offset=10**9)),
        ("diverged", lambda cursor: tampered(cursor, digest="0badf00d")),
    ],
)
async def test_a_cursor_that_cannot_be_honoured_is_answered_by_a_reset(reason, spoil, backlog):
    async with World(backlog=backlog) as world:
        run = await world.run()
        await run.progress(5)
        asked = spoil(parse_cursor(await world.end()))
        client = await world.follow(asked=asked)
        await world.caught_up(client)
        await run.progress()
        await world.settled()
        end = (await world.log())[-1]
        [reset] = client.resets
        assert reset["reason"] == reason
        assert asked.startswith(reset["asked"])
        assert client.messages[0].event == "reset"
        assert client.messages[0].id == reset["cursor"]
        assert client.events == [end]
        assert world.hub.counters.stream_resumes == {"reset": 1}


async def test_a_trimmed_cursor_goes_on_at_the_oldest_event_that_is_left():
    async with World(retention=Retention(size=3_000)) as world:
        run = await world.run()
        mark = await world.end()
        await run.progress(100)
        client = await world.follow(asked=mark)
        await world.caught_up(client)
        first = (await world.broker.bounds("a")).first
        assert [reset["reason"] for reset in client.resets] == ["trimmed"]
        assert client.events == await world.log(after=first - 1)


async def test_retention_that_passes_a_reader_is_told(monkeypatch):
    monkeypatch.setattr(window_module, "MAX_FRAMES", 5)
    monkeypatch.setattr(window_module, "SLACK_FRAMES", 0)
    async with World(retention=Retention(size=5_000)) as world:
        run = await world.run()
        slow = await world.follow()
        await run.progress(3)
        await world.settled()
        slow.freeze()
        for _ in range(20):
            await run.progress(5)
            await world.settled()
        slow.thaw()
        await world.caught_up(slow)
        at = [message.event for message in slow.messages].index("reset")
        assert [reset["reason"] for reset in slow.resets] == ["trimmed"]
        assert slow.events[at:] == await world.log(after=parse_cursor(slow.messages[at].id).offset)


async def test_a_vector_resumes_each_queue_from_its_own_place():
    async with World() as world:
        one, two = await world.run("a"), await world.run("b")
        client = await world.follow("a", "b")
        await one.output(1)
        await world.settled("a", "b")
        mark = client.cursor
        await two.output(2)
        await one.output(3)
        await world.settled("a", "b")
        client.sub.lost()
        again = await world.follow("b", "a", asked=mark)
        await world.caught_up(again)
        assert [event["output"] for event in again.events] == [2, 3]


async def test_a_vector_of_another_process_resumes_from_the_logs():
    """There the queues' events came in another order, so that its place is none of this window's."""
    async with World() as here, World() as there:
        there.broker = here.broker
        there.hub._broker = here.broker
        one, two = await here.run("a"), await here.run("b")
        await here.follow("a", "b")
        await one.output(1)
        await here.settled("a", "b")
        await two.output(2)
        await here.settled("a", "b")
        elsewhere = await there.follow("a", "b", asked="first")
        await there.caught_up(elsewhere)
        # All of `a` came before anything of `b`.
        mark = next(m.id for m in elsewhere.messages if json.loads(m.data).get("output") == 1)
        client = await here.follow("a", "b", asked=mark)
        await here.caught_up(client)
        seen = [event.get("output") for event in client.events]
        assert seen == [None, None, 2]


async def test_a_vector_of_other_queues_is_another_log():
    async with World() as world:
        for queue in "abc":
            await world.run(queue)
        other = await world.follow("a", "c")
        client = await world.follow("a", "b", asked=other.cursor)
        assert [reset["reason"] for reset in client.resets] == ["other-log"]


async def test_of_a_vector_only_the_bad_part_is_reset():
    async with World() as world:
        one, two = await world.run("a"), await world.run("b")
        client = await world.follow("a", "b")
        mark = client.cursor
        await one.output(1)
        await two.output(2)
        identity = str((await world.broker.bounds("b")).identity)
        asked = mark.replace(identity, "feedbeef")
        await world.settled("a", "b")
        again = await world.follow("a", "b", asked=asked)
        await world.caught_up(again)
        assert [reset["reason"] for reset in again.resets] == ["other-log"]
        assert [event["output"] for event in again.events] == [1]


async def test_a_tasks_stream_begins_with_the_task():
    async with World(backlog=0) as world:
        before, run = await world.run(), await world.run()
        await before.progress()
        await run.output(1)
        client = await world.follow(task=run.id)
        await world.caught_up(client)
        assert [event.get("output") for event in client.events] == [None, None, 1]
        assert {event["id"] for event in client.events} == {run.id}


async def test_a_finished_tasks_stream_ends_by_itself():
    async with World(backlog=0) as world:
        run = await world.run()
        await run.succeed()
        await (await world.run()).progress(10)
        client = await world.follow(task=run.id)
        await until(lambda: client.closed)
        assert [event["type"] for event in client.events] == ["task", "task", "result"]


async def test_who_has_the_result_has_been_told():
    async with World() as world:
        run = await world.run()
        client = await world.follow(task=run.id)
        await run.succeed()
        await until(lambda: client.closed)
        fanout = await world.hub.fanout(("a",))
        assert (await world.hub.begin(fanout, client.cursor, task=run.id)).told
        assert (await world.hub.begin(fanout, "last", task=run.id)).told
        assert not (await world.hub.begin(fanout, client.messages[1].id, task=run.id)).told
        assert not (await world.hub.begin(fanout, "", task=run.id)).told
        await (await world.run()).progress()
        assert (await world.hub.begin(fanout, await world.end(), task=run.id)).told


async def test_a_tasks_cursor_that_cannot_be_honoured_shows_the_whole_task():
    async with World() as world:
        run = await world.run()
        await run.succeed()
        bad = str(cursor_at("feedbeef", 1, b"{}"))
        client = await world.follow(task=run.id, asked=bad)
        await until(lambda: client.closed)
        assert [reset["reason"] for reset in client.resets] == ["other-log"]
        assert [event["type"] for event in client.events] == ["task", "task", "result"]


async def test_an_unknown_task_is_waited_for():
    async with World() as world:
        run = await world.run()
        fanout = await world.hub.fanout(("a",))
        assert not (await world.hub.begin(fanout, "", task="unheard-of")).known
        client = await world.follow(task="unheard-of")
        await run.progress()
        await world.settled()
        assert client.events == []
