"""The control log as a process has read it, whatever the server does to it."""

import asyncio
from contextlib import aclosing

import pytest

from queuecast.brokers import CONTROL
from queuecast.brokers.folded import control
from queuecast.brokers.folded.control import ControlLog
from queuecast.control import TaskEnded, encode_control
from queuecast.errors import BrokerUnavailable, ResetRequired

from ..making import QUEUE, new_task
from ..steps import turns
from .fake_driver import FakeServer


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(control, "AGAIN_SECONDS", 0.001)


@pytest.fixture(params=["log", None], ids=["named", "nameless"])
def server(request):
    return FakeServer(request.param)


@pytest.fixture
def log(server):
    return server.logs[CONTROL]


@pytest.fixture
def follow(server, cleanup):
    """A driver and what it has read of the control log, from the beginning to now."""

    async def follow():
        driver = server.driver()
        made = ControlLog(driver)
        cleanup.push_async_callback(made.stop)
        await made.start()
        return driver, made

    return follow


async def bodies_of(made, after=None):
    """What it holds."""
    bounds = made.bounds()
    after = bounds.first - 1 if after is None else after
    if after >= bounds.last:
        return []
    async with aclosing(made.read(after)) as batches:
        return [entry.body for entry in await anext(batches)]


async def test_everything_that_was_posted_before_is_known_when_it_has_started(log, follow):
    log.write(*(b"%d" % number for number in range(50)))
    _, made = await follow()
    assert await bodies_of(made) == [b"%d" % number for number in range(50)]


async def test_it_begins_where_the_server_still_has_it(log, follow):
    offsets = log.write(b"1", b"2", b"3")
    log.trim(offsets[1])
    _, made = await follow()
    assert await bodies_of(made) == [b"3"]
    assert made.bounds() == (offsets[2], offsets[2], log.identity)


async def test_an_own_post_is_known_when_it_is_included(follow):
    driver, made = await follow()
    number = await driver.append(CONTROL, [b"1"])
    await made.includes(number)
    assert await bodies_of(made) == [b"1"]


async def test_another_processs_post_is_known_when_it_has_caught_up(log, follow):
    _, made = await follow()
    log.write(b"1")
    await made.caught_up()
    assert await bodies_of(made) == [b"1"]


async def test_a_lost_connection_neither_repeats_nor_loses(server, log, follow):
    _, made = await follow()
    for number in range(10):
        log.write(b"%d" % number)
        server.cut()
        await turns()
    await made.caught_up()
    assert await bodies_of(made) == [b"%d" % number for number in range(10)]


async def test_the_oldest_are_let_go_and_a_reader_that_wanted_them_is_told(log, follow, monkeypatch):
    monkeypatch.setattr(control, "MAX_KEPT", 10)
    _, made = await follow()
    async with aclosing(made.read(made.bounds().last)) as batches:
        log.write(*(b"%d" % number for number in range(5)))
        assert len(await anext(batches)) == 5
        log.write(*(b"%d" % number for number in range(5, 30)))
        await made.caught_up()
        with pytest.raises(ResetRequired, match="trimmed"):
            await anext(batches)
    assert await bodies_of(made) == [b"%d" % number for number in range(20, 30)]


async def test_beyond_the_end_there_is_nothing_to_read(log, follow):
    log.write(b"1")
    _, made = await follow()
    async with aclosing(made.read(made.bounds().last + 1)) as batches:
        with pytest.raises(ResetRequired, match="ahead"):
            await anext(batches)


async def test_a_message_is_found_by_its_offset(log, follow):
    first, second = log.write(b"1", b"2")
    _, made = await follow()
    assert (await made.at(first), await made.at(second)) == (b"1", b"2")
    with pytest.raises(ResetRequired, match="trimmed"):
        await made.at(second + 1)


async def test_the_newest_are_found_by_their_number(log, follow):
    offsets = log.write(*(b"%d" % number for number in range(10)))
    _, made = await follow()
    assert made.recent(3) == offsets[-4]
    assert made.recent(100) == made.bounds().first - 1


class TestRecreated:
    """It was deleted, and another one has its name."""

    @pytest.fixture
    def recreate(self, server):
        return lambda *bodies: server.recreate(CONTROL, server.identity and "another").write(*bodies)

    async def test_its_readers_are_told(self, log, follow, recreate):
        log.write(*(b"%d" % number for number in range(30)))
        _, made = await follow()
        async with aclosing(made.read(made.bounds().last)) as batches:
            waiting = asyncio.ensure_future(anext(batches))
            await turns()
            recreate(b"new")
            with pytest.raises(ResetRequired, match="diverged"):
                await waiting
        await made.caught_up()
        assert await bodies_of(made) == [b"new"]

    async def test_all_of_the_new_one_is_known_when_it_has_caught_up(self, log, follow, recreate):
        """Though it is shorter. Of a nameless one only the reader learns that it is another."""
        log.write(*(b"%d" % number for number in range(300)))
        _, made = await follow()
        recreate(b"new")
        await made.caught_up()
        assert log.identity is None or await bodies_of(made) == [b"new"]

    async def test_whoever_waits_for_an_own_post_goes_on(self, log, follow, recreate):
        driver, made = await follow()
        number = await driver.append(CONTROL, [b"old"])
        waiting = asyncio.ensure_future(made.includes(number + 1))
        await turns()
        recreate(b"new")
        await waiting
        assert await bodies_of(made) == [b"new"]

    async def test_what_had_ended_stays_so(self, log, follow, recreate):
        task = new_task()
        log.write(encode_control(TaskEnded(QUEUE, task.id, task.submitted_at)))
        _, made = await follow()
        waiting = asyncio.ensure_future(made.includes(1))
        await turns()
        recreate(b"new")
        await waiting
        assert await bodies_of(made) == [b"new"]
        assert made.ended(task)
        assert not made.ended(new_task())


async def test_what_is_of_a_newer_version_is_passed_by(log, follow):
    log.write(b'{"type":"of tomorrow"}', b"\xff")
    _, made = await follow()
    assert len(await bodies_of(made)) == 2


async def test_whoever_waits_too_long_is_told(server, follow, monkeypatch):
    _, made = await follow()
    monkeypatch.setattr(control, "START_SECONDS", 0.0)
    with pytest.raises(BrokerUnavailable):
        await made.includes(1)


async def test_whoever_waits_is_told_that_it_stops(log, follow):
    _, made = await follow()
    async with aclosing(made.read(made.bounds().last)) as batches:
        waiting = [asyncio.ensure_future(anext(batches)), asyncio.ensure_future(made.includes(1))]
        await turns()
        await made.stop()
        for each in waiting:
            with pytest.raises(BrokerUnavailable):
                await each
