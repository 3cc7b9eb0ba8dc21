"""The projection shows what the fold accepts, whatever the server does, and wherever it was stopped and went on."""

import asyncio
import itertools
import logging
import random
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from queuecast.brokers.base import Entry, Retention
from queuecast.brokers.folded import bodies, fold, folding, projection, ring
from queuecast.brokers.folded.projection import Projection
from queuecast.brokers.folded.table import Table
from queuecast.codec import decode_event, encode_event
from queuecast.cursor import beginning, cursor_at
from queuecast.errors import BrokerUnavailable, ResetRequired
from queuecast.event import Event, submitted
from queuecast.lifecycle import Record, apply
from queuecast.task import timestamp

from ..making import QUEUE, Run, cancelled, new_task, seconds_from_now
from ..steps import meanwhile, turns
from .fake_driver import FakeLog, FakeServer

NO_EVENTS = [b"", b"{}", b"[]", b"\xff", b'{"type":"task"}', b'{"type":"result",\n"id":"a"}']


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class Site:
    """A server, and one process's file."""

    folder: Path
    server: FakeServer = field(default_factory=FakeServer)
    retention: Retention = field(default_factory=Retention)

    @property
    def log(self) -> FakeLog:
        return self.server.logs[QUEUE]

    @property
    def file(self) -> Path:
        return self.folder / "reports.db"

    def write(self, *events: Event) -> list[int]:
        return self.log.write(*map(encode_event, events))

    @asynccontextmanager
    async def projecting(self, **options):
        made = Projection(self.server.driver(), QUEUE, self.retention, Table(self.file), **options)
        await made.start()
        try:
            await made.caught_up()
            yield made
        finally:
            await made.stop()


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(folding, "RETRY_SECONDS", 0.001)


# The naive fold, to compare with


def shown_of(entries: Sequence[Entry]) -> list[Entry]:
    return naive(entries)[0]


def naive(entries: Sequence[Entry]) -> tuple[list[Entry], dict[str, tuple[Record, int, Entry]]]:
    """What is shown, and of each task its record, its first offset and its last entry."""
    shown: list[Entry] = []
    tasks: dict[str, tuple[Record, int, Entry]] = {}
    for entry in entries:
        try:
            event = decode_event(entry.body)
        except Exception:
            continue
        if b"\n" in entry.body:
            continue
        before = tasks.get(event.id)
        record = apply(before[0] if before else None, event)
        if record is not None:
            tasks[event.id] = record, before[1] if before else entry.offset, entry
            shown.append(entry)
    return shown, tasks


async def read_all(made: Projection, after: int | None = None) -> list[Entry]:
    bounds = made.bounds()
    after = bounds.first - 1 if after is None else after
    entries: list[Entry] = []
    async with aclosing(made.read(after)) as batches:
        while after < bounds.last:
            entries += await anext(batches)
            after = entries[-1].offset
    return entries


async def is_the_same(made: Projection, raw: Sequence[Entry]) -> None:
    shown, tasks = naive(raw)
    assert await read_all(made) == shown
    newest_first = sorted(tasks.items(), key=lambda each: -each[1][1])
    listed = await made.statuses(limit=1_000)
    assert [status.id for status in listed] == [id for id, _ in newest_first]
    for status, (id, (record, first, last)) in zip(listed, newest_first, strict=True):
        assert status == await made.status(id)
        assert (status.state, status.attempt, status.first) == (record.state, record.attempt, first)
        assert status.cursor == cursor_at(made.bounds().identity, *last)
        event = decode_event(last.body)
        assert status.result == (event.result if event.type == "result" else None)
        known = await made.record(id)
        assert known is not None
        assert known == record or (record.final and (known.state, known.attempt) == (record.state, record.attempt))
    states = [record.state for record, _, _ in tasks.values()]
    assert made.counts() == {state: states.count(state) for state in made.counts()}


# Any log, in pieces


@st.composite
def logs(draw) -> list[bytes]:
    """What several tasks' runs write, with repeats, in any order that is not too wild, and what is no event at all."""
    rnd = random.Random(draw(st.integers(0, 2**32)))
    bodies: list[bytes] = []
    for number in range(draw(st.integers(1, 6))):
        task = replace(new_task(owner=rnd.choice(["ann", None])), id=rnd.choice([new_task().id, f"task {number}"]))
        run, other = Run(task, 1), Run(task, 2)
        events: list[Event] = [
            submitted(task),
            run.running(),
            run.progress(),
            run.output(),
            run.retrying(0),
            other.running(),
            other.output(),
            rnd.choice([other.succeeded(), other.failed(), cancelled(task), other.progress()]),
        ]
        bodies += [encode_event(event) for event in events[: rnd.randrange(1, 9)]]
    for _ in range(draw(st.integers(0, 12))):
        there = rnd.randrange(len(bodies))
        bodies.insert(rnd.randrange(len(bodies) + 1), rnd.choice([bodies[there], rnd.choice(NO_EVENTS)]))
    for _ in range(draw(st.integers(0, 6))):
        there = rnd.randrange(len(bodies))
        bodies.insert(max(0, there - rnd.randrange(5)), bodies.pop(there))
    return bodies


@settings(max_examples=60, deadline=None)
@given(bodies=logs(), cuts=st.lists(st.integers(0, 60), max_size=4), sizes=st.tuples(*[st.integers(1, 9)] * 3))
def test_a_log_folded_in_pieces_shows_the_same_as_folded_whole(bodies, cuts, sizes):
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            site = Site(Path(folder))
            pieces = [0, *sorted(min(cut, len(bodies)) for cut in cuts), len(bodies)]
            for start, end in itertools.pairwise(pieces):
                for place in range(start, end, 3):
                    site.log.write(*bodies[place : min(place + 3, end)])
                async with site.projecting() as made:
                    await is_the_same(made, site.log.entries)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, "FOLD_BATCH", sizes[0])
        patch.setattr(folding, "SAVE_ROWS", sizes[1])
        patch.setattr(ring, "RING_ENTRIES", sizes[2])
        asyncio.run(run())


@settings(max_examples=40, deadline=None)
@given(bodies=logs(), entries=st.integers(1, 30), batch=st.integers(1, 5))
def test_reading_from_any_offset_gives_exactly_the_rest_of_what_is_shown(bodies, entries, batch):
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            site = Site(Path(folder))
            site.log.write(*bodies[: len(bodies) // 2])
            async with site.projecting() as made:
                for body in bodies[len(bodies) // 2 :]:
                    site.log.write(body)
                await made.caught_up()
                shown = shown_of(site.log.entries)
                for after in range(made.bounds().last + 1):
                    assert await read_all(made, after) == [entry for entry in shown if entry.offset > after]
                for entry in site.log.entries:
                    if entry in shown:
                        assert await made.at(entry.offset) == entry.body
                    else:
                        with pytest.raises(ResetRequired):
                            await made.at(entry.offset)
            assert site.server.reads == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring, "RING_ENTRIES", entries)
        patch.setattr(projection, "READ_BATCH", batch)
        asyncio.run(run())


# Live


async def test_readers_near_the_end_share_one_reader_of_the_server(site):
    site.write(submitted(new_task()))
    async with site.projecting() as made:
        start = made.bounds().last
        reading = [read_next(made, start) for _ in range(20)]
        async with meanwhile(*reading) as tasks:
            assert site.server.reads == 1
            [offset] = site.write(submitted(new_task()))
            assert [entry.offset for entry in await asyncio.gather(*tasks)] == [offset] * 20


async def read_next(made: Projection, after: int) -> Entry:
    async with aclosing(made.read(after)) as batches:
        return (await anext(batches))[0]


async def test_a_reader_behind_the_ring_meets_it_while_the_log_grows(site, monkeypatch):
    monkeypatch.setattr(ring, "RING_ENTRIES", 20)
    task = new_task()
    run = Run(task)
    site.write(submitted(task), run.running(), *(run.progress(number) for number in range(100)))
    async with site.projecting() as made, aclosing(made.read(0)) as batches:
        got = await anext(batches)
        for number in range(100):
            event = run.progress(number)
            site.write(event, event)
            if number % 9 == 0:
                await turns()
                got += await anext(batches)
        await made.caught_up()
        while got[-1].offset < made.bounds().last:
            got += await anext(batches)
        assert got == shown_of(site.log.entries)


async def test_what_was_appended_is_included(site):
    async with site.projecting() as made:
        driver = made._driver
        number = await driver.append(QUEUE, [encode_event(submitted(task := new_task()))])
        await made.includes(number)
        assert (await made.status(task.id)).state == "queued"


async def test_what_was_appended_to_a_log_that_is_gone_keeps_nobody_waiting(site):
    async with site.projecting() as made:
        site.server.down = True
        site.server.cut()
        waiting = asyncio.ensure_future(made.includes(1))
        await turns()
        site.server.recreate(QUEUE, "other")
        site.server.down = False
        await waiting


async def test_a_cut_connection_goes_unnoticed(site):
    task = new_task()
    run = Run(task)
    site.write(submitted(task), run.running())
    async with site.projecting() as made, aclosing(made.read(0)) as batches:
        got = await anext(batches)
        for number in range(10):
            site.server.cut()
            site.write(run.progress(number))
            got += await anext(batches)
        assert got == shown_of(site.log.entries)
        assert site.server.reads == 1


async def test_all_is_unavailable_once_it_has_stopped(site):
    site.write(submitted(task := new_task()))
    async with site.projecting() as made:
        reader = made.read(made.bounds().last)
        waiting = asyncio.ensure_future(anext(reader))
        await turns()
    with pytest.raises(BrokerUnavailable):
        await waiting
    await reader.aclose()
    with pytest.raises(BrokerUnavailable):
        made.bounds()
    with pytest.raises(BrokerUnavailable):
        await made.status(task.id)
    with pytest.raises(BrokerUnavailable):
        await anext(made.read(0))
    with pytest.raises(BrokerUnavailable):
        await made.includes(9)


async def test_a_server_that_is_down_is_said_to_be(site):
    site.server.down = True
    made = Projection(site.server.driver(), QUEUE, Retention(), Table(site.file))
    await made.start()
    with pytest.raises(BrokerUnavailable):
        await made.caught_up()
    site.server.down = False
    await made.caught_up()
    await made.stop()


async def test_a_log_that_takes_too_long_is_said_to_be_read_still(site, monkeypatch):
    monkeypatch.setattr(projection, "WAIT_SECONDS", 0.01)
    async with site.projecting() as made:
        with pytest.raises(BrokerUnavailable, match="not show"):
            await made.includes(1)
        made._folding.upto = -1
        with pytest.raises(BrokerUnavailable, match="still"):
            await made.caught_up()


async def test_entries_that_are_no_events_are_skipped_and_told_once_in_a_while(site, caplog):
    task = new_task()
    with caplog.at_level(logging.WARNING):
        site.log.write(*NO_EVENTS, encode_event(submitted(task)), *NO_EVENTS)
        async with site.projecting() as made:
            site.log.write(*NO_EVENTS)
            await made.caught_up()
            assert [decode_event(entry.body).id for entry in await read_all(made)] == [task.id]
    assert len(caplog.messages) == 1
    assert "are no events" in caplog.text


async def test_the_name_of_a_task_whose_beginning_is_gone_is_learned_when_it_is_told(site):
    run = Run(new_task("render"))
    running, output, progress = run.running(), run.output(), run.progress()
    site.write(output)
    async with site.projecting() as made:
        assert (await made.status(run.task.id)).name == ""
        site.write(running, progress)
        await made.caught_up()
        assert (await made.status(run.task.id)).name == "render"


# Lists


async def test_lists_by_state_by_owner_and_by_page(site):
    tasks = [new_task(owner=owner) for owner in ("ann", "bob", None, "ann", "bob", "ann")]
    site.write(*map(submitted, tasks), cancelled(tasks[3]), Run(tasks[4]).running())
    ids = [task.id for task in tasks]
    async with site.projecting() as made:

        async def listed(**wanted) -> list[int]:
            return [ids.index(status.id) for status in await made.statuses(**wanted)]

        assert await listed() == [5, 4, 3, 2, 1, 0]
        assert await listed(limit=2) == [5, 4]
        assert await listed(before=ids[4], limit=2) == [3, 2]
        assert await listed(before="unknown") == []
        assert await listed(state="queued") == [5, 2, 1, 0]
        assert await listed(state="cancelled") == [3]
        assert await listed(state="failed") == []
        assert await listed(owner="ann") == [5, 3, 0]
        assert await listed(owner="ann", state="queued", before=ids[5]) == [0]


async def test_the_snapshots_of_tasks_whose_events_lie_far_apart_are_read_from_the_server(site, monkeypatch):
    monkeypatch.setattr(ring, "RING_ENTRIES", 1)
    monkeypatch.setattr(bodies, "GAP", 40)
    runs = [Run(new_task()) for _ in range(20)]
    for number, run in enumerate(runs):
        site.write(submitted(run.task), run.running())
        site.write(run.succeeded(number))
        if number % 5 == 0:
            site.log.write(*[b"filler"] * 100)
    async with site.projecting() as made:
        assert [status.result for status in await made.statuses()] == list(reversed(range(20)))


async def test_an_earlier_submission_is_known(site):
    task = new_task(idempotency_key="july", args={"report": 7})
    event = submitted(task)
    site.write(event)
    async with site.projecting() as made:
        [first] = [entry.offset for entry in site.log.entries]
        known = await made.known(task.id)
        assert (known.name, known.fingerprint, known.first, known.state) == (
            "render",
            event.task.fingerprint,
            first,
            "queued",
        )
        site.write(cancelled(task))
        await made.caught_up()
        made._folding.save()
        known = await made.known(task.id)
        assert (known.state, known.fingerprint) == ("cancelled", event.task.fingerprint)
        assert known.cursor == await made.end()
        assert await made.known("nobody") is None


async def test_how_far_back_the_newest_lie(site):
    site.write(*(submitted(new_task()) for _ in range(10)))
    async with site.projecting() as made:
        entries = await read_all(made)
        assert made.recent(3) == entries[-4].offset
        assert made.recent(0) == entries[-1].offset
        assert made.recent(10) == made.bounds().first - 1
        assert made.recent(100) == made.bounds().first - 1


async def test_the_newest_are_found_though_they_are_not_in_memory(site, monkeypatch):
    monkeypatch.setattr(fold, "SEGMENT_BYTES", 1_000)
    site.write(*(submitted(new_task()) for _ in range(100)), *[submitted(new_task())] * 3)
    async with site.projecting():
        pass
    async with site.projecting() as made:
        entries = await read_all(made)
        for count in (0, 1, 10, 50):
            offset = made.recent(count)
            assert await made.at(offset)
            assert count <= len([entry for entry in entries if entry.offset > offset]) <= count + 20
        assert made.recent(1_000) == made.bounds().first - 1


async def test_stopping_waits_for_the_file_that_is_being_opened(site):
    site.write(*(submitted(new_task()) for _ in range(5)))
    async with site.projecting():
        pass
    before = site.file.read_bytes()
    for _ in range(5):
        made = Projection(site.server.driver(), QUEUE, Retention(), Table(site.file))
        starting = asyncio.ensure_future(made.start())
        await asyncio.sleep(0)
        starting.cancel()
        await made.stop()
        assert site.file.read_bytes() == before


# What is due


async def test_the_longest_wait(site):
    clock = Clock(new_task().submitted_at)
    async with site.projecting(clock=clock) as made:

        async def due_after(*events: Event) -> float | None:
            site.write(*events)
            await made.caught_up()
            return made.oldest_due()

        early, late = new_task(), new_task(delay=100)
        assert await due_after(submitted(late)) is None
        clock.now += 50
        assert await due_after(submitted(early)) == pytest.approx(early.submitted_at, abs=0.002)
        run = Run(early)
        assert await due_after(run.running()) is None
        clock.now += 60
        assert await due_after() == pytest.approx(late.not_before, abs=0.005)
        assert await due_after(cancelled(late)) is None
        await due_after(at(run.retrying(30), clock.now))
        assert await due_after() is None
        clock.now += 30
        assert await due_after() is not None
    async with site.projecting(clock=clock) as made:
        assert made.oldest_due() is not None


async def test_a_task_that_nobody_begins_expires(site):
    begun, waiting = (new_task(expires_at=seconds_from_now(100)) for _ in range(2))
    clock = Clock(waiting.submitted_at)
    async with site.projecting(clock=clock) as made:
        before = asyncio.ensure_future(made.submitted_to())
        await turns()
        site.write(submitted(new_task()), submitted(begun), submitted(waiting), Run(begun).running())
        await before
        await made.caught_up()
        assert made.ends_due(clock.now) == []
        assert made.next_end() == pytest.approx(waiting.expires_at, abs=0.002)
        clock.now += 101
        for _ in range(2):
            [end] = made.ends_due(clock.now)
            assert (end.id, end.attempt, end.error.type) == (waiting.id, 1, "expired")
        assert made.next_end() == float("inf")
        site.write(cancelled(waiting))
        await made.caught_up()
        assert made.ends_due(clock.now) == []


async def test_a_task_that_foreign_workers_do_not_answer_ends(site):
    answered, silent, later = new_task(), new_task(), new_task(delay=100)
    clock = Clock(silent.submitted_at)
    site.write(*map(submitted, (answered, silent, later)), Run(answered).succeeded())
    for _ in range(2):
        async with site.projecting(clock=clock, reply_within=30) as made:
            assert made.ends_due(silent.submitted_at + 29) == []
            [end] = made.ends_due(silent.submitted_at + 31)
            assert (end.id, end.error.type) == (silent.id, "no-reply")
            assert made.next_end() == pytest.approx(later.not_before + 30, abs=0.01)


# Retention


def at(event: Event, moment: float) -> Event:
    return replace(event, time=timestamp(moment))


async def test_no_more_is_shown_than_is_to_be_kept(site):
    site.retention = Retention(size=20_000)
    sizes: list[int] = []
    async with site.projecting() as made:
        for _ in range(100):
            run = Run(new_task())
            site.write(submitted(run.task), run.running(), run.succeeded("x" * 100))
            await made.caught_up()
            shown = await read_all(made)
            assert (made.bounds().first, made.bounds().last) == (shown[0].offset, shown[-1].offset)
            sizes.append(sum(len(entry.body) for entry in shown))
        assert 18_000 < sizes[-1] <= 20_000
        assert max(sizes) <= 20_000
        assert made.counts()["succeeded"] == len(await made.statuses(limit=1_000)) < 100
        first = made.bounds().first
        with pytest.raises(ResetRequired, match="trimmed"):
            await anext(made.read(first - 2))
        with pytest.raises(ResetRequired, match="trimmed"):
            await made.at(first - 1)
    async with site.projecting() as made:
        assert made.bounds().first == first
        assert await read_all(made) == shown


async def test_nothing_is_shown_that_is_too_old_by_the_time_it_was_written(site):
    task = new_task()
    clock = Clock(now := task.submitted_at)
    site.retention = Retention(age=1_000)
    runs = [Run(new_task()) for _ in range(100)]
    for number, run in enumerate(runs):
        moment = now - 2_000 + 20 * number
        site.write(at(submitted(run.task), moment), at(run.succeeded(number), moment))
    async with site.projecting(clock=clock) as made:

        async def kept() -> list[int]:
            return [status.result for status in await made.statuses()]

        assert set(range(51, 100)) <= set(await kept()) <= set(range(49, 100))
        clock.now += 500
        assert set(range(76, 100)) <= set(await kept()) <= set(range(74, 100))
        clock.now += 1_000
        assert await kept() == []
        bounds = made.bounds()
        assert bounds.first > bounds.last
        assert await made.end() == beginning(bounds.identity, bounds.last)
        reader = made.read(bounds.last)
        site.write(at(submitted(task), clock.now))
        assert decode_event((await anext(reader))[0].body).id == task.id
        await reader.aclose()


async def test_a_live_task_stays_when_its_events_are_gone(site):
    site.retention = Retention(size=5_000)
    waiting, running = new_task(), new_task()
    run = Run(running)
    site.write(submitted(waiting), submitted(running), run.running())
    async with site.projecting() as made:
        site.write(*(submitted(new_task()) for _ in range(3)))
        busy = Run(new_task())
        site.write(busy.running(), *(busy.progress(note="x" * 500) for _ in range(20)))
        await made.caught_up()
        assert made.bounds().first > site.log.entries[2].offset
        status = await made.status(waiting.id)
        assert (status.state, status.name) == ("queued", "render")
        assert status.cursor == beginning("log", made.bounds().first - 1)
    async with site.projecting() as made:
        site.write(run.succeeded())
        await made.caught_up()
        assert (await made.status(running.id)).state == "succeeded"
        assert (await made.status(waiting.id)).state == "queued"


async def test_what_the_server_has_trimmed_itself_is_gone(site):
    old, new = Run(new_task()), Run(new_task())
    site.write(submitted(old.task), old.running(), old.succeeded())
    [*_, last] = site.write(submitted(new.task), new.running(), new.succeeded())
    async with site.projecting() as made:
        reader = made.read(0)
        await anext(reader)
        await made.caught_up()
        site.log.trim(site.log.entries[2].offset)
        await made._folding._notice(site.log.bounds())
        assert made.bounds().first == site.log.bounds().first
        assert await made.status(old.task.id) is None
        assert (await made.status(new.task.id)).state == "succeeded"
        assert made.counts()["succeeded"] == 1
        await reader.aclose()
    site.log.trim(last)
    async with site.projecting() as made:
        assert await made.statuses() == []
        assert made.bounds().first > made.bounds().last


async def test_a_reader_is_told_when_the_server_trims_what_it_has_yet_to_read(site, monkeypatch):
    monkeypatch.setattr(ring, "RING_ENTRIES", 2)
    for _ in range(30):
        site.write(submitted(new_task()))

    async def read_on(batches) -> None:
        async for _ in batches:
            pass

    async with site.projecting() as made, aclosing(made.read(0)) as batches:
        await anext(batches)
        site.log.trim(site.log.entries[20].offset)
        with pytest.raises(ResetRequired, match="trimmed"):
            await read_to_the_end(batches)


# Another log


@pytest.mark.parametrize("while_away", [False, True])
@pytest.mark.parametrize("identity", ["log", "another", None])
async def test_a_log_that_was_recreated_is_folded_anew(site, identity, while_away):
    old, new = new_task(), new_task()
    site.server.identity = None if identity is None else "log"
    site.write(*(submitted(new_task()) for _ in range(3)), submitted(old))

    def recreate() -> None:
        log = site.server.recreate(QUEUE, identity)
        log.write(*(encode_event(submitted(task)) for task in (new_task(), new_task(), new_task(), new, new_task())))

    async with site.projecting() as made:
        if not while_away:
            reader = made.read(made.bounds().last)
            waiting = asyncio.ensure_future(anext(reader))
            await turns()
            recreate()
            with pytest.raises(ResetRequired, match=r"other-log|diverged"):
                await waiting
            await made.caught_up()
            await is_the_same(made, site.log.entries)
    if while_away:
        recreate()
    async with site.projecting() as made:
        await is_the_same(made, site.log.entries)
        assert await made.status(old.id) is None


async def test_a_log_that_was_cut_short_is_folded_anew(site):
    tasks = [new_task() for _ in range(6)]
    for task in tasks:
        site.write(submitted(task))
    async with site.projecting() as made, aclosing(made.read(made.bounds().last)) as reader:
        waiting = asyncio.ensure_future(anext(reader))
        await turns()
        site.log.cut_short(site.log.entries[3].offset)
        with pytest.raises(ResetRequired, match="ahead"):
            await waiting
        await made.caught_up()
        await is_the_same(made, site.log.entries)
        assert await made.status(tasks[5].id) is None


async def test_bounds_that_tell_of_another_log_are_believed(site):
    site.write(submitted(new_task()))
    async with site.projecting() as made, aclosing(made.read(made.bounds().last)) as reader:
        waiting = asyncio.ensure_future(anext(reader))
        await turns()
        site.log.identity = "another"
        await made._folding._notice(site.log.bounds())
        with pytest.raises(ResetRequired, match="other-log"):
            await waiting
        await made.caught_up()
        await is_the_same(made, site.log.entries)


async def test_one_look_is_enough_until_all_is_thrown_away(site):
    site.write(submitted(task := new_task()))
    async with site.projecting() as made:
        since = time.monotonic()
        await made.caught_up(since)
        looks = made._folding.look._begun
        await made.caught_up(since)
        assert made._folding.look._begun == looks
        site.log.identity = "another"
        await made._folding._notice(site.log.bounds())
        await made.caught_up(since)
        assert await made.status(task.id) is not None


# The file


async def test_a_projection_goes_on_where_its_predecessor_stopped(site):
    site.write(*(submitted(new_task()) for _ in range(5)))
    async with site.projecting():
        pass
    [*_, last] = site.log.entries
    asked: list[int] = []
    driver = site.server.driver()
    read = driver.read
    driver.read = lambda log, after: asked.append(after.offset) or read(log, after)
    made = Projection(driver, QUEUE, Retention(), Table(site.file))
    await made.start()
    await made.caught_up()
    assert asked == [last.offset]
    assert sum(made.counts().values()) == 5
    await made.stop()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda file: file.write_bytes(b"not a database at all" * 500), id="no database"),
        pytest.param(lambda file: file.write_bytes(b""), id="empty"),
        pytest.param(lambda file: file.write_bytes(file.read_bytes()[:5_000]), id="cut"),
        pytest.param(lambda file: do(file, "PRAGMA user_version = 999"), id="of another version"),
        pytest.param(lambda file: do(file, "UPDATE stamp SET boot = 'before'"), id="of before the machine's start"),
        pytest.param(lambda file: do(file, "UPDATE checkpoint SET body = x'00'"), id="with a strange checkpoint"),
        pytest.param(lambda file: do(file, "DROP TABLE mark"), id="without a table"),
    ],
)
async def test_a_file_that_cannot_be_used_is_made_anew(site, damage):
    run = Run(new_task())
    site.write(submitted(run.task), run.running(), run.running())
    async with site.projecting():
        pass
    for rest in site.folder.glob("*-*"):
        rest.unlink()
    damage(site.file)
    for _ in range(2):
        async with site.projecting() as made:
            await is_the_same(made, site.log.entries)


def do(file: Path, sql: str) -> None:
    db = sqlite3.connect(file)
    db.execute(sql)
    db.commit()
    db.close()


async def test_a_file_that_fails_in_use_is_folded_again_and_readers_notice_nothing(site):
    run = Run(new_task())
    site.write(submitted(run.task), run.running())
    async with site.projecting() as made, aclosing(made.read(made.bounds().last)) as reader:
        made._folding._table._db.executescript("DROP TABLE task")
        with pytest.raises(BrokerUnavailable):
            await made.statuses()
        await made.caught_up()
        await is_the_same(made, site.log.entries)
        event = run.progress()
        site.write(event)
        assert [decode_event(entry.body) for entry in await anext(reader)] == [event]


async def test_a_file_that_fails_again_and_again_is_given_up(site, caplog):
    site.write(submitted(new_task()))
    async with site.projecting() as made:
        for _ in range(3):
            made._folding._table._db.executescript("DROP TABLE task")
            with pytest.raises(BrokerUnavailable):
                await made.statuses()
            await made.caught_up()
            await is_the_same(made, site.log.entries)
        assert "in memory" in caplog.text
        assert list(site.folder.iterdir()) == []


async def test_where_no_file_can_be_made_all_is_kept_in_memory(site, caplog):
    site.folder = site.folder / "missing"
    site.write(submitted(new_task()))
    with caplog.at_level(logging.WARNING):
        async with site.projecting() as made:
            await is_the_same(made, site.log.entries)
    assert "in memory" in caplog.text


async def test_forgetting_goes_in_steps(site, monkeypatch):
    monkeypatch.setattr(fold, "SEGMENT_BYTES", 300)
    for _ in range(20):
        site.write(submitted(new_task()))
    async with site.projecting() as made:
        entries = site.log.entries
        steps = made._folding.fold.steps(entries[15].offset)
        assert len(steps) > 5
        assert steps == sorted(steps)
        assert steps[-1] == entries[15].offset


async def read_to_the_end(batches) -> None:
    async for _ in batches:
        pass
