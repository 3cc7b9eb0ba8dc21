"""Tasks of hours: handed over, renewed, and run again where their holder is gone."""

import asyncio
from contextlib import aclosing

import pytest

from queuecast.brokers import CONTROL
from queuecast.brokers.folded import consumer, control, lease
from queuecast.brokers.folded.driver import DEAD, Parcel
from queuecast.brokers.folded.wire import Message
from queuecast.control import LeaseRenewed, decode_control
from queuecast.errors import BrokerUnavailable

from ..making import QUEUE, new_task, new_tasks
from ..steps import FAR, a_round_trip, begin, consuming, finish, log_of, meanwhile, result_of, run_of, story, turns


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """Whatever runs is handed over at the next look; no lease ends, or is renewed, before a test says so."""
    monkeypatch.setattr(consumer, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(consumer, "AGAIN_SECONDS", 0.001)
    monkeypatch.setattr(control, "AGAIN_SECONDS", 0.001)
    monkeypatch.setattr(lease, "HAND_OVER", 0.0)
    monkeypatch.setattr(lease, "RENEW_SECONDS", FAR)


@pytest.fixture
def renewing(monkeypatch):
    """Call it to have leases renewed at every look."""
    return lambda: monkeypatch.setattr(lease, "RENEW_SECONDS", 0.0)


async def until(fact):
    """Look until it is so; the test's own bound ends it."""
    while not fact():
        await asyncio.sleep(0.001)


def renewals(server):
    """The number that each lease has got to."""
    messages = [decode_control(entry.body) for entry in server.logs[CONTROL].entries]
    return {(each.id, each.run): each.number for each in messages if isinstance(each, LeaseRenewed)}


async def handed_over(server, *deliveries):
    await until(lambda: all(delivery.lease is not None for delivery in deliveries))


def die(broker):
    """As a process that is killed: the server hands out what it held, and nobody settles or renews anything."""
    return broker._driver.close()


async def cut(server, deliveries, lost):
    """Cut all connections; once it has noticed, the consumer takes no more, as a worker that stops."""
    waiting = asyncio.ensure_future(anext(deliveries))
    await turns()
    server.cut()
    await until(lambda: lost)
    deliveries.stop()
    with pytest.raises(StopAsyncIteration):
        await waiting


async def nothing_else_comes(broker, deliveries):
    await broker.submit([another := new_task("another")])
    assert (await anext(deliveries)).task == another


async def test_a_task_that_runs_long_is_settled_behind_a_copy_and_runs_on(connect, server):
    broker, elsewhere = await connect(), await connect()
    await broker.submit([task := new_task()])
    async with consuming(broker) as deliveries:
        delivery = await anext(deliveries)
        run = await begin(delivery)
        async with meanwhile(anext(deliveries)):
            await handed_over(server, delivery)
            assert [intake.held for intake in broker._driver.intakes] == [[]]
            assert renewals(server) == {(task.id, run.name): 1}
            await delivery.append(run.progress())
            await finish(delivery, run)
        server.queues[QUEUE].hasten()
        async with consuming(elsewhere) as others:
            await nothing_else_comes(elsewhere, others)
    assert story(await log_of(broker))[:4] == ["queued", "running", "running", "succeeded"]


async def test_a_task_that_has_not_begun_is_not_handed_over(connect, server):
    broker = await connect()
    await broker.submit(new_tasks(2))
    async with consuming(broker) as deliveries:
        waiting = await anext(deliveries)
        running = await anext(deliveries)
        await begin(running)
        await handed_over(server, running)
        assert waiting.lease is None


async def test_a_handed_over_task_still_takes_its_room(connect, server):
    broker, elsewhere = await connect(), await connect()
    await broker.submit(new_tasks(1))
    async with consuming(broker, concurrency=2) as deliveries, consuming(elsewhere, concurrency=1) as others:
        long = await anext(deliveries)
        run = await begin(long)
        async with meanwhile(anext(deliveries)) as [waiting]:
            await handed_over(server, long)
            await broker.submit(tasks := new_tasks(2))
            short = await waiting
        async with meanwhile(anext(deliveries)) as [waiting]:
            theirs = await anext(others)
            assert [short.task, theirs.task] == tasks
            await a_round_trip(broker)
            assert not waiting.done()
            await finish(long, run)
            await broker.submit([third := new_task()])
            assert (await waiting).task == third


async def test_intakes_do_not_pile_up(connect, server):
    broker = await connect()
    await broker.submit(new_tasks(5))
    async with consuming(broker, concurrency=5) as deliveries:
        held = [await anext(deliveries) for _ in range(5)]
        runs = []
        for delivery in held:
            runs.append(await begin(delivery))
            await handed_over(server, delivery)
        await until(lambda: broker._driver.intakes == [])
        for delivery, run in zip(held, runs, strict=True):
            await finish(delivery, run)
        await nothing_else_comes(broker, deliveries)
        assert len(broker._driver.intakes) == 1


async def test_the_others_room_stays_while_all_of_it_is_in_use(connect, server):
    """What was held beside a task that is handed over belongs to an intake that takes no more."""
    broker = await connect()
    await broker.submit(new_tasks(8))
    async with consuming(broker, concurrency=8) as deliveries:
        long, *short = [await anext(deliveries) for _ in range(8)]
        await begin(long)
        await handed_over(server, long)
        while [intake.limit for intake in broker._driver.intakes] != [7]:
            await finish(short.pop(0))
            await broker.submit(new_tasks(1))
            short.append(await anext(deliveries))
            assert sum(len(intake.held) for intake in broker._driver.intakes) <= 8


async def test_a_lease_is_renewed_and_an_older_copy_is_dropped(connect, server, renewing):
    broker, elsewhere = await connect(), await connect()
    await broker.submit([task := new_task()])
    async with consuming(broker) as deliveries, consuming(elsewhere) as others:
        delivery = await anext(deliveries)
        run = await begin(delivery)
        renewing()
        await until(lambda: renewals(server).get((task.id, run.name), 0) >= 3)
        await die(broker)
        server.queues[QUEUE].hasten()
        again = await anext(others)
        assert (again.task, again.attempt, again.suspect) == (task, 1, True)
        await nothing_else_comes(elsewhere, others)


@pytest.mark.parametrize(("alone", "losses"), [(False, 0), (True, 1)])
async def test_a_task_whose_holder_died_runs_again_as_lost(connect, server, alone, losses):
    broker, elsewhere = await connect(), await connect()
    await broker.submit([task := new_task()])
    async with consuming(broker) as deliveries, consuming(elsewhere) as others:
        delivery = await anext(deliveries)
        await begin(delivery, alone=alone)
        await handed_over(server, delivery)
        await die(broker)
        async with meanwhile(anext(others)) as [waiting]:
            await a_round_trip(elsewhere)
            assert not waiting.done()
            server.queues[QUEUE].hasten()
            again = await waiting
            assert (again.task, again.attempt, again.suspect, again.losses) == (task, 1, True, losses)
            await finish(again)
    assert story(await log_of(elsewhere)) == ["queued", "running", "running", "succeeded"]


async def test_a_later_run_of_the_same_delivery_has_the_lease(connect, server):
    """Its handler's process died, and the worker runs it again."""
    broker, elsewhere = await connect(), await connect()
    await broker.submit([task := new_task()])
    async with consuming(broker) as deliveries, consuming(elsewhere) as others:
        delivery = await anext(deliveries)
        first = await begin(delivery)
        await handed_over(server, delivery)
        second = run_of(delivery)
        await (await delivery.begin(second.running(alone=True)))
        assert renewals(server) == {(task.id, first.name): 1, (task.id, second.name): 2}
        await die(broker)
        server.queues[QUEUE].hasten()
        again = await anext(others)
        assert (again.task, again.suspect, again.losses) == (task, True, 1)
        await nothing_else_comes(elsewhere, others)


async def test_a_retry_comes_once(connect, server):
    broker = await connect()
    await broker.submit([task := new_task(retries=1)])
    async with consuming(broker) as deliveries:
        delivery = await anext(deliveries)
        run = await begin(delivery)
        await handed_over(server, delivery)
        await delivery.retry(FAR, run.retrying(FAR))
        server.queues[QUEUE].hasten()
        again = await anext(deliveries)
        assert (again.task, again.attempt, again.suspect) == (task, 2, False)
        await finish(again)
        await nothing_else_comes(broker, deliveries)


async def test_a_released_task_comes_at_once_and_once(connect, server):
    broker, elsewhere = await connect(), await connect()
    await broker.submit([task := new_task()])
    async with consuming(broker) as deliveries, consuming(elsewhere) as others:
        delivery = await anext(deliveries)
        run = await begin(delivery)
        await handed_over(server, delivery)
        await delivery.release(run.retrying())
        again = await anext(others)
        assert (again.task, again.attempt, again.suspect) == (task, 1, False)
        server.queues[QUEUE].hasten()
        await nothing_else_comes(elsewhere, others)


async def test_a_rejected_task_is_a_dead_letter_and_its_copies_are_nothing(connect, server):
    broker = await connect()
    await broker.submit([task := new_task()])
    async with consuming(broker) as deliveries:
        delivery = await anext(deliveries)
        run = await begin(delivery)
        await handed_over(server, delivery)
        await delivery.reject("no such report", run.failed())
        server.queues[QUEUE].hasten()
        await nothing_else_comes(broker, deliveries)
    assert await broker.load(QUEUE, task.id) == task
    assert len(server.logs[DEAD].entries) == 1


async def test_a_result_that_the_fold_refuses_gives_the_task_back_at_once(connect, server):
    broker = await connect()
    await broker.submit([task := new_task()])
    async with consuming(broker) as deliveries:
        delivery = await anext(deliveries)
        run = await begin(delivery)
        await handed_over(server, delivery)
        run.output("never written")
        await delivery.ack(run.succeeded())
        again = await anext(deliveries)
        assert (again.task, again.suspect) == (task, True)
        await finish(again)
        server.queues[QUEUE].hasten()
        await nothing_else_comes(broker, deliveries)


async def test_a_foreign_producer_is_answered_once(connect, server, renewing):
    broker = await connect()
    foreign = Message(body=b"{}", id="foreign", name="render", reply_to="amq.gen-1", correlation_id="7")
    await broker._driver.put([Parcel(QUEUE, foreign)])
    async with consuming(broker) as deliveries:
        delivery = await anext(deliveries)
        run = await begin(delivery)
        renewing()
        await until(lambda: renewals(server).get((delivery.task.id, run.name), 0) >= 3)
        await finish(delivery, run)
        server.queues[QUEUE].hasten()
        await nothing_else_comes(broker, deliveries)
    [answer] = server.replies["amq.gen-1"]
    assert (answer.body, answer.correlation_id) == (b'"done"', "7")


async def test_a_lost_connection_takes_no_handed_over_task(connect, server, renewing):
    broker, elsewhere = await connect(), await connect()
    await broker.submit(tasks := new_tasks(2))
    lost = []
    async with aclosing(broker.consume(QUEUE, 3, lost.append)) as deliveries, consuming(elsewhere) as others:
        long = await anext(deliveries)
        run = await begin(long)
        await handed_over(server, long)
        held = await anext(deliveries)
        await cut(server, deliveries, lost)
        assert lost == [held]
        assert (await anext(others)).task == tasks[1]
        before = renewals(server)[tasks[0].id, run.name]
        renewing()
        await until(lambda: renewals(server)[tasks[0].id, run.name] > before)
        await finish(long, run)
    assert (await result_of(broker, tasks[0].id)).run == run.name


async def test_a_hand_over_that_the_server_never_heard_of_changes_nothing(connect, server, monkeypatch):
    """It hands the message out again, but a copy stands for the task."""
    broker, elsewhere = await connect(), await connect()
    await broker.submit([task := new_task()])
    async with consuming(broker, concurrency=1) as deliveries, consuming(elsewhere) as others:
        delivery = await anext(deliveries)
        monkeypatch.setattr(delivery.handed, "settle", lambda: None)
        run = await begin(delivery)
        await handed_over(server, delivery)
        await until(lambda: broker._driver.intakes == [])
        await nothing_else_comes(elsewhere, others)
        await finish(delivery, run)
    assert (await result_of(broker, task.id)).run == run.name


async def test_a_lease_that_was_not_renewed_in_time_is_lost(connect, server, monkeypatch):
    broker, elsewhere = await connect(), await connect()
    await broker.submit([task := new_task()])
    lost = []
    async with aclosing(broker.consume(QUEUE, 1, lost.append)) as deliveries, consuming(elsewhere) as others:
        delivery = await anext(deliveries)
        run = await begin(delivery)
        await handed_over(server, delivery)
        monkeypatch.setattr(lease, "LEASE_SECONDS", 0.0)
        await until(lambda: lost)
        assert lost == [delivery]
        server.queues[QUEUE].hasten()
        assert (await anext(others)).task == task
        with pytest.raises(BrokerUnavailable):
            await delivery.retry(0, run.retrying(0))


async def test_a_stopping_consumer_keeps_its_leases_until_they_are_settled(connect, server, renewing):
    broker = await connect()
    await broker.submit([task := new_task()])
    async with consuming(broker) as deliveries:
        delivery = await anext(deliveries)
        run = await begin(delivery)
        await handed_over(server, delivery)
        deliveries.stop()
        assert [delivery async for delivery in deliveries] == []
        renewing()
        await until(lambda: renewals(server)[task.id, run.name] > 3)
        await finish(delivery, run)
    assert (await result_of(broker, task.id)).state == "succeeded"


async def test_a_stopping_consumer_ends_though_it_has_no_room(connect, server):
    broker = await connect()
    await broker.submit(new_tasks(1))
    async with consuming(broker, concurrency=1) as deliveries:
        delivery = await anext(deliveries)
        await begin(delivery)
        await handed_over(server, delivery)
        waiting = asyncio.ensure_future(anext(deliveries))
        await a_round_trip(broker)
        deliveries.stop()
        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_closing_gives_back_what_was_handed_over(connect, server):
    broker, elsewhere = await connect(), await connect()
    await broker.submit([task := new_task()])
    async with consuming(broker) as deliveries:
        delivery = await anext(deliveries)
        await begin(delivery)
        await handed_over(server, delivery)
    async with consuming(elsewhere) as others:
        again = await anext(others)
        assert (again.task, again.attempt, again.suspect) == (task, 1, True)
        server.queues[QUEUE].hasten()
        await nothing_else_comes(elsewhere, others)


@pytest.fixture
def slow_put(monkeypatch):
    """What a broker puts from now on waits for the event."""

    def slow_put(broker):
        arrived, goes_on = asyncio.Event(), asyncio.Event()
        put = broker._driver.put

        async def wait(parcels):
            arrived.set()
            await goes_on.wait()
            await put(parcels)

        monkeypatch.setattr(broker._driver, "put", wait)
        return arrived, goes_on

    return slow_put


async def test_a_task_that_ends_while_it_is_handed_over_is_over(connect, server, slow_put):
    broker, elsewhere = await connect(), await connect()
    await broker.submit([task := new_task()])
    async with consuming(broker) as deliveries, consuming(elsewhere) as others:
        delivery = await anext(deliveries)
        arrived, goes_on = slow_put(broker)
        run = await begin(delivery)
        await arrived.wait()
        await finish(delivery, run)
        goes_on.set()
        await until(lambda: renewals(server) == {(task.id, run.name): 2})
        assert delivery.lease is None
        server.queues[QUEUE].hasten()
        await nothing_else_comes(elsewhere, others)


async def test_a_task_that_is_lost_while_it_is_handed_over_comes_at_once(connect, server, slow_put):
    broker, elsewhere = await connect(), await connect()
    await broker.submit([task := new_task()])
    lost = []
    async with aclosing(broker.consume(QUEUE, 2, lost.append)) as deliveries, consuming(elsewhere) as others:
        delivery = await anext(deliveries)
        arrived, goes_on = slow_put(broker)
        run = await begin(delivery)
        await arrived.wait()
        await cut(server, deliveries, lost)
        goes_on.set()
        await until(lambda: renewals(server) == {(task.id, run.name): 2})
        again = await anext(others)
        assert (again.task, again.suspect) == (task, True)
        await finish(again)
        server.queues[QUEUE].hasten()
        await nothing_else_comes(elsewhere, others)


async def test_a_renewal_that_fails_is_tried_again(connect, server, renewing, monkeypatch):
    broker = await connect()
    await broker.submit([task := new_task()])
    async with consuming(broker) as deliveries:
        delivery = await anext(deliveries)
        run = await begin(delivery)
        await handed_over(server, delivery)
        refused = []

        async def refuse(parcels):
            refused.extend(parcels)
            raise BrokerUnavailable("not now")

        with monkeypatch.context() as patch:
            patch.setattr(broker._driver, "put", refuse)
            renewing()
            await until(lambda: refused)
        await until(lambda: renewals(server)[task.id, run.name] >= 3)
        await finish(delivery, run)
