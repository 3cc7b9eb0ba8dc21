"""The ladder hands a message over when it is due, and not before."""

import asyncio
import secrets
import time

import pytest

from queuecast.brokers.folded.driver import Parcel
from queuecast.brokers.rabbitmq.delays import LEVELS, MAX_DELAY_SECONDS, entrance
from queuecast.errors import BrokerUnavailable, InvalidInput

from .steps import message, parcels, plain, take


@pytest.mark.parametrize("delay", [0.001, 0.06, 0.1, 0.12, 0.5, 1.3])
async def test_a_delayed_message_comes_when_it_is_due(make, name, consume, delay):
    driver = await make()
    intake = consume(driver, name)
    began = time.monotonic()
    await driver.put(parcels(name, "a", delay=delay))
    handed = await anext(intake)
    assert time.monotonic() - began >= delay
    assert (handed.message.id, handed.again) == ("a", False)


async def test_a_short_delay_overtakes_a_long_one(make, name, consume):
    driver = await make()
    delays = {"late": 1.0, "soon": 0.2, "now": 0.0, "middle": 0.6}
    await driver.put([Parcel(name, message(id), delay) for id, delay in delays.items()])
    handed = await take(consume(driver, name), 4)
    assert [each.message.id for each in handed] == ["now", "soon", "middle", "late"]


async def test_a_message_keeps_what_it_carries(make, name, consume):
    driver = await make()
    sent = message("id", b"[1]", name="n", reply_to="r", correlation_id="c", headers={"x": 1})
    await driver.put([Parcel(name, sent, 0.3)])
    (handed,) = await take(consume(driver, name), 1)
    assert (handed.message.id, handed.message.name, handed.message.body) == ("id", "n", b"[1]")
    assert handed.message.headers["x"] == 1


async def test_queues_whose_names_end_alike_are_not_mixed_up(make, open_driver, consume, url, name):
    driver = await make()
    longer = f"x-{name}"
    try:
        await driver.declare(longer, None)
        await driver.put([*parcels(name, "a", delay=0.1), *parcels(longer, "b", delay=0.1)])
        assert (await anext(consume(driver, name))).message.id == "a"
        assert (await anext(consume(driver, longer))).message.id == "b"
    finally:
        with plain(url) as channel:
            for queue in (longer, f"_qc.events.{longer}"):
                channel.queue_delete(queue)


async def test_a_delay_for_a_queue_that_is_not_there_is_an_error(make):
    driver = await make()
    with pytest.raises(BrokerUnavailable, match="no queue"):
        await driver.put(parcels(f"nowhere-{secrets.token_hex(4)}", "a", delay=1))


async def test_drivers_that_build_the_ladder_at_once_do_not_disturb_each_other(make, name, consume):
    drivers = [await make() for _ in range(3)]
    await asyncio.gather(*(driver.put(parcels(name, "a", delay=0.3)) for driver in drivers))
    assert len(await take(consume(drivers[0], name), 3)) == 3


def test_the_steps_add_up_to_the_delay():
    for delay in (0.001, 0.1, 0.101, 1, 59.94, 3_600, 604_800, MAX_DELAY_SECONDS):
        level, key = entrance("q", delay)
        *bits, queue = key.split(".")
        waits = sum(int(bit) << (LEVELS - 1 - place) for place, bit in enumerate(bits)) / 10
        assert queue == "q"
        assert len(bits) == LEVELS
        assert bits.index("1") == LEVELS - 1 - level
        assert delay <= waits < delay + 0.1


def test_too_long_a_delay_is_refused():
    with pytest.raises(InvalidInput, match="limit"):
        entrance("q", MAX_DELAY_SECONDS + 1)


def test_any_name_is_one_word():
    _, key = entrance("a.b*#/ü", 1)
    assert key.count(".") == LEVELS
    assert "*" not in key
    assert "#" not in key
