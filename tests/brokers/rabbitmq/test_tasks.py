"""Putting tasks into queues and taking them."""

import asyncio

import pika
import pytest
from msgspec.structs import replace

from queuecast.brokers import External
from queuecast.brokers.folded.driver import Parcel
from queuecast.errors import BrokerUnavailable, InvalidInput, OutcomeUnknown

from .steps import depth, message, parcels, plain, take

TIMES = 30
"""More than RabbitMQ 4 hands out a quorum queue's message, which is 21 times."""


async def test_what_is_put_is_handed_out_in_its_order(make, name, consume):
    driver = await make()
    await driver.put(parcels(name, "a", "b"))
    await driver.put(parcels(name, "c"))
    handed = await take(consume(driver, name), 3)
    assert [each.message.id for each in handed] == ["a", "b", "c"]
    assert [each.again for each in handed] == [False] * 3


async def test_a_message_comes_back_as_it_was(make, name, consume):
    driver = await make()
    sent = message(
        "id",
        b'{"a":1}',
        name="render",
        content_type="application/json",
        reply_to="elsewhere",
        correlation_id="c-1",
        headers={"text": "ü", "small": 1, "large": 1 << 40, "negative": -1, "yes": True, "no": False},
    )
    await driver.put([Parcel(name, sent)])
    (handed,) = await take(consume(driver, name), 1)
    assert handed.message == sent
    assert [type(value) for value in handed.message.headers.values()] == [
        type(sent.headers[key]) for key in handed.message.headers
    ]


async def test_a_float_among_the_headers_comes_back_as_its_text(make, name, consume):
    driver = await make()
    await driver.put([Parcel(name, message("id", headers={"qc-timeout": 0.1}))])
    (handed,) = await take(consume(driver, name), 1)
    assert float(handed.message.headers["qc-timeout"]) == 0.1


@pytest.mark.parametrize("size", [0, 131_064, 131_065, 400_000])
async def test_a_body_of_any_size(make, name, consume, size):
    driver = await make()
    await driver.put([Parcel(name, message("id", b"x" * size))])
    (handed,) = await take(consume(driver, name), 1)
    assert handed.message.body == b"x" * size


async def test_what_is_settled_is_gone_and_what_is_not_comes_again(make, name, consume):
    driver = await make()
    await driver.put(parcels(name, "a", "b"))
    intake = consume(driver, name)
    settled, kept = await take(intake, 2)
    settled.settle()
    await intake.aclose()
    kept.settle()  # too late: it is somebody else's
    (again,) = await take(consume(driver, name), 1)
    assert (again.message.id, again.again) == ("b", True)


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


async def test_what_is_handed_out_again_and_again_is_not_dropped(open_driver, url, name, consume):
    """As by workers that are replaced while they run it, or that die."""
    driver = await open_driver(f"{url}?type=quorum")
    await driver.declare(name, None)
    sent = message("a", b'{"number":1}', name="render", reply_to="r", correlation_id="c", headers={"qc-attempt": 2})
    await driver.put([Parcel(name, sent)])
    for number in range(TIMES):
        intake = consume(driver, name)
        handed = await anext(intake)
        assert handed.again == (number > 0)
        await intake.aclose()
    kept = {key: value for key, value in handed.message.headers.items() if key == "qc-attempt"}
    assert replace(handed.message, headers=kept) == sent
    assert depth(url, name) == 1


async def test_no_more_than_concurrency_are_unsettled(make, name, consume, url):
    driver = await make()
    await driver.put(parcels(name, *"abcde"))
    intake = consume(driver, name, 2)
    first, _ = await take(intake, 2)
    waiting = asyncio.ensure_future(anext(intake))
    assert await asyncio.to_thread(depth, url, name) == 3
    assert not waiting.done()
    first.settle()
    assert (await waiting).message.id == "c"


async def test_stopping_gives_back_what_was_not_fetched_and_keeps_what_was(make, name, consume):
    driver = await make()
    await driver.put(parcels(name, "a", "b", "c"))
    intake, other = consume(driver, name), consume(driver, name)
    (held,) = await take(intake, 1)
    intake.stop()
    with pytest.raises(StopAsyncIteration):
        await anext(intake)
    assert [each.message.id for each in await take(other, 2)] == ["b", "c"]
    held.settle()
    await intake.aclose()
    await driver.put(parcels(name, "d"))
    assert (await anext(other)).message.id == "d"  # and not the settled one


async def test_stopping_ends_a_wait(make, name, consume):
    driver = await make()
    intake = consume(driver, name)
    waiting = asyncio.ensure_future(anext(intake))
    await driver.put(parcels(name, "a"))
    (await waiting).settle()
    waiting = asyncio.ensure_future(anext(intake))
    await asyncio.sleep(0)
    intake.stop()
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_an_intake_says_that_its_queue_was_deleted(make, name, consume, url):
    driver = await make()
    await driver.put(parcels(name, "a"))
    intake = consume(driver, name)
    await anext(intake)
    with plain(url) as channel:
        channel.queue_delete(name)
    with pytest.raises(BrokerUnavailable, match="deleted"):
        await anext(intake)


async def test_a_queue_that_is_not_there_is_an_error_and_no_loss(make, name, url):
    driver = await make()
    with plain(url) as channel:
        channel.queue_delete(name)
    with pytest.raises(BrokerUnavailable, match=f"no queue for {name}"):
        await driver.put(parcels(name, "a", "b"))


async def test_a_list_of_which_a_part_was_taken_is_of_unknown_outcome(make, name):
    driver = await make()
    with pytest.raises(OutcomeUnknown, match="no queue for nowhere"):
        await driver.put([*parcels(name, "a"), *parcels("nowhere", "b")])
    await driver.put(parcels(name, "c"))  # the connection is as good as before


async def test_a_full_queue_that_refuses_is_an_error(make, open_driver, name, url):
    with plain(url) as channel:
        channel.queue_declare(name, durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    driver = await make()
    with pytest.raises((BrokerUnavailable, OutcomeUnknown), match="did not take"):
        await driver.put(parcels(name, "a", "b", "c"))


async def test_what_no_frame_can_hold_is_refused_before_anything_is_sent(make, name, url):
    driver = await make()
    with pytest.raises(InvalidInput, match="255"):
        await driver.put([*parcels(name, "a"), Parcel(name, message("b", correlation_id="x" * 256))])
    assert depth(url, name) == 0


async def test_many_at_once(make, name, url):
    driver = await make()
    await driver.put(parcels(name, *map(str, range(10_000))))
    assert depth(url, name) == 10_000


async def test_a_plain_program_reads_what_it_expects(make, name, url):
    driver = await make()
    await driver.put(
        [Parcel(name, message("id", b"[1]", name="n", reply_to="r", correlation_id="c", headers={"x": 1}))]
    )
    with plain(url) as channel:
        method, properties, body = channel.basic_get(name, auto_ack=True)
    assert (method.exchange, method.routing_key, body) == ("", name, b"[1]")
    assert (properties.message_id, properties.type) == ("id", "n")
    assert (properties.reply_to, properties.correlation_id, properties.headers) == ("r", "c", {"x": 1})
    assert properties.delivery_mode == 2
    assert properties.timestamp > 1_700_000_000


async def test_a_plain_program_may_send_anything(make, name, consume, url):
    driver = await make()
    strange = pika.BasicProperties(
        user_id="guest",
        priority=3,
        correlation_id=b"\xff\xfe",
        headers={"list": [1], "table": {"a": 1}, "text": "t", "none": None, "number": 7},
    )
    with plain(url) as channel:
        channel.basic_publish("", name, b"\xff", strange)
    (handed,) = await take(consume(driver, name), 1)
    assert handed.message == message(None, b"\xff", headers={"text": "t", "number": 7})
    await driver.put([Parcel(name, handed.message)])  # without the user_id, which might be another's


async def test_answers_go_both_ways(open_driver, name, url, cleanup):
    driver = await open_driver(url)
    await driver.declare(name, External(name, 60))
    with plain(url) as channel:
        channel.basic_publish("", driver.replies_to(name), b"42", pika.BasicProperties(correlation_id="c"))
    replies = driver.replies(name)
    cleanup.push_async_callback(replies.aclose)
    answer = await anext(replies)
    answer.settle()
    assert (answer.message.correlation_id, answer.message.body) == ("c", b"42")

    with plain(url) as channel:
        own = channel.queue_declare("", exclusive=True).method.queue
        await driver.reply(own, message(None, b"43", correlation_id="d"))
        _, properties, body = channel.basic_get(own, auto_ack=True)
    assert (properties.correlation_id, body) == ("d", b"43")
    await driver.reply(own, message(None, b"44"))  # gone with its connection: no error


async def test_a_producer_may_be_answered_directly(make, name, consume, url):
    """By `amq.rabbitmq.reply-to`, which is no queue: the server gives each producer an address of its own."""
    driver = await make()
    with plain(url) as channel:
        answers = channel.consume("amq.rabbitmq.reply-to", auto_ack=True, inactivity_timeout=20)
        properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id="c")
        channel.connection.add_callback_threadsafe(lambda: channel.basic_publish("", name, b"{}", properties))
        asking = asyncio.create_task(asyncio.to_thread(next, answers))
        (handed,) = await take(consume(driver, name), 1)
        await driver.reply(handed.message.reply_to, message(None, b"42", correlation_id=handed.message.correlation_id))
        _, answered, body = await asking
    assert (answered.correlation_id, body) == ("c", b"42")
    await driver.reply(handed.message.reply_to, message(None, b"43"))  # gone with its connection: no error


async def test_an_external_queue_may_have_any_name(open_driver, name, url, consume):
    driver = await open_driver(url)
    foreign = f"{name}.Jobs #1*"
    try:
        await driver.declare(name, External(foreign, 60))
        await driver.put([*parcels(name, "a"), *parcels(name, "b", delay=0.05)])
        handed = await take(consume(driver, name), 2)
    finally:
        with plain(url) as channel:
            channel.queue_delete(foreign)
    assert [each.message.id for each in handed] == ["a", "b"]


async def test_closing_gives_back_what_is_held(make, name, consume, url):
    driver, other = await make(), await make()
    await driver.put(parcels(name, "a"))
    intake = driver.consume(name, 10)
    await anext(intake)
    await driver.close()
    (handed,) = await take(consume(other, name), 1)
    assert handed.message.id == "a"
