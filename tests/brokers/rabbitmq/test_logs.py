"""Appending to logs, reading them from any place, and where they begin and end."""

import asyncio

import pytest

from queuecast.brokers import CONTROL, Retention
from queuecast.brokers.folded.driver import DEAD
from queuecast.brokers.rabbitmq import reader
from queuecast.cursor import Cursor, beginning, cursor_at
from queuecast.errors import BrokerUnavailable, ResetRequired

from .steps import START, bodies, plain, read

SMALL = Retention(age=3_600, size=100_000)
"""Bytes: a few segments of the least size."""


async def appended(driver, log, *events):
    return await driver.append(log, [event.encode() for event in events])


async def test_what_is_appended_is_read_in_its_order(make, name):
    driver = await make()
    numbers = [await appended(driver, name, "a", "b"), await appended(driver, name, "c")]
    assert numbers == [1, 2]
    entries = await read(driver, name, 3)
    assert bodies(entries) == [b"a", b"b", b"c"]
    assert entries[0].offset < entries[1].offset < entries[2].offset


async def test_calls_that_do_not_wait_keep_their_order(make, name):
    driver = await make()
    calls = [driver.append(name, [b"%d" % number]) for number in range(3_000)]
    assert await asyncio.gather(*calls) == list(range(1, 3_001))
    assert bodies(await read(driver, name, 3_000)) == [b"%d" % number for number in range(3_000)]


async def test_an_append_larger_than_an_entry_is_whole(make, name):
    driver = await make()
    events = [b"%d" % number for number in range(2_500)]
    large = [b"x" * 200_000, b"y" * 500_000, b"z" * 100_000]
    await asyncio.gather(driver.append(name, events), driver.append(name, large))
    assert bodies(await read(driver, name, 2_503)) == events + large


async def test_an_append_of_nothing_is_done(make, name):
    driver = await make()
    assert await driver.append(name, []) == 1
    assert await appended(driver, name, "a") == 2


async def test_reading_goes_on_from_any_event(make, name):
    driver = await make()
    await asyncio.gather(*(driver.append(name, [b"%d" % number]) for number in range(50)))
    entries = await read(driver, name, 50)
    for place, entry in enumerate(entries[:-1]):
        rest = await read(driver, name, 49 - place, cursor_at(None, *entry))
        assert rest == entries[place + 1 :]


async def test_a_reader_waits_for_more(make, name):
    driver, other = await make(), await make()
    await appended(driver, name, "a")
    reading = driver.read(name, START)
    assert bodies((await anext(reading)).entries) == [b"a"]
    more = asyncio.ensure_future(anext(reading))
    await appended(other, name, "b")
    assert bodies((await more).entries) == [b"b"]
    await reading.aclose()


async def test_a_reader_at_the_end_goes_on_though_nothing_comes_at_first(make, name, monkeypatch):
    monkeypatch.setattr(reader, "LOOK_SECONDS", 0.2)
    driver = await make()
    reading = driver.read(name, START)
    assert (await anext(reading)).entries == []  # it has asked where the log ends
    await appended(driver, name, "a")
    assert bodies((await anext(reading)).entries) == [b"a"]
    await reading.aclose()


async def test_a_page_tells_how_far_its_reader_has_got_with_what_this_driver_wrote(make, name):
    driver, other = await make(), await make()
    reading = driver.read(name, START)
    await appended(other, name, "x")
    assert (await anext(reading)).own == 0
    await driver.append(name, [b"a", b"b"])
    assert (await anext(reading)).own == 1
    await asyncio.gather(driver.append(name, [b"c"]), driver.append(name, [b"d"]))
    while (await anext(reading)).own < 3:
        pass
    await reading.aclose()


@pytest.mark.parametrize("log", [CONTROL, DEAD])
async def test_the_logs_that_belong_to_no_queue(open_driver, url, log):
    driver = await open_driver(url)
    after = beginning(None, (await driver.bounds(log)).last)
    await driver.append(log, [b'{"type":"test"}'])
    assert bodies(await read(driver, log, 1, after)) == [b'{"type":"test"}']


async def test_the_bounds_of_a_log(make, name):
    driver = await make()
    empty = await driver.bounds(name)
    assert empty.first > empty.last
    await appended(driver, name, "a", "b")
    entries = await read(driver, name, 2)
    bounds = await driver.bounds(name)
    # What lies before its first event was none, so that nobody has missed any: a log begins where it began before.
    assert bounds.first == empty.first <= entries[0].offset
    assert bounds.last >= entries[-1].offset


async def test_whoever_reads_on_gets_a_page_at_the_bounds(make, name):
    driver, other = await make(), await make()
    await appended(driver, name, "a")
    reading = other.read(name, START)
    await anext(reading)
    bounds = await driver.bounds(name)
    while (await anext(reading)).upto < bounds.last:
        pass
    await reading.aclose()
    later = other.read(name, beginning(None, bounds.last))
    page = await anext(later)
    assert (page.entries, page.upto >= bounds.last) == ([], True)
    await later.aclose()


async def test_a_recent_place_is_one_of_the_last_events(make, name):
    driver = await make()
    assert (await driver.recent(name)).digest == "0"
    for number in range(300):
        await driver.append(name, [b"%d" % number])
    place = await driver.recent(name)
    await appended(driver, name, "after")
    rest = await read(driver, name, 1, place)
    assert int(place.offset) > 0
    assert place.digest != "0"
    assert rest[0].body == b"after"


async def test_a_recent_place_is_found_behind_many_entries_without_events(make, name):
    driver = await make()
    await appended(driver, name, "a")
    (entry,) = await read(driver, name, 1)
    for _ in range(10):
        await asyncio.gather(*(driver.bounds(name) for _ in range(25)))
    assert await driver.recent(name) == cursor_at(None, *entry)


async def test_another_event_at_the_cursor_is_noticed(make, name):
    driver = await make()
    await appended(driver, name, "a", "b")
    entries = await read(driver, name, 2)
    with pytest.raises(ResetRequired, match="diverged"):
        await read(driver, name, 1, cursor_at(None, entries[0].offset, b"other"))
    with pytest.raises(ResetRequired, match="diverged"):
        await read(driver, name, 1, cursor_at(None, entries[1].offset + 1, b"c"))
    assert bodies(await read(driver, name, 1, Cursor(None, entries[0].offset, "0"))) == [b"b"]


async def test_a_cursor_beyond_the_end_is_noticed(make, name):
    driver = await make()
    await appended(driver, name, "a")
    with pytest.raises(ResetRequired, match="ahead"):
        await read(driver, name, 1, Cursor(None, 5_000_000, "12345678"))


async def test_what_is_trimmed_is_noticed(make, name):
    driver = await make(retention=SMALL)
    await appended(driver, name, "first")
    (first,) = await read(driver, name, 1)
    while (await driver.bounds(name)).first <= first.offset:
        await driver.append(name, [b"x" * 30_000] * 3)
    for gone in (START, cursor_at(None, *first)):
        with pytest.raises(ResetRequired, match="trimmed"):
            await read(driver, name, 1, gone)
    bounds = await driver.bounds(name)
    (oldest,) = await read(driver, name, 1, beginning(None, bounds.first - 1))
    assert first.offset < bounds.first <= oldest.offset


async def test_a_log_that_was_made_anew_is_noticed(make, name, url):
    driver = await make()
    for event in "abc":
        await appended(driver, name, event)
    entries = await read(driver, name, 3)
    reading = driver.read(name, START)
    await anext(reading)
    with plain(url) as channel:
        channel.queue_delete(f"_qc.events.{name}")
    with pytest.raises(BrokerUnavailable, match="deleted"):
        await _read_to_the_end(reading)
    began = asyncio.get_running_loop().time()
    with pytest.raises(ResetRequired, match="ahead"):
        await read(driver, name, 1, cursor_at(None, *entries[-1]))
    assert asyncio.get_running_loop().time() - began < reader.LOOK_SECONDS + 2
    await appended(driver, name, "x", "y", "z")
    await appended(driver, name, "x")
    await appended(driver, name, "x")
    with pytest.raises(ResetRequired, match="diverged"):
        await read(driver, name, 1, cursor_at(None, *entries[-1]))


async def test_a_log_that_was_deleted_is_there_again_for_the_next_append(make, name, url):
    driver = await make()
    await appended(driver, name, "a")
    with plain(url) as channel:
        channel.queue_delete(f"_qc.events.{name}")
    await asyncio.gather(*(driver.append(name, [b"%d" % number]) for number in range(20)))
    assert bodies(await read(driver, name, 20)) == [b"%d" % number for number in range(20)]


async def test_a_plain_program_reads_lines(make, name, url):
    driver = await make()
    await driver.append(name, [b'{"a":1}', b'{"b":2}'])
    with plain(url) as channel:
        channel.basic_qos(prefetch_count=10)
        got = channel.consume(f"_qc.events.{name}", arguments={"x-stream-offset": "first"}, inactivity_timeout=10)
        _, properties, body = next(got)
        channel.cancel()
    assert body == b'{"a":1}\n{"b":2}'
    assert properties.content_type == "application/x-ndjson"


async def _read_to_the_end(reading) -> None:
    async for _ in reading:
        pass
