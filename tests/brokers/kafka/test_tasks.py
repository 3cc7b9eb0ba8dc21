"""Putting tasks into topics and taking them."""

import asyncio
import random
from collections import Counter

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import OffsetSpec

from queuecast.brokers.folded.driver import Parcel
from queuecast.brokers.kafka.member import group_of
from queuecast.brokers.kafka.watermarks import TOPIC as WATERMARKS
from queuecast.errors import BrokerUnavailable, OutcomeUnknown

from .steps import ids, message, parcels, take, until


async def test_a_message_comes_back_as_it_was(make, name, consume):
    driver = await make()
    sent = message(
        "id",
        b'{"a":1}',
        name="render",
        content_type="application/json",
        reply_to="elsewhere",
        correlation_id="c-1",
        headers={"text": "ü", "qc-attempt": 3},
    )
    await driver.put([Parcel(name, sent)])
    (handed,) = await take(consume(driver, name), 1)
    assert handed.message == sent


async def test_what_is_settled_is_gone_and_what_is_not_comes_again(make, name, consume):
    driver = await make()
    await driver.put(parcels(name, "a", "b", "c"))
    intake = consume(driver, name)
    a, b, c = await take(intake, 3)
    c.settle()
    b.settle()
    await intake.aclose()
    a.settle()  # too late: it is somebody else's
    intake = consume(driver, name)
    await driver.put(parcels(name, "d"))
    again, new = await take(intake, 2)
    assert (ids([again, new]), again.again, new.again) == (["a", "d"], True, False)


async def test_what_is_given_back_is_handed_out_again(make, name, consume):
    driver = await make()
    await driver.put(parcels(name, "a"))
    intake = consume(driver, name)
    (first,) = await take(intake, 1)
    first.give_back()
    (second,) = await take(intake, 1)
    assert (second.message.id, second.again) == ("a", True)
    first.settle()  # has been dealt with before: this must not settle the second
    second.give_back()
    assert (await anext(intake)).message.id == "a"


async def test_one_long_task_holds_up_nothing_and_makes_nobody_repeat_what_came_after_it(make, name, consume):
    driver = await make()
    intake = consume(driver, name, concurrency=5)
    await driver.put(parcels(name, "long", *map(str, range(3_000))))
    (long,) = await take(intake, 1)
    for number in range(3_000):
        (handed,) = await take(intake, 1)
        assert handed.message.id == str(number)
        handed.settle()
    await intake.aclose()
    assert long.message.id == "long"
    intake = consume(await make(), name)
    await driver.put(parcels(name, "new"))
    assert ids(await take(intake, 2)) == ["long", "new"]


async def test_what_is_finished_is_deleted(make, name, consume, admin):
    driver = await make()
    await driver.put(parcels(name, "a", "b"))
    intake = consume(driver, name)
    for handed in await take(intake, 2):
        handed.settle()
    await intake.aclose()
    partition = TopicPartition(name, 0)
    assert admin.list_offsets({partition: OffsetSpec.earliest()})[partition].result().offset == 2


async def test_what_is_finished_is_known_when_the_group_has_forgotten_it(make, name, consume, admin):
    driver = await make()
    await driver.put(parcels(name, "a", "b", "c"))
    intake = consume(driver, name)
    a, b, _ = await take(intake, 3)
    b.settle()
    await intake.aclose()
    for deleted in admin.delete_consumer_groups([group_of(name)]).values():
        deleted.result()
    [asked] = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group_of(name))]).values()
    assert not [each for each in asked.result().topic_partitions if each.offset >= 0]
    again = await take(consume(driver, name), 2)
    assert (ids(again), [each.again for each in again]) == (["a", "c"], [True, True])
    assert a.message.id == "a"


async def test_a_queue_that_is_made_again_begins_anew(make, name, consume, admin):
    driver = await make()
    await driver.put(parcels(name, "a", "b"))
    intake = consume(driver, name)
    for handed in await take(intake, 2):
        handed.settle()
    await intake.aclose()
    admin.delete_topics([name])[name].result()
    await until(lambda: name not in admin.list_topics(timeout=10).topics)
    driver = await make()
    await driver.put(parcels(name, "new"))
    (handed,) = await take(consume(driver, name), 1)
    assert (handed.message.id, handed.again) == ("new", False)
    assert WATERMARKS in admin.list_topics(timeout=10).topics


async def test_putting_into_a_topic_that_is_not_there_is_refused(make):
    driver = await make()
    with pytest.raises(BrokerUnavailable):
        await driver.put(parcels("nowhere", "a"))


async def test_putting_into_two_of_which_one_is_there_has_an_unknown_outcome(make, name):
    driver = await make()
    with pytest.raises(OutcomeUnknown):
        await driver.put([*parcels(name, "a"), *parcels("nowhere", "b")])


async def test_an_answer_to_a_topic_that_is_gone_is_no_error(make):
    driver = await make()
    await driver.reply("nowhere", message("answer"))


@pytest.mark.bound(90)
async def test_nothing_is_lost_while_workers_join_and_leave(make, name):
    """Three members of the group, of which two leave and join again every few seconds."""
    count, chance = 3_000, random.Random(7)
    drivers = [await make(partitions=4) for _ in range(3)]
    done: Counter[str] = Counter()

    async def work(driver):
        intake = driver.consume(name, 20)
        lost = set()
        intake.on_lost = lost.add

        async def run(handed):
            await asyncio.sleep(chance.random() * 0.02)
            if handed not in lost:
                done[handed.message.id] += 1
                handed.settle()

        running = set()
        try:
            async for handed in intake:
                running.add(task := asyncio.create_task(run(handed)))
                task.add_done_callback(running.discard)
        finally:
            intake.stop()
            await asyncio.gather(*running)
            await intake.aclose()

    async def come_and_go(driver):
        while True:
            try:
                async with asyncio.timeout(1 + chance.random() * 2):
                    await work(driver)
            except TimeoutError:
                pass

    staying = asyncio.create_task(work(drivers[0]))
    moving = [asyncio.create_task(come_and_go(driver)) for driver in drivers[1:]]
    try:
        for start in range(0, count, 100):
            await drivers[0].put(parcels(name, *map(str, range(start, start + 100))))
            await asyncio.sleep(0.2)
        await until(lambda: len(done) == count)
    finally:
        for task in (staying, *moving):
            task.cancel()
        await asyncio.gather(staying, *moving, return_exceptions=True)
    again = sum(done.values()) - count
    print(f"{again} of {count} were run again")
    assert again <= count // 100
