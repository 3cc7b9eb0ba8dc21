"""Live delivery: who gets what, when it is joined, who is skipped."""

import asyncio

from queuecast.cursor import parse_cursor
from queuecast.hub import replay as replay_module
from queuecast.hub import window as window_module
from queuecast.sse import Parser

from .making import Client, World, members_of_a_cohort, until


async def test_all_get_the_same_bytes_object():
    async with World() as world:
        run = await world.run()
        clients = [await world.follow() for _ in range(3)]
        await run.progress()
        await world.settled()
        assert len({id(client.written[-1]) for client in clients}) == 1
        assert clients[0].events == (await world.log())[2:]


async def test_opens_with_retry_comment_and_the_cursor_of_its_start():
    async with World() as world:
        await world.run()
        await world.follow()
        end = await world.end()
        client = await world.follow()
        lines = client.written[0].split(b"\n")
        assert lines[0].startswith(b"retry: ")
        assert lines[1] == b":"
        assert lines[2] == b"id: " + end.encode()
        assert client.cursor == end
        assert client.messages == []


async def test_an_idle_hub_passes_events_on_before_the_loop_turns():
    async with World() as world:
        run = await world.run()
        everything, filtered = await world.follow(), await world.follow(task=run.id)
        await world.caught_up(everything, filtered)
        written = []
        stop = world.tails["a"].listen(After(lambda: written.append([everything.cursor, filtered.cursor])))
        await run.progress()
        await world.settled()
        stop()
        assert written == [[await world.end()] * 2]


class After:
    """A listener that looks at once, after the hub, which listened before."""

    def __init__(self, look):
        self.look = look

    def entries(self, entries):
        self.look()

    def restarted(self, reason, at):
        raise AssertionError(reason)


async def test_what_comes_during_a_pass_goes_out_together(monkeypatch):
    members_of_a_cohort(monkeypatch, 1)
    async with World() as world:
        run = await world.run()
        clients = [await world.follow() for _ in range(20)]
        await run.progress()
        await until(lambda: len(clients[0].written) == 2 or len(clients[-1].written) == 2)
        await run.progress(30)
        await world.settled()
        expected = (await world.log())[2:]
        assert all(client.events == expected for client in clients)
        assert max(len(client.written) for client in clients) < 10


async def test_who_joins_or_leaves_during_a_pass_is_served_exactly(monkeypatch):
    members_of_a_cohort(monkeypatch, 1)
    async with World() as world:
        run = await world.run()
        first = [await world.follow() for _ in range(20)]
        mark = await world.end()
        await run.progress(3)
        await until(lambda: any(len(client.written) == 2 for client in first))
        late = [await world.follow(asked=mark) for _ in range(5)]
        first[3].freeze()
        first[4].sub.lost()
        await run.progress(3)
        first[3].thaw()
        await world.settled()
        await world.caught_up(first[3])
        expected = (await world.log())[2:]
        stayed = [client for client in first if client is not first[4]]
        assert all(client.events == expected for client in stayed + late)


async def test_a_paused_client_is_skipped_and_catches_up_from_the_window():
    async with World() as world:
        run = await world.run()
        slow, quick = await world.follow(), await world.follow()
        slow.freeze()
        await run.progress(50)
        await world.settled()
        assert slow.events == []
        assert len(quick.events) == 50
        slow.thaw()
        await world.caught_up(slow)
        assert slow.events == quick.events
        assert world.hub.counters.replays == 0


async def test_a_paused_client_catches_up_from_the_log_once_the_window_has_moved_on(monkeypatch):
    monkeypatch.setattr(window_module, "MAX_FRAMES", 10)
    monkeypatch.setattr(window_module, "SLACK_FRAMES", 5)
    async with World() as world:
        run = await world.run()
        slow, quick = await world.follow(), await world.follow()
        slow.freeze()
        for _ in range(10):
            await run.progress(10)
            await world.settled()
        slow.thaw()
        await world.caught_up(slow)
        assert len(quick.events) == 100
        assert slow.events == quick.events
        assert world.hub.counters.replays == 1


async def test_a_log_that_grows_faster_than_the_window_is_still_passed_on_to_the_live(monkeypatch):
    monkeypatch.setattr(window_module, "MAX_FRAMES", 10)
    monkeypatch.setattr(window_module, "SLACK_FRAMES", 0)
    members_of_a_cohort(monkeypatch, 1)
    async with World() as world:
        run = await world.run()
        clients = [await world.follow() for _ in range(5)]
        await run.progress(200)
        await world.settled()
        expected = (await world.log())[2:]
        assert all(client.events == expected for client in clients)
        assert world.hub.counters.replays == 0


async def test_a_task_or_an_owner_sees_only_its_own():
    async with World() as world:
        ann, bob = await world.run(owner="ann"), await world.run(owner="bob")
        of_task = await world.follow(task=ann.id, asked="last")
        of_owner = await world.follow(owner="bob")
        of_both = await world.follow(task=ann.id, owner="bob", asked="last")
        for number in range(3):
            await ann.output(number)
            await bob.output(-number)
        await world.settled()
        assert [event["output"] for event in of_task.events] == [0, 1, 2]
        assert [event["output"] for event in of_owner.events] == [0, -1, -2]
        assert of_both.events == []


async def test_an_event_touches_only_whom_it_concerns():
    async with World() as world:
        runs = [await world.run() for _ in range(3)]
        clients = [await world.follow(task=run.id, asked="last") for run in runs]
        await runs[1].output("mine")
        await world.settled()
        assert [len(client.written) for client in clients] == [1, 2, 1]


async def test_a_paused_filtered_client_misses_nothing():
    async with World() as world:
        run, other = await world.run(owner="ann"), await world.run(owner="bob")
        clients = [await world.follow(task=run.id, asked="last"), await world.follow(owner="ann")]
        for number in range(30):
            if number % 10 == 3:
                clients[0].freeze()
                clients[1].freeze()
            await run.output(number)
            await other.progress()
            if number % 10 == 7:
                clients[0].thaw()
                clients[1].thaw()
            await world.settled()
        await world.caught_up(*clients)
        assert all([event["output"] for event in client.events] == list(range(30)) for client in clients)


async def test_the_result_ends_a_tasks_stream():
    async with World() as world:
        run = await world.run()
        client = await world.follow(task=run.id)
        await run.succeed()
        await until(lambda: client.closed)
        assert [event["type"] for event in client.events] == ["task", "task", "result"]
        assert world.hub.counters.streams_closed == {"finished": 1}
        assert world.hub.streams == 0


async def test_several_queues_on_one_stream():
    async with World() as world:
        one, two = await world.run("a"), await world.run("b")
        client, other = await world.follow("a", "b"), await world.follow("b", "a")
        await one.output(1)
        await world.settled("a", "b")
        await two.output(2)
        await world.settled("a", "b")
        assert [event["output"] for event in client.events] == [1, 2]
        assert client.written[1] is other.written[1]
        assert client.cursor.startswith("v")


async def test_a_restarted_log_is_told_to_everybody():
    async with World() as world:
        run = await world.run()
        clients = [await world.follow(), await world.follow(task=run.id, asked="last")]
        late = await world.follow()
        late.freeze()
        await world.tails["a"]._restart("diverged")
        await world.settled()
        late.thaw()
        await world.caught_up(late)
        for client in [*clients, late]:
            assert [reset["reason"] for reset in client.resets] == ["diverged"]


async def test_a_defect_in_a_pass_cuts_the_streams_rather_than_leave_a_gap(caplog):
    class Broken(Client):
        def __init__(self):
            super().__init__()
            self.write = self.fail_after_the_opening

        def fail_after_the_opening(self, data):
            if self.written:
                raise RuntimeError("the handler is closed")
            self.written.append(data)

    async with World() as world:
        run = await world.run()
        clients = [await world.follow(client=Broken()), await world.follow()]
        await run.progress()
        await until(lambda: all(client.aborted for client in clients))
        after = await world.follow()
        await run.progress()
        await world.settled()
        assert len(after.events) == 1


async def test_frames_may_be_named():
    async with World() as world:
        run = await world.run()
        named, plain = await world.follow(named=True), await world.follow()
        await run.output(1)
        await world.settled()
        assert [message.event for message in named.messages] == ["output"]
        assert [message.event for message in plain.messages] == ["message"]
        assert Parser().feed(named.bytes)[0].id == plain.cursor


async def test_a_replay_whose_broker_fails_ends_the_stream_with_its_cursor():
    async with World(backlog=0) as world:
        await (await world.run()).progress(5)
        await world.follow()
        client = await world.follow(asked="first")
        await world.broker.close()
        await until(lambda: client.closed)
        assert world.hub.counters.streams_closed == {"broker": 1}
        await world.broker.open()
        again = await world.follow(asked=client.cursor)
        await world.caught_up(again)
        assert again.events == await world.log()


class Sated(Client):
    """Takes five pieces."""

    def __init__(self):
        super().__init__()
        self.write = self._write

    def _write(self, data):
        self.written.append(data)
        if len(self.written) == 5:
            self.freeze()


async def test_who_is_sent_away_in_the_middle_of_a_replay_is_told_how_far_it_came(monkeypatch):
    monkeypatch.setattr(replay_module, "CHUNK_BYTES", 1_000)
    async with World(backlog=0) as world:
        run = await world.run()
        await run.progress(100)
        await world.follow()
        client = await world.follow(asked="first", client=Sated())
        await until(lambda: not client.sub.ready)
        await world.hub.drain(0)
        assert client.messages[-1].event == "drain"
        shown, last = client.events[:-1], client.cursor
        assert 0 < len(shown) < 100
        assert shown == (await world.log())[: parse_cursor(last).offset]


async def test_a_cohort_that_is_far_behind_is_brought_on_piece_by_piece(monkeypatch):
    monkeypatch.setattr(window_module, "CHUNK_BYTES", 500)
    members_of_a_cohort(monkeypatch, 2)
    async with World() as world:
        run = await world.run()
        clients = [await world.follow() for _ in range(7)]
        await run.progress(50)
        while len(clients[0].written) < 2:
            await asyncio.sleep(0)
        # One that has everything takes its turn behind those who have not.
        await world.follow()
        await world.settled()
        assert all(client.events == clients[0].events for client in clients)
        assert len(clients[0].events) == 50
        assert max(len(piece) for piece in clients[0].written) < 1_000
