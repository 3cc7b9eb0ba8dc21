"""Making topics, and taking over those that are there already."""

import pytest
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType

from queuecast.brokers import External, make_broker
from queuecast.errors import BrokerUnavailable, ConfigurationError


def settings_of(admin, topic):
    resource = ConfigResource(ResourceType.TOPIC, topic)
    found = admin.describe_configs([resource])[resource].result()
    return {name: entry.value for name, entry in found.items()}


async def test_nothing_ages_out_of_a_topic_of_tasks(make, name, admin):
    await make(partitions=3)
    for topic in (name, "_qc.delay"):
        settings = settings_of(admin, topic)
        assert (settings["retention.ms"], settings["retention.bytes"]) == ("-1", "-1")
    assert len(admin.list_topics(name, timeout=10).topics[name].partitions) == 3


@pytest.mark.parametrize("settings", [{}, {"retention.ms": "-1", "cleanup.policy": "compact"}])
async def test_a_topic_that_would_lose_tasks_is_refused(open_driver, name, admin, settings):
    admin.create_topics([NewTopic(name, 1, 1, config=settings)])[name].result()
    driver = await open_driver()
    with pytest.raises(ConfigurationError, match="it would lose tasks"):
        await driver.declare(name, None)


async def test_an_external_topic_is_taken_as_it_is(open_driver, name, admin):
    admin.create_topics([NewTopic(name, 1, 1)])[name].result()
    driver = await open_driver()
    await driver.declare("shop", External(name, 60))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kafka://", "cannot be understood"),
        ("kafka://host/path", "cannot be understood"),
        ("kafka://host?partitions=many", "partitions=many"),
        ("kafka://host?protocol=other", "protocol=other"),
        ("kafka://host?partition=3", "partition"),
    ],
)
def test_a_url_that_means_nothing(url, said):
    with pytest.raises(ConfigurationError, match=said):
        make_broker(url)


async def test_a_kafka_that_is_not_there_is_unavailable():
    with pytest.raises(BrokerUnavailable, match="Kafka"):
        await make_broker("kafka://127.0.0.1:1").open()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"no.such": "setting"}, "no.such"),
        ({"session": 20, "max.poll.interval.ms": 10_000}, "max.poll.interval.ms"),
    ],
)
async def test_settings_that_the_client_refuses_are_told_when_it_opens(open_driver, options, reason):
    with pytest.raises(ConfigurationError, match=reason):
        await open_driver(**options)


async def test_an_interval_for_members_that_is_shorter_than_the_default_session_is_theirs_alone(open_driver, name):
    driver = await open_driver(**{"max.poll.interval.ms": 6_000})
    await driver.declare(name, None)
    await driver.append(name, [b"a"])
    assert (await driver.recent(name)).offset == 1
