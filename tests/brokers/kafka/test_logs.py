"""Logs: topics of one partition, read without a group."""

import asyncio
from concurrent.futures import Future
from contextlib import aclosing
from types import SimpleNamespace

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException

from queuecast.brokers.kafka.reader import watch
from queuecast.cursor import beginning, cursor_at
from queuecast.errors import ResetRequired

from .steps import trim, until


async def read(driver, log, after, count):
    entries = []
    async with aclosing(driver.read(log, after)) as pages:
        async for page in pages:
            entries += page.entries
            if len(entries) >= count:
                return entries
    return entries


async def test_offsets_begin_with_one_and_have_no_gaps(make, name):
    driver = await make()
    assert await driver.append(name, [b"a", b"b"]) == 2
    assert await driver.append(name, [b"c"]) == 3
    bounds = await driver.bounds(name)
    assert (bounds.first, bounds.last) == (1, 3)
    assert await read(driver, name, beginning(None), 3) == [(1, b"a"), (2, b"b"), (3, b"c")]


async def test_two_readers_of_one_log_are_at_places_of_their_own(make, name):
    driver = await make()
    await driver.append(name, [b"%d" % number for number in range(100)])
    async with aclosing(driver.read(name, beginning(None, 90))) as one:
        entries = []
        while len(entries) < 10:
            entries += (await anext(one)).entries
        assert [entry.offset for entry in await read(driver, name, beginning(None, 10), 90)] == list(range(11, 101))
        await driver.append(name, [b"new"])
        while not (page := await anext(one)).entries:
            pass
        assert page.entries == [(101, b"new")]


async def test_a_reader_that_is_slow_gets_all_of_it(make, name):
    driver = await make()
    body = b"x" * 1_000
    await asyncio.gather(*(driver.append(name, [body] * 1_000) for _ in range(50)))
    seen = 0
    async with aclosing(driver.read(name, beginning(None))) as pages:
        while seen < 50_000:
            for offset, _ in (await anext(pages)).entries:
                assert offset == seen + 1
                seen = offset
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda cursor: cursor._replace(digest="00c0ffee"), "diverged"),
        (lambda cursor: cursor._replace(offset=4), "ahead"),
        (lambda cursor: cursor._replace(identity="0123456789abcdef"), "other-log"),
    ],
)
async def test_a_cursor_that_fits_nothing_here(make, name, change, reason):
    driver = await make()
    await driver.append(name, [b"a", b"b", b"c"])
    cursor = cursor_at((await driver.bounds(name)).identity, 3, b"c")
    async with aclosing(driver.read(name, cursor)) as pages:
        assert (await anext(pages)).entries == []
    with pytest.raises(ResetRequired, match=reason):
        await read(driver, name, change(cursor), 1)


async def test_who_begins_before_what_is_left_is_told(make, name, admin):
    driver = await make()
    await driver.append(name, [b"a", b"b", b"c"])
    trim(admin, f"_qc.events.{name}", 2)
    bounds = await driver.bounds(name)
    assert (bounds.first, bounds.last) == (3, 3)
    with pytest.raises(ResetRequired, match="trimmed"):
        await read(driver, name, beginning(bounds.identity, 1), 1)
    assert await read(driver, name, beginning(bounds.identity, 2), 1) == [(3, b"c")]


async def test_a_reader_learns_that_its_log_is_another_one_now(make, name, admin):
    driver = await make()
    await driver.append(name, [b"a", b"b"])
    identity = (await driver.bounds(name)).identity
    reader = driver.read(name, beginning(identity, 2))
    assert (await anext(reader)).upto == 2
    topic = f"_qc.events.{name}"
    admin.delete_topics([topic])[topic].result()
    await until(lambda: topic not in admin.list_topics(timeout=10).topics)
    await driver.declare(name, None)
    with pytest.raises(ResetRequired, match="other-log"):
        await anext(reader)
    assert (await driver.bounds(name)).identity != identity


async def test_a_log_that_was_deleted_is_there_again_for_its_next_reader(make, name, admin):
    driver = await make()
    topic = f"_qc.events.{name}"
    admin.delete_topics([topic])[topic].result()
    await until(lambda: topic not in admin.list_topics(timeout=10).topics)
    async with aclosing(driver.read(name, beginning(None))) as pages:
        assert (await anext(pages)).upto == 0


async def test_a_log_that_the_broker_asked_does_not_know_of_yet_is_waited_for(make, name, monkeypatch):
    """In a cluster, each broker hears of what is made at a time of its own."""
    driver = await make()
    extent = driver._topics.extent
    unaware = 3

    async def heard_late(topic):
        nonlocal unaware
        unaware -= 1
        return await extent(topic) if unaware < 0 else None

    monkeypatch.setattr(driver._topics, "extent", heard_late)
    assert (await driver.bounds(name)).last == 0


@pytest.mark.parametrize("code", [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError._TIMED_OUT, None])
async def test_a_log_whose_leader_is_another_one_now_is_asked_for_again(make, name, monkeypatch, code):
    """Where nobody has answered in time the client raises nothing, and tells an offset that is none."""
    driver = await make()
    await driver.append(name, [b"a"])
    admin = driver._topics._admin
    ask, asked = admin.list_offsets, 0

    def moved(wanted, **options):
        nonlocal asked
        asked += 1
        answers = ask(wanted, **options)
        if asked <= 3:
            for partition in wanted:
                answers[partition] = Future()
                if code is None:
                    answers[partition].set_result(SimpleNamespace(offset=OFFSET_INVALID))
                else:
                    answers[partition].set_exception(KafkaException(KafkaError(code)))
        return answers

    monkeypatch.setattr(admin, "list_offsets", moved)
    assert (await driver.bounds(name)).last == 1


@pytest.mark.parametrize(
    ("told", "ends"),
    [([None, "one", "one"], False), ([None, None], True), (["another"], True), ([None, "one", None, "one"], False)],
)
async def test_a_reader_is_told_that_its_log_is_gone_once_that_is_certain(monkeypatch, told, ends):
    monkeypatch.setattr("queuecast.brokers.kafka.reader.WATCH_SECONDS", 0)
    failures = []
    feed = SimpleNamespace(topic="log", identity="one", fail=failures.append)
    answers = iter(told)

    class Broker:
        async def identities(self, names):
            try:
                return {"log": next(answers)}
            except StopIteration:
                raise asyncio.CancelledError from None

    with pytest.raises(asyncio.CancelledError):
        await watch(SimpleNamespace(feeds=[feed]), Broker())
    assert [reset.reason for reset in failures] == ["other-log"] * ends
