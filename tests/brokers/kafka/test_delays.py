"""Tasks whose time has not come."""

import time

import pytest

from queuecast.brokers.kafka.delays import LEVELS, MAX_DELAY_SECONDS, TOPIC, letter_for, ready_at
from queuecast.brokers.kafka.headers import from_kafka
from queuecast.errors import InvalidInput

from .steps import ids, message, parcels, take


def arrived(letter):
    return from_kafka(letter.value, [(name, value.encode()) for name, value in letter.headers])


@pytest.mark.parametrize("delay", [0.001, 0.5, 0.999, 1, 1.5, 2, 3.999, 4, 3_600, 86_400.5, MAX_DELAY_SECONDS - 1])
def test_a_message_goes_from_longer_waits_to_shorter_ones_until_it_is_due(delay):
    now, hops, levels = 1_000.0, 0, []
    letter = letter_for("reports", message("a"), now + delay, now)
    while letter.topic == TOPIC:
        levels.append(letter.partition)
        ready = ready_at(arrived(letter))
        assert now < ready <= 1_000.0 + delay
        now, hops = ready, hops + 1
        letter = letter_for("reports", message("a"), 1_000.0 + delay, now)
    assert letter.topic == "reports"
    assert now == pytest.approx(1_000.0 + delay)
    assert levels == sorted(set(levels), reverse=True)
    assert levels[0] < LEVELS


def test_too_long_a_delay_is_refused():
    with pytest.raises(InvalidInput):
        letter_for("reports", message("a"), MAX_DELAY_SECONDS + 1.0, 0.0)


async def test_what_is_due_first_comes_first_and_nothing_comes_early(make, name, consume):
    driver = await make()
    intake = consume(driver, name)
    begun = time.time()
    delays = {"last": 2.3, "second": 1.2, "first": 0.4}
    for id, delay in delays.items():
        await driver.put(parcels(name, id, delay=delay))
    came = []
    for _ in delays:
        (handed,) = await take(intake, 1)
        came.append((handed.message.id, time.time() - begun))
        handed.settle()
    assert [id for id, _ in came] == ["first", "second", "last"]
    assert all(after >= delays[id] - 0.01 for id, after in came)


async def test_a_message_that_came_by_way_of_the_delays_is_as_it_was(make, name, consume):
    driver = await make()
    sent = message("a", b'{"a":1}', name="render", headers={"qc-attempt": 2})
    await driver.put([parcel._replace(message=sent) for parcel in parcels(name, "a", delay=0.1)])
    (handed,) = await take(consume(driver, name), 1)
    assert (handed.message, handed.again) == (sent, False)


async def test_what_waits_an_hour_holds_up_nothing(make, name, consume):
    driver = await make()
    await driver.put(parcels(name, "hour", delay=3_600))
    await driver.put(parcels(name, "soon", delay=0.1))
    assert ids(await take(consume(driver, name), 1)) == ["soon"]
