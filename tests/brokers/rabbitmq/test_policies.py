"""Policies, which nobody who declares a queue can see: what docs/rabbitmq.md says of them is so."""

import asyncio
import json
import secrets

import pytest
from servers.found import need_rabbitmq_4_programs, need_rabbitmq_programs
from servers.rabbitmq import RabbitNode

from queuecast.brokers import External, Retention
from queuecast.errors import BrokerUnavailable

from .steps import depth, parcels, plain, take, until

EVENT = b"x" * 4_000


POLICIES = {
    "refuses": {"max-length": 2, "overflow": "reject-publish"},
    "drops-by-number": {"max-length": 1},
    "drops-by-size": {"max-length-bytes": 1},
    "drops-by-age": {"message-ttl": 0},
    "elsewhere": {"max-length": 1, "dead-letter-exchange": "", "dead-letter-routing-key": "dropped"},
    "lazy": {"queue-mode": "lazy"},
    "once": {"delivery-limit": 1},
    "thrice": {"delivery-limit": 3},
    "_qc.events.short": {"max-length-bytes": 200_000},
    "_qc.events.long": {"max-length-bytes": 1_000_000_000},
    "_qc.delay.": {"message-ttl": 100},
}
"""By what the names of their queues begin with."""


@pytest.fixture(scope="module", params=[need_rabbitmq_programs, need_rabbitmq_4_programs], ids=["own", "4.x"])
def ruled(request, tmp_path_factory):
    """A node with these policies, all set by one call, since each takes seconds."""
    with RabbitNode(tmp_path_factory.mktemp("node"), release=request.param()) as node:
        node.ctl("eval", ", ".join(_set(prefix, json.dumps(each)) for prefix, each in POLICIES.items()) + ".")
        assert node.ctl("list_policies").count("max-length-bytes") == 3
        yield node


def _set(prefix, definition):
    pattern = f"^{prefix}".replace(".", "[.]")
    of, name, match, what, kind, by = map(_erlang, ("/", prefix, pattern, definition, "queues", "tests"))
    return f"ok = rabbit_policy:parse_set({of}, {name}, {match}, {what}, 0, {kind}, {by})"


def _erlang(text):
    return f"<<{json.dumps(text)}>>"


@pytest.fixture
def declared(ruled, open_driver):
    """A driver, and a queue whose name so begins."""

    async def declared(prefix, parameters="", external=False, size=1e9):
        queue = f"{prefix}-{secrets.token_hex(4)}"
        driver = await open_driver(f"{ruled.url}{parameters}", Retention(size=int(size)))
        await driver.declare(queue, External(queue, 60) if external else None)
        return driver, queue

    return declared


async def test_a_full_queue_that_refuses_is_told_and_goes_on(declared, consume):
    driver, queue = await declared("refuses")
    with pytest.raises(BrokerUnavailable, match="nack"):  # noqa: PT012 - it may let one more in
        for id in "abcd":
            await driver.put(parcels(queue, id))
    for handed in await take(consume(driver, queue), 2):
        handed.settle()
    while True:
        try:
            return await driver.put(parcels(queue, "e"))
        except BrokerUnavailable:
            pass  # not settled yet


@pytest.mark.parametrize(("how", "left"), [("drops-by-number", 1), ("drops-by-size", 0), ("drops-by-age", 0)])
@pytest.mark.parametrize("external", [False, True], ids=["ours", "external"])
async def test_one_that_drops_messages_is_not_seen(ruled, declared, how, left, external):
    """The same by a declaration is refused."""
    driver, queue = await declared(how, external=external)
    await driver.put(parcels(queue, "a", "b", "c"))
    await until(lambda: depth(ruled.url, queue) == left, "it drops them")


async def test_what_it_drops_goes_where_it_says_and_what_is_settled_nowhere(ruled, declared, consume):
    with plain(ruled.url) as channel:
        channel.queue_declare("dropped", exclusive=True)
        driver, queue = await declared("elsewhere")
        intake = consume(driver, queue)
        await driver.put(parcels(queue, "a"))
        (await anext(intake)).give_back()
        (await anext(intake)).settle()
        intake.stop()
        await intake.aclose()
        await driver.put(parcels(queue, "b", "c"))
        await until(lambda: depth(ruled.url, queue) == 1, "it drops one")
        _, properties, _ = await asyncio.to_thread(next, channel.consume("dropped"))
    assert properties.message_id == "b"


async def test_where_a_queue_keeps_its_messages_is_no_matter(declared, consume):
    driver, queue = await declared("lazy")
    await driver.put(parcels(queue, *"abc"))
    assert [each.message.id for each in await take(consume(driver, queue), 3)] == ["a", "b", "c"]


@pytest.mark.parametrize(("limit", "left"), [("once", 0), ("thrice", 1)])
async def test_a_limit_of_deliveries_is_not_reached_from_three_on(ruled, declared, consume, limit, left):
    driver, queue = await declared(limit, "?type=quorum")
    await driver.put(parcels(queue, "a"))
    for _ in range(10 if left else 2):
        intake = consume(driver, queue)
        await anext(intake)
        await intake.aclose()
    await until(lambda: depth(ruled.url, queue) == left, "what is left")


@pytest.mark.parametrize(("policy", "size", "trimmed"), [("short", 8_000_000, True), ("long", 200_000, False)])
async def test_the_size_of_a_log_is_the_policys(declared, policy, size, trimmed):
    driver, queue = await declared(policy, size=size)
    for _ in range(40):
        last = driver.append(queue, [EVENT] * 60)
    await last
    assert ((await driver.bounds(queue)).first > 1) == trimmed


async def test_a_time_to_live_on_the_ladder_shortens_delays(declared, consume):
    driver, queue = await declared("hasty")
    await driver.put(parcels(queue, "a", delay=3_600))
    await take(consume(driver, queue), 1)
