"""Queues that are there already are taken as they are, unless they lose messages."""

import pytest

from queuecast.brokers import External
from queuecast.brokers.rabbitmq.adoption import difference_in
from queuecast.errors import BrokerUnavailable, ConfigurationError

from .steps import bodies, parcels, plain, read, take

QUORUM = {"x-queue-type": "quorum"}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        QUORUM,
        {**QUORUM, "x-delivery-limit": 5, "x-dead-letter-exchange": "dead", "x-single-active-consumer": True},
        {"x-max-priority": 5},
        {"x-max-length": 10, "x-overflow": "reject-publish"},
        {"x-max-length-bytes": 10_000, "x-overflow": "reject-publish-dlx", "x-dead-letter-exchange": "dead"},
    ],
    ids=str,
)
async def test_a_queue_that_keeps_messages_is_adopted(open_driver, url, name, consume, arguments):
    with plain(url) as channel:
        channel.queue_declare(name, durable=True, arguments=arguments)
    driver = await open_driver(url)
    await driver.declare(name, None)
    await driver.declare(name, External(name, 60))
    await driver.put(parcels(name, "a"))
    (handed,) = await take(consume(driver, name), 1)
    assert handed.message.id == "a"
    with plain(url) as channel:  # and it is what it was
        channel.queue_declare(name, durable=True, arguments=arguments)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"x-max-length": 10}, "drops messages when it is full"),
        ({"x-max-length-bytes": 10_000, "x-overflow": "drop-head"}, "drops messages when it is full"),
        ({**QUORUM, "x-max-length": 10}, "drops messages when it is full"),
        ({"x-message-ttl": 60_000}, "expire"),
        ({"x-expires": 60_000}, "deleted when nobody uses it"),
        ({"x-queue-type": "stream"}, "stream"),
    ],
    ids=str,
)
async def test_a_queue_that_loses_messages_is_refused(open_driver, url, name, arguments, fault):
    with plain(url) as channel:
        channel.queue_declare(name, durable=True, arguments=arguments)
    driver = await open_driver(url)
    with pytest.raises(ConfigurationError, match=f"{fault}.*RabbitMQ says"):
        await driver.declare(name, None)


@pytest.mark.parametrize(
    ("how", "fault"),
    [
        ({"durable": False}, "not durable"),
        ({"durable": True, "auto_delete": True}, "last consumer"),
        ({"durable": True, "exclusive": True}, "owner's connection"),
    ],
    ids=str,
)
async def test_a_queue_that_does_not_last_is_refused(open_driver, url, name, how, fault):
    driver = await open_driver(url)
    with plain(url) as channel:
        channel.queue_declare(name, **how)
        with pytest.raises(ConfigurationError, match=f"{fault}.*RabbitMQ says"):
            await driver.declare(name, None)
    await driver.close()


async def test_a_plain_program_may_declare_it_afterwards(make, name, url):
    await make()
    with plain(url) as channel:
        channel.queue_declare(name, durable=True)


async def test_the_type_of_our_own_queues_may_be_chosen(make, open_driver, name, url, consume):
    driver = await open_driver(f"{url}?type=quorum")
    await driver.declare(name, None)
    with plain(url) as channel:
        channel.queue_declare(name, durable=True, arguments=QUORUM)
    await driver.put([*parcels(name, "a"), *parcels(name, "b", delay=0.1)])
    handed = await take(consume(driver, name), 2)
    assert [each.message.id for each in handed] == ["a", "b"]


async def test_a_log_keeps_the_retention_it_has(make, open_driver, name, url):
    with plain(url) as channel:
        arguments = {"x-queue-type": "stream", "x-max-length-bytes": 1_000_000}
        channel.queue_declare(f"_qc.events.{name}", durable=True, arguments=arguments)
    driver = await make()
    await driver.append(name, [b"a"])
    assert bodies(await read(driver, name, 1)) == [b"a"]


async def test_a_log_that_is_no_stream_is_refused(open_driver, name, url):
    with plain(url) as channel:
        channel.queue_declare(f"_qc.events.{name}", durable=True)
    driver = await open_driver(url)
    with pytest.raises(ConfigurationError, match="must be a stream"):
        await driver.declare(name, None)


async def test_declaring_may_be_repeated_by_many(make, name):
    for driver in [await make() for _ in range(3)]:
        await driver.declare(name, None)
        await driver.declare(name, None)


async def test_an_intake_of_what_is_not_there_says_so(open_driver, name, url, cleanup):
    driver = await open_driver(url)
    intake = driver.consume(name, 10)
    cleanup.push_async_callback(intake.aclose)
    with pytest.raises(BrokerUnavailable, match=f"no queue '{name}'"):
        await anext(intake)


@pytest.mark.parametrize(
    ("text", "difference"),
    [
        ("inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'", False),
        (
            "inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received none but current is the value '10' of"
            " type 'signedint'",
            10,
        ),
        ("inequivalent arg 'x-overflow' for queue 'q' in vhost '/': received 'a' but current is none", None),
        (
            "inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received 'classic' but current is 'stream'",
            "stream",
        ),
        (
            "inequivalent arg 'x' for queue 'it''s' in vhost '/': received none but current is the value 'a 'b' c' of type"  # noqa: E501
            " 'longstr'",
            "a 'b' c",
        ),
        (
            "inequivalent arg 'x' for queue 'q' in vhost '/': received none but current is the value 'true' of type 'bool'",  # noqa: E501
            True,
        ),
    ],
)
def test_what_the_server_says_of_a_difference(text, difference):
    found = difference_in(text)
    assert found is not None
    assert found[1] is difference or found[1] == difference


def test_other_refusals_are_no_difference():
    assert difference_in("PRECONDITION_FAILED - something new in a later version") is None
