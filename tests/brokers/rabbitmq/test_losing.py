"""Connections that are lost, and servers that do not answer: nothing is lost with them, and nothing hangs."""

import asyncio
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from servers.proxy import Proxy, Way
from servers.rabbitmq import STREAMS, RabbitNode

from queuecast.brokers import Retention
from queuecast.brokers.rabbitmq import RabbitDriver, link, publisher
from queuecast.brokers.rabbitmq.writer import LogWriter
from queuecast.errors import BrokerError, BrokerUnavailable, ConfigurationError, OutcomeUnknown, ResetRequired

from .steps import START, bodies, message, parcels, plain, read, take


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """A connection that was lost is made again soon, however often that has failed."""
    monkeypatch.setattr(link, "MAX_PAUSE_SECONDS", 0.5)


@pytest.fixture
def proxied(url):
    """A proxy before a server, and the URL through it."""
    with Proxy(urlsplit(url).port) as proxy:
        yield proxy, f"amqp://guest:guest@127.0.0.1:{proxy.port}/"


async def cut_before_confirm(proxy, publish):
    """The server has it, and we do not hear of it."""
    proxy.stall(Way.TO_CLIENT)
    under_way = publish()
    await asyncio.to_thread(proxy.wait_held, Way.TO_CLIENT)
    proxy.cut()
    proxy.resume()
    return under_way


async def test_a_put_that_is_cut_off_before_its_confirm_is_of_unknown_outcome(make, proxied, name, consume):
    proxy, through = proxied
    driver = await make(through)
    putting = await cut_before_confirm(proxy, lambda: asyncio.ensure_future(driver.put(parcels(name, "a"))))
    with pytest.raises(OutcomeUnknown):
        await putting
    await driver.put(parcels(name, "b"))
    handed = await take(consume(driver, name), 2)
    assert [each.message.id for each in handed] == ["a", "b"]


async def test_appends_that_are_cut_off_before_their_confirm_are_sent_again_in_order(make, proxied, name):
    proxy, through = proxied
    driver = await make(through)
    await driver.append(name, [b"first"])

    def publish():
        return [driver.append(name, [b"%d" % number]) for number in range(30)]

    calls = await cut_before_confirm(proxy, publish)
    calls += publish()
    assert await asyncio.gather(*calls) == list(range(2, 62))
    last = driver.append(name, [b"last"])
    await last
    events = []
    reading = driver.read(name, START)
    while b"last" not in events:
        events += bodies((await anext(reading)).entries)
    await reading.aclose()
    # Some may be there twice, but nothing without all that was before it.
    seen = {}
    for place, event in enumerate(events):
        seen.setdefault(event, place)
    wanted = [b"first", *(b"%d" % number for number in range(30)), b"last"]
    assert sorted(seen, key=seen.__getitem__) == wanted
    assert len(events) > 62


async def test_appends_that_are_refused_are_sent_again_in_order(open_driver, url, name):
    """A stream says no only at its worst. A queue with room for two more says it to the third entry and the fourth."""
    driver = await open_driver(url)
    events, said = [], []
    with plain(url) as channel:
        channel.queue_declare(name, durable=True, arguments={"x-max-length": 20, "x-overflow": "reject-publish"})
        channel.confirm_delivery()
        for _ in range(18):
            channel.basic_publish("", name, b"before")

        async def make_room():
            said.append(str(writer._reason))
            while body := channel.basic_get(name, auto_ack=True)[2]:
                events.extend(body.split(b"\n"))

        writer = LogWriter(driver._logs, name, "token", make_room)
        wanted = [b"%d" % number for number in range(12)]
        assert await asyncio.gather(*[writer.append([event]) for event in wanted]) == list(range(1, 13))
        await make_room()
        writer.close()
    assert any("nack" in reason for reason in said)
    assert [event for event in events if event != b"before"][:2] == [b"0", b"1"]
    assert is_within(wanted, events[20:]), "nothing without all that was before it"


@pytest.mark.bound(60)
async def test_a_connection_on_which_the_server_has_gone_silent_is_given_up(make, proxied, name, consume):
    """Nothing is closed, as when a machine or a cable is gone: the heartbeats that do not come tell of it."""
    proxy, through = proxied
    driver = await make(f"{through}?heartbeat=1")
    await driver.append(name, [b"a"])
    reading = driver.read(name, START)
    await anext(reading)
    waiting = [asyncio.ensure_future(anext(reading)), asyncio.ensure_future(anext(consume(driver, name)))]
    await driver.put(parcels(name, "taken"))
    await waiting.pop()
    waiting.append(asyncio.ensure_future(anext(consume(driver, name))))
    proxy.stall(Way.TO_CLIENT)
    appending = driver.append(name, [b"b"])
    for each in waiting:
        with pytest.raises(BrokerUnavailable):
            await each
    assert not appending.done()
    proxy.cut()
    proxy.resume()
    await appending


async def test_an_append_that_was_begun_without_a_connection_arrives(make, proxied, name, url):
    proxy, through = proxied
    driver, other = await make(through), await make()
    proxy.refuse()
    calls = [driver.append(name, [b"a"]), driver.append(name, [b"b"])]
    with pytest.raises(BrokerError):
        await driver.put(parcels(name, "x"))
    assert not any(call.done() for call in calls)
    proxy.resume()
    assert await asyncio.gather(*calls) == [1, 2]
    assert bodies(await read(other, name, 2))[:2] == [b"a", b"b"]


async def test_an_append_is_given_up_after_its_time(make, proxied, name, monkeypatch):
    proxy, through = proxied
    driver = await make(through)
    proxy.stall(Way.TO_CLIENT)
    with monkeypatch.context() as impatient:
        impatient.setattr("queuecast.brokers.rabbitmq.writer.APPEND_SECONDS", 1.0)
        sent = driver.append(name, [b"a"])
        await asyncio.to_thread(proxy.wait_held, Way.TO_CLIENT)
        proxy.refuse()
        waiting = driver.append(name, [b"b"])
    for call in (sent, waiting):
        with pytest.raises(BrokerUnavailable, match="not appended"):
            await call
    proxy.resume()
    await driver.append(name, [b"c"])
    assert b"c" in bodies(await read(driver, name, 1)) + bodies(await read(driver, name, 2))


async def test_an_intake_ends_and_what_it_held_is_handed_out_again(make, proxied, name, consume):
    proxy, through = proxied
    driver = await make(through)
    await driver.put(parcels(name, "a"))
    intake = consume(driver, name)
    held = await anext(intake)
    proxy.cut()
    with pytest.raises(BrokerUnavailable):
        await anext(intake)
    held.settle()
    held.give_back()
    await intake.aclose()
    (again,) = await take(consume(driver, name), 1)
    assert (again.message.id, again.again) == ("a", True)


async def test_a_reader_ends_and_another_goes_on(make, proxied, name):
    proxy, through = proxied
    driver = await make(through)
    await driver.append(name, [b"a"])
    reading = driver.read(name, START)
    (entry,) = (await anext(reading)).entries
    proxy.cut()
    with pytest.raises(BrokerUnavailable):
        await anext(reading)
    await driver.append(name, [b"b"])
    assert bodies(await read(driver, name, 1, START._replace(offset=entry.offset))) == [b"b"]


async def test_flushed_returns_when_the_system_has_all_of_it(make, proxied, name):
    proxy, through = proxied
    driver, other = await make(through), await make()
    proxy.stall(Way.TO_CLIENT)
    driver.append(name, [b"a"])
    await driver.flushed()
    proxy.resume()
    assert bodies(await read(other, name, 1)) == [b"a"]


async def test_closing_finishes_what_was_handed_over(make, name):
    driver, other = await make(), await make()
    calls = [driver.append(name, [b"%d" % number]) for number in range(2_000)]
    await driver.close()
    assert [call.result() for call in calls] == list(range(1, 2_001))
    assert len(await read(other, name, 2_000)) == 2_000


@pytest.mark.bound(60)
async def test_nothing_hangs_where_nobody_answers(make, proxied, name, monkeypatch, open_driver):
    monkeypatch.setattr(publisher, "PUT_SECONDS", 1.0)
    monkeypatch.setattr(link, "UP_SECONDS", 0.5)
    proxy, through = proxied
    driver = await make(through)
    proxy.stall(Way.TO_CLIENT)
    with pytest.raises(OutcomeUnknown, match="did not confirm"):
        await driver.put(parcels(name, "a"))
    proxy.refuse()
    with pytest.raises(BrokerError):  # which may be the one that finds out
        await driver.put(parcels(name, "a"))
    for call in (driver.put(parcels(name, "a")), driver.put(parcels(name, "a", delay=1)), driver.declare(name, None)):
        with pytest.raises(BrokerUnavailable):
            await call
    for call in (driver.bounds(name), driver.recent(name), driver.reply("x", message("a"))):
        with pytest.raises(BrokerUnavailable):
            await call
    for iteration in (driver.read(name, START), driver.consume(name, 1)):
        with pytest.raises(BrokerUnavailable):
            await anext(iteration)
    await driver.flushed()


@pytest.mark.bound(60)
async def test_opening_fails_in_time_where_there_is_no_server(monkeypatch):
    monkeypatch.setattr(link, "OPEN_SECONDS", 1.0)
    with Proxy(1) as proxy:
        proxy.refuse()
        driver = RabbitDriver(f"amqp://guest:guest@127.0.0.1:{proxy.port}/", Retention())
        with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{proxy.port} cannot be reached"):
            await driver.open()


@pytest.mark.parametrize(
    ("replace", "by", "says"),
    [
        ("guest:guest", "guest:wrong-secret", "refuses this user or password"),
        ("guest:guest", "nobody:wrong-secret", "refuses this user or password"),
        ("/?", "/nowhere?", "add_vhost"),
    ],
)
async def test_what_can_never_work_says_what_to_do(url, replace, by, says):
    driver = RabbitDriver(f"{url}?".replace(replace, by), Retention())
    with pytest.raises(ConfigurationError, match=says) as raised:
        await driver.open()
    assert "wrong-secret" not in str(raised.value)


async def test_the_first_host_that_answers_is_taken(url, name, open_driver):
    with Proxy(1) as dead:
        dead.refuse()
        driver = await open_driver(url.replace("127.0.0.1", f"127.0.0.1:{dead.port},127.0.0.1"))
        await driver.declare(name, None)
        await driver.put(parcels(name, "a"))


@pytest.mark.parametrize("url", ["amqp://h/?type=stream", "amqp://h/?nonsense=1", "amqp://h:port/"])
def test_a_url_that_means_nothing_is_refused(url):
    with pytest.raises(ConfigurationError):
        RabbitDriver(url, Retention())


@pytest.mark.bound(180)
async def test_a_server_that_is_killed_and_started_again(node, name_on, consume):
    driver, name = await name_on(node)
    await driver.put(parcels(name, *map(str, range(100))))
    await driver.append(name, [b"a"])
    intake = consume(driver, name)
    handed = await anext(intake)
    handed.settle()
    await asyncio.to_thread(node.kill_9)
    with pytest.raises(BrokerUnavailable):  # noqa: PT012
        while True:
            await anext(intake)
    with pytest.raises(BrokerUnavailable):
        await driver.put(parcels(name, "x"))
    call = driver.append(name, [b"b"])
    await asyncio.to_thread(node.start)
    await call
    assert bodies(await read(driver, name, 2)) == [b"a", b"b"]
    assert len({each.message.id for each in await take(consume(driver, name, 200), 99)}) >= 99


@pytest.mark.bound(180)
async def test_an_alarm_stops_what_is_published_and_nothing_else(node, name_on, consume, monkeypatch):
    monkeypatch.setattr(publisher, "PUT_SECONDS", 2.0)
    driver, name = await name_on(node)
    await driver.put(parcels(name, "a", "b"))
    await driver.append(name, [b"a"])
    reading = driver.read(name, START)
    await anext(reading)
    await asyncio.to_thread(node.ctl, "set_vm_memory_high_watermark", "0.0000001")
    with pytest.raises(BrokerError):  # the one that makes the server tell of its alarm  # noqa: PT012
        while True:
            await driver.put(parcels(name, "c"))
    monkeypatch.setattr(publisher, "UP_SECONDS", 0.5)
    with pytest.raises(BrokerUnavailable, match="memory"):
        await driver.put(parcels(name, "d"))
    call = driver.append(name, [b"b"])
    intake = consume(driver, name)
    for handed in await take(intake, 2):
        handed.settle()
    assert not call.done()
    await asyncio.to_thread(node.ctl, "set_vm_memory_high_watermark", "0.4")
    await call
    assert b"b" in bodies((await anext(reading)).entries)
    await reading.aclose()
    await driver.put(parcels(name, "e"))


@pytest.mark.bound(180)
async def test_a_cluster_goes_on_without_the_node_it_was_connected_to(cluster, open_driver, consume):
    driver = await open_driver(f"amqp://guest:guest@{hosts(cluster)}/?type=quorum&heartbeat=2")
    await driver.declare("tasks", None)
    await driver.put(parcels("tasks", "a"))
    await driver.append("tasks", [b"a"])
    await asyncio.to_thread(cluster[0].kill_9)
    await driver.append("tasks", [b"b"])
    await until_put(driver, "tasks", "b")
    assert (await events_up_to(driver, "tasks", b"b"))[0] == b"a"
    intake = consume(driver, "tasks")
    assert {"a", "b"} <= {each.message.id for each in await take(intake, 2)}


@pytest.mark.bound(180)
async def test_nothing_is_lost_with_the_leader_of_a_log_on_another_node(cluster, open_driver):
    """Where RabbitMQ 3.10 confirms what it does not have: see CONFIRM_SECONDS."""
    first = await open_driver(f"amqp://guest:guest@{hosts(cluster)}/?type=quorum")
    await first.declare("tasks", None)  # on the first node, which so has the leaders
    driver = await open_driver(f"amqp://guest:guest@{hosts(cluster[1:])}/?type=quorum")
    await driver.declare("tasks", None)
    await driver.put(parcels("tasks", "a"))
    await driver.append("tasks", [b"a"])
    await asyncio.to_thread(cluster[0].kill_9)
    wanted = [b"%d" % number for number in range(12)]
    calls = [driver.append("tasks", [event]) for event in wanted[:1]]
    await events_up_to(driver, "tasks", wanted[0])
    calls += [driver.append("tasks", [event]) for event in wanted[1:]]
    await asyncio.gather(*calls)
    events = await events_up_to(driver, "tasks", wanted[-1])
    assert is_within([b"a", *wanted], events)


def is_within(wanted, events):
    """In this order, whatever else there is: what came too early is there again behind what it should have followed."""
    rest = iter(events)
    return all(event in rest for event in wanted)


async def events_up_to(driver, log, wanted):
    """All that is in a log, once this event is there."""
    while True:
        events = []
        reading = driver.read(log, START)
        try:
            while wanted not in events:
                events += bodies((await anext(reading)).entries)
        except (BrokerUnavailable, ResetRequired):
            await asyncio.sleep(0.1)
        else:
            return events
        finally:
            await reading.aclose()


def hosts(nodes):
    return ",".join(f"127.0.0.1:{node.port}" for node in nodes)


@pytest.fixture
def cluster(node, tmp_path):
    """Three nodes, the test's own one first."""
    with ExitStack() as stack:
        nodes = [node]
        for number in (1, 2):
            folder = tmp_path / f"node-{number}"
            folder.mkdir()
            nodes.append(stack.enter_context(RabbitNode(folder, beside=node)))
            nodes[-1].join(node)
        yield nodes


async def until_put(driver, queue, id):
    while True:
        try:
            return await driver.put(parcels(queue, id))
        except BrokerError:
            await asyncio.sleep(0.1)


@pytest.fixture
def name_on(open_driver):
    """A driver on a node of the test's own, and a queue's name there."""

    async def name_on(node):
        driver = await open_driver(node.url)
        await driver.declare("tasks", None)
        await asyncio.to_thread(node.has_written_down, STREAMS)
        return driver, "tasks"

    return name_on


@pytest.mark.bound(60)
async def test_a_server_that_has_only_just_started_is_waited_for(node, name_on, open_driver):
    """It answers before its streams are up, and says of each that it is down."""
    driver, name = await name_on(node)
    await driver.append(name, [b"a"])
    await driver.close()
    await asyncio.to_thread(node.kill_9)
    await asyncio.to_thread(node.start)
    driver = await open_driver(node.url)
    await driver.declare(name, None)
    assert bodies(await read(driver, name, 1)) == [b"a"]
