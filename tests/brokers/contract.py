"""Every promise of `queuecast.brokers.base`, as a test. A backend passes all of them or is none.

A backend's own test file is two fixtures:

    class TestSQLite(BrokerContract):
        @pytest.fixture
        def backend(self, tmp_path):
            return Backend(url_for_processes=f"sqlite:///{tmp_path}/work.db")

        @pytest.fixture
        def open_broker(self, backend, cleanup):
            async def open_broker(retention):
                broker = ...
                await broker.open()
                cleanup.push_async_callback(broker.close)
                return broker

            return open_broker

Each call of `open_broker` is one more connection to the same store, opened; the memory broker, which has no outside,
returns the same object again. Two more things are worth their lines: `Backend(maker=…)`, where a dead or a stopped
process is given up too late for a test, and the fixture `open_fresh`, for a store that has taken this one's place.

Tests wait for facts, never for time: a due time a few hundredths of a second ahead is waited for by consuming.
"""

import asyncio
import time
from collections import Counter
from contextlib import aclosing, suppress
from itertools import pairwise

import pytest
from msgspec.structs import replace

from queuecast.brokers import CONTROL, Broker, Delivery, Retention
from queuecast.brokers.base import end_of, verify
from queuecast.codec import decode_event, encode_event
from queuecast.cursor import Cursor, cursor_at
from queuecast.errors import BrokerError, BrokerUnavailable, KeyReused, ResetRequired, TooLarge
from queuecast.event import MAX_EVENT_BYTES, ErrorInfo, Progress
from queuecast.task import MAX_TASK_BYTES

from .making import QUEUE, Run, cancelled, new_task, new_tasks, seconds_from_now
from .processes import Processes
from .steps import (
    EARLY,
    FAR,
    IN_TIME,
    OTHER,
    SOON,
    Backend,
    Suite,
    a_round_trip,
    accepted,
    begin,
    begin_to_take,
    consuming,
    entries_of,
    finish,
    log_of,
    meanwhile,
    not_lost,
    outgrow,
    outgrow_all,
    read_until,
    result_of,
    results_of,
    run_of,
    shown,
    story,
    turns,
    work,
)

__all__ = ["Backend", "BrokerContract"]


class Opening(Suite):
    async def test_declaring_a_queue_again_changes_nothing(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        before = await entries_of(broker)
        await broker.declare(QUEUE)
        assert await entries_of(broker) == before

    async def test_closing_twice_is_harmless(self, connect):
        broker = await connect()
        await broker.close()
        await broker.close()

    @pytest.mark.parametrize(
        "call",
        [
            pytest.param(lambda broker: broker.declare(QUEUE), id="declare"),
            pytest.param(lambda broker: broker.submit([new_task()]), id="submit"),
            pytest.param(lambda broker: broker.append(QUEUE, [cancelled(new_task())]), id="append"),
            pytest.param(lambda broker: broker.post(b"{}"), id="post"),
            pytest.param(lambda broker: broker.bounds(QUEUE), id="bounds"),
            pytest.param(lambda broker: anext(broker.read(QUEUE, 0)), id="read"),
            pytest.param(lambda broker: anext(broker.consume(QUEUE, 1, not_lost)), id="consume"),
        ],
    )
    async def test_a_closed_broker_takes_nothing(self, connect, call):
        broker = await connect()
        await broker.close()
        with pytest.raises(BrokerUnavailable):
            await call(broker)

    async def test_whoever_waits_for_events_is_told_that_the_broker_closes(self, connect):
        broker = await connect()
        reader = broker.read(QUEUE, (await broker.bounds(QUEUE)).last)
        async with aclosing(reader):
            waiting = asyncio.ensure_future(anext(reader))
            await a_round_trip(broker)
            await broker.close()
            with pytest.raises(BrokerUnavailable):
                await waiting

    async def test_whoever_waits_for_tasks_is_told_that_the_broker_closes(self, connect):
        broker = await connect()
        async with consuming(broker) as deliveries:
            waiting = asyncio.ensure_future(anext(deliveries))
            await a_round_trip(broker)
            await broker.close()
            with pytest.raises(BrokerUnavailable):
                await waiting

    async def test_a_delivery_of_a_closed_broker_takes_nothing(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            await broker.close()
            with pytest.raises(BrokerUnavailable):
                await delivery.append(run_of(delivery).running())
        assert story(await log_of(await connect())) == ["queued"]

    async def test_closing_finishes_what_was_handed_over(self, connect):
        broker = await connect()
        task = new_task()
        await broker.submit([task])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = run_of(delivery)
            events = [run.running(), *(run.progress(number) for number in range(100))]
            handed_over = [delivery.append(event) for event in events]
            await broker.close()
            await asyncio.gather(*handed_over)

        broker = await connect()
        assert (await log_of(broker))[1:] == events

    async def test_unsettled_deliveries_go_back_when_the_broker_closes(self, connect):
        broker = await connect()
        task = new_task()
        await broker.submit([task])
        async with consuming(broker) as deliveries:
            await anext(deliveries)
            await broker.close()
            async with consuming(await connect()) as others:
                again = await anext(others)
        assert (again.task, again.attempt) == (task, 1)


class Submitting(Suite):
    async def test_a_task_is_durable_when_submit_returns(self, connect):
        broker = await connect()
        task = new_task(
            args={"report": 7, "title": "Übersicht"},
            owner="ann",
            timeout=60,
            retries=3,
            expires_at=seconds_from_now(FAR),
        )
        await broker.submit([task])
        await broker.close()

        broker = await connect()
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
        assert delivery.task == task
        assert (delivery.attempt, delivery.suspect, delivery.losses) == (1, False, 0)

    async def test_the_first_event_says_queued(self, connect):
        broker = await connect()
        task = new_task(owner="ann")
        [receipt] = await broker.submit([task])
        [event] = await log_of(broker)
        assert (event.id, event.queue, event.owner, event.run, event.attempt) == (task.id, QUEUE, "ann", None, 1)
        assert (event.task.name, event.task.state) == ("render", "queued")
        assert (receipt.id, receipt.state, receipt.created) == (task.id, "queued", True)

    async def test_the_first_event_of_a_task_with_a_time_ahead_says_scheduled(self, connect):
        broker = await connect()
        [receipt] = await broker.submit([new_task(delay=FAR)])
        assert story(await log_of(broker)) == ["scheduled"]
        assert receipt.state == "scheduled"

    async def test_everything_that_happens_to_a_task_lies_after_its_receipt(self, connect, backend):
        broker = await connect()
        await broker.submit(new_tasks(3))
        task = new_task()
        [receipt] = await broker.submit([task])
        await broker.append(QUEUE, [cancelled(task)])
        after = await verify(broker, QUEUE, receipt.cursor)
        told = story(await log_of(broker, after=after))
        assert told == ["cancelled"] if backend.atomic else told[-1:] == ["cancelled"]

    async def test_a_batch_is_answered_and_logged_in_its_order(self, connect):
        broker = await connect()
        tasks = new_tasks(50)
        receipts = await broker.submit(tasks)
        assert [receipt.id for receipt in receipts] == [task.id for task in tasks]
        assert [event.id for event in await log_of(broker)] == [task.id for task in tasks]

    async def test_a_batch_may_be_empty(self, connect):
        broker = await connect()
        assert await broker.submit([]) == []

    async def test_a_batch_may_span_queues(self, connect):
        broker = await connect()
        await broker.declare(OTHER)
        here, there = new_task(), new_task(queue=OTHER)
        await broker.submit([here, there])
        assert [event.id for event in await log_of(broker)] == [here.id]
        assert [event.id for event in await log_of(broker, OTHER)] == [there.id]

    async def test_a_task_over_its_limit_is_refused_with_the_whole_batch(self, connect):
        broker = await connect()
        too_large = new_task(args={"text": "x" * (MAX_TASK_BYTES - 20)})
        with pytest.raises(TooLarge):
            await broker.submit([new_task(), too_large])
        assert await log_of(broker) == []

    async def test_submits_at_the_same_time_are_all_taken(self, connect):
        brokers = [await connect(), await connect()]
        tasks = new_tasks(100)
        await asyncio.gather(*(brokers[place % 2].submit([task]) for place, task in enumerate(tasks)))
        assert sorted(event.id for event in await log_of(brokers[0])) == sorted(task.id for task in tasks)


class Keys(Suite):
    async def test_a_key_used_again_answers_with_the_earlier_task(self, connect):
        broker = await connect()
        await broker.submit([new_task(idempotency_key="july")])
        [again] = await (await connect()).submit([new_task(idempotency_key="july")])
        assert (again.created, again.state) == (False, "queued")
        assert len(await log_of(broker)) == 1

    async def test_the_answer_tells_the_earlier_tasks_state_and_place(self, connect):
        broker = await connect()
        await broker.submit([new_task(idempotency_key="july")])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            [while_running] = await broker.submit([new_task(idempotency_key="july")])
            await delivery.append(progress := run.progress())
            await delivery.ack(result := run.succeeded())
            [when_done] = await broker.submit([new_task(idempotency_key="july")])
        assert (while_running.created, while_running.state) == (False, "running")
        assert (when_done.created, when_done.state) == (False, "succeeded")
        assert await log_of(broker, after=await verify(broker, QUEUE, while_running.cursor)) == [progress, result]
        assert await log_of(broker, after=await verify(broker, QUEUE, when_done.cursor)) == []

    @pytest.mark.parametrize("difference", [{"args": {"report": 8}}, {"name": "print"}], ids=["args", "name"])
    async def test_a_key_used_for_something_else_is_refused_with_the_whole_batch(self, connect, difference):
        broker = await connect()
        same = {"name": "render", "args": {"report": 7}, "idempotency_key": "july"}
        await broker.submit([new_task(**same)])
        before = await log_of(broker)
        with pytest.raises(KeyReused):
            await broker.submit([new_task(), new_task(**(same | difference)), new_task()])
        assert await log_of(broker) == before

    async def test_a_key_twice_in_one_batch_makes_one_task(self, connect):
        broker = await connect()
        first, second = await broker.submit([new_task(idempotency_key="july"), new_task(idempotency_key="july")])
        assert (first.created, second.created) == (True, False)
        assert len(await log_of(broker)) == 1

    async def test_a_key_for_two_things_in_one_batch_is_refused(self, connect):
        broker = await connect()
        with pytest.raises(KeyReused):
            await broker.submit([new_task(idempotency_key="july"), new_task("print", idempotency_key="july")])
        assert await log_of(broker) == []

    async def test_of_many_submits_with_one_key_at_the_same_time_one_makes_the_task(self, connect):
        brokers = [await connect(), await connect()]
        answers = await asyncio.gather(
            *(brokers[number % 2].submit([new_task(idempotency_key="july")]) for number in range(20))
        )
        assert Counter(receipt.created for [receipt] in answers) == {True: 1, False: 19}
        assert len(await log_of(brokers[0])) == 1


class Consuming(Suite):
    async def test_tasks_come_in_the_order_in_which_they_became_due(self, connect):
        broker = await connect()
        tasks = new_tasks(20)
        for task in tasks:
            await broker.submit([task])
        async with consuming(broker, concurrency=20) as deliveries:
            got = [(await anext(deliveries)).task for _ in tasks]
        assert got == tasks

    async def test_a_waiting_consumer_gets_a_task_that_is_submitted_elsewhere(self, connect):
        task = new_task()
        async with consuming(await connect()) as deliveries, meanwhile(anext(deliveries)) as [waiting]:
            await (await connect()).submit([task])
            assert (await waiting).task == task

    async def test_a_consumer_gets_the_tasks_of_its_own_queue(self, connect):
        broker = await connect()
        await broker.declare(OTHER)
        await broker.submit([new_task(queue=OTHER), mine := new_task()])
        async with consuming(broker) as deliveries:
            assert (await anext(deliveries)).task == mine

    async def test_competing_consumers_get_each_task_once(self, connect):
        first, second = await connect(), await connect()
        tasks = new_tasks(60)
        ran: list[str] = []
        async with meanwhile(work(first, ran), work(second, ran), work(second, ran)):
            await first.submit(tasks)
            await results_of(first, [task.id for task in tasks])
        assert sorted(ran) == sorted(task.id for task in tasks)

    async def test_a_consumer_never_holds_more_than_its_concurrency(self, connect):
        broker = await connect()
        await broker.submit(tasks := new_tasks(3))
        async with consuming(broker, concurrency=2) as deliveries:
            held = [await anext(deliveries), await anext(deliveries)]
            async with meanwhile(anext(deliveries)) as [waiting]:
                await a_round_trip(broker)
                assert not waiting.done()
                await finish(held[0])
                third = await waiting
        assert [delivery.task for delivery in [*held, third]] == tasks

    async def test_whoever_has_room_gets_what_another_has_been_waiting_for(self, connect, backend):
        if backend.deals_in_parts:
            pytest.skip("a queue is dealt out in parts here: what is in one waits for whoever has it")
        broker, elsewhere = await connect(), await connect()
        await broker.submit(tasks := new_tasks(2))
        async with consuming(broker, concurrency=1) as deliveries:
            held = await anext(deliveries)
            async with meanwhile(anext(deliveries)) as [waiting]:
                await a_round_trip(broker)
                async with consuming(elsewhere, concurrency=1) as others:
                    other = await anext(others)
                    assert not waiting.done()
                    await finish(other)
                await finish(held)
                await broker.submit([third := new_task()])
                assert (await waiting).task == third
        assert [held.task, other.task] == tasks

    @pytest.mark.parametrize(
        "settle",
        [
            pytest.param(lambda delivery, run: delivery.ack(run.succeeded()), id="ack"),
            pytest.param(lambda delivery, run: delivery.retry(FAR, run.retrying(FAR)), id="retry"),
            pytest.param(lambda delivery, run: delivery.reject("no such report", run.failed()), id="reject"),
            pytest.param(lambda delivery, run: delivery.release(run.retrying()), id="release"),
        ],
    )
    async def test_settling_makes_room_for_the_next(self, connect, settle):
        broker = await connect()
        await broker.submit(new_tasks(2))
        async with consuming(broker, concurrency=1) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            async with meanwhile(anext(deliveries)) as [waiting]:
                await settle(delivery, run)
                await waiting


class Scheduling(Suite):
    async def test_a_scheduled_task_does_not_come_before_its_time(self, connect):
        broker = await connect()
        waiting = [new_task(delay=2 * SOON), new_task(delay=SOON)]
        await broker.submit(waiting)
        async with consuming(broker) as deliveries:
            while waiting:  # in which order, nothing is promised: a broker's clock may be too coarse to tell them apart
                task = (await anext(deliveries)).task
                assert time.time() >= task.not_before - EARLY
                waiting.remove(task)

    async def test_a_scheduled_task_holds_up_nobody(self, connect):
        broker = await connect()
        await broker.submit([new_task(delay=FAR), now := new_task()])
        async with consuming(broker, concurrency=1) as deliveries:
            assert (await anext(deliveries)).task == now

    async def test_a_scheduled_task_is_durable(self, connect):
        broker = await connect()
        await broker.submit([task := new_task(delay=SOON)])
        await broker.close()
        async with consuming(await connect()) as deliveries:
            assert (await anext(deliveries)).task == task
        assert time.time() >= task.not_before - EARLY

    async def test_a_task_that_nobody_begins_in_time_expires(self, connect):
        broker = await connect()
        task = new_task(expires_at=seconds_from_now(SOON))
        await broker.submit([task])
        event = await result_of(broker, task.id)
        assert time.time() >= task.expires_at - EARLY
        assert (event.state, event.error.type, event.run) == ("failed", "expired", None)
        await broker.submit([another := new_task()])
        async with consuming(broker) as deliveries:
            assert (await anext(deliveries)).task == another

    async def test_a_task_expires_though_its_broker_was_closed(self, connect):
        broker = await connect()
        await broker.submit([task := new_task(expires_at=seconds_from_now(SOON))])
        await broker.close()
        assert (await result_of(await connect(), task.id)).error.type == "expired"

    async def test_a_task_that_was_begun_in_time_does_not_expire(self, connect):
        broker = await connect()
        async with consuming(broker) as deliveries:
            await begin_to_take(broker, deliveries)
            task = new_task(expires_at=seconds_from_now(IN_TIME), retries=1)
            await broker.submit([task])
            first = await anext(deliveries)
            run = await begin(first)
            await first.retry(IN_TIME, run.retrying(IN_TIME))
            second = await anext(deliveries)
            assert time.time() >= task.expires_at
            assert second.attempt == 2
            await finish(second)
        told = await shown(broker, of=task.id)
        assert story(told) == ["queued", "running", "retrying", "running", "succeeded"]

    async def test_a_task_given_back_too_late_has_expired(self, connect):
        broker = await connect()
        async with consuming(broker) as deliveries:
            await begin_to_take(broker, deliveries)
            task = new_task(expires_at=seconds_from_now(IN_TIME))
            await broker.submit([task])
            delivery = await anext(deliveries)
            await broker.submit([new_task(delay=IN_TIME)])
            await anext(deliveries)
            await delivery.release()
            await broker.submit([another := new_task()])
            assert (await anext(deliveries)).task == another
        assert (await result_of(broker, task.id)).error.type == "expired"


class Settling(Suite):
    async def test_a_result_is_in_the_log_when_ack_returns(self, connect):
        broker, elsewhere = await connect(), await connect()
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await delivery.ack(output := run.output(), result := run.succeeded({"pages": 3}))
            assert (await log_of(elsewhere))[-2:] == [output, result]

    async def test_an_acked_task_is_gone_for_ever(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            await finish(await anext(deliveries))
        await broker.close()

        broker = await connect()
        await broker.submit([another := new_task()])
        async with consuming(broker) as deliveries:
            assert (await anext(deliveries)).task == another

    async def test_a_result_that_the_fold_refuses_ends_nothing(self, connect):
        broker = await connect()
        await broker.submit([task := new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            run.output("never written")
            await delivery.ack(run.succeeded())
            again = await anext(deliveries)
            assert (again.task, again.attempt) == (task, 1)
            await finish(again)
        assert story(await shown(broker)) == ["queued", "running", "running", "succeeded"]

    async def test_a_retried_task_comes_again_one_attempt_higher_when_it_is_due(self, connect):
        broker = await connect()
        await broker.submit([task := new_task(retries=1)])
        async with consuming(broker) as deliveries:
            first = await anext(deliveries)
            run = await begin(first)
            due = time.time() + SOON
            await first.retry(SOON, retrying := run.retrying(SOON, ErrorInfo("ValueError", "busy")))
            assert (await log_of(broker))[-1] == retrying
            second = await anext(deliveries)
            assert time.time() >= due - EARLY
            assert (second.task, second.attempt, second.suspect) == (task, 2, False)
            await finish(second)
        assert story(await shown(broker)) == ["queued", "running", "retrying", "running", "succeeded"]

    async def test_a_retry_without_delay_comes_again_at_once(self, connect):
        broker = await connect()
        await broker.submit([new_task(retries=2)])
        async with consuming(broker) as deliveries:
            for attempt in (1, 2, 3):
                delivery = await anext(deliveries)
                assert delivery.attempt == attempt
                run = await begin(delivery)
                await delivery.retry(0, run.retrying(0))

    async def test_a_retry_that_waits_holds_up_nobody(self, connect):
        broker = await connect()
        await broker.submit(tasks := new_tasks(2))
        async with consuming(broker, concurrency=1) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await delivery.retry(FAR, run.retrying(FAR))
            assert (await anext(deliveries)).task == tasks[1]

    async def test_a_retry_is_durable_when_it_returns(self, connect):
        broker = await connect()
        await broker.submit([task := new_task(retries=1)])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await delivery.retry(SOON, run.retrying(SOON))
        await broker.close()
        async with consuming(await connect()) as deliveries:
            again = await anext(deliveries)
            assert (again.task, again.attempt, again.suspect) == (task, 2, False)

    async def test_a_rejected_task_has_failed_for_good_with_its_reason(self, connect):
        broker = await connect()
        await broker.submit([task := new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await delivery.reject("no such report", run.failed("ValueError", "no such report"))
            await broker.submit([another := new_task()])
            assert (await anext(deliveries)).task == another
        result = await result_of(broker, task.id)
        assert (result.state, result.error) == ("failed", ErrorInfo("ValueError", "no such report"))

    async def test_a_task_that_cannot_run_at_all_is_rejected_without_a_run(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            await delivery.reject("unknown task name", run_of(delivery).failed("unknown-task-name"))
        assert story(await shown(broker)) == ["queued", "failed"]

    async def test_a_released_task_comes_back_at_once_and_has_lost_no_try(self, connect):
        broker, elsewhere = await connect(), await connect()
        await broker.submit([task := new_task(), new_task()])
        async with consuming(elsewhere, concurrency=1) as others:
            async with consuming(broker, concurrency=1) as deliveries:
                delivery = await anext(deliveries)
                run = await begin(delivery)
                await delivery.release(run.retrying())
            again = await anext(others)
            assert (again.task, again.attempt, again.suspect) == (task, 1, False)

    async def test_a_task_released_before_it_ran_leaves_no_event(self, connect):
        broker = await connect()
        await broker.submit([task := new_task()])
        async with consuming(broker, concurrency=1) as deliveries:
            delivery = await anext(deliveries)
            async with meanwhile(anext(deliveries)) as [waiting]:
                await delivery.release()
                again = await waiting
            assert (again.task, again.attempt, again.suspect) == (task, 1, False)
        assert story(await log_of(broker)) == ["queued"]

    @pytest.mark.parametrize(
        "settle",
        [
            pytest.param(lambda delivery: delivery.ack(), id="ack"),
            pytest.param(lambda delivery: delivery.retry(0), id="retry"),
            pytest.param(lambda delivery: delivery.release(), id="release"),
        ],
    )
    async def test_a_delivery_that_was_taken_away_settles_nothing(self, connect, settle):
        broker, elsewhere = await connect(), await connect()
        await broker.submit([task := new_task()])
        async with consuming(broker) as deliveries:
            stale = await anext(deliveries)
        async with consuming(elsewhere, concurrency=2) as deliveries:
            held = await anext(deliveries)
            with suppress(BrokerError):
                await settle(stale)
            await broker.submit([another := new_task()])
            other = await anext(deliveries)
            assert other.task == another
            await finish(other)
            await held.release()
            again = await anext(deliveries)
            assert (again.task, again.attempt) == (task, 1)


class Losing(Suite):
    """A consumer that closes without settling stands for a worker that died; `Processes` kills real ones."""

    async def lose(self, broker: Broker, *, begun: bool, alone: bool = False) -> None:
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            if begun:
                await begin(delivery, alone=alone)

    async def redelivered(self, broker: Broker) -> Delivery:
        async with consuming(broker) as deliveries:
            return await anext(deliveries)

    async def test_a_task_whose_run_had_begun_comes_back_as_a_suspect(self, connect):
        broker = await connect()
        await broker.submit([task := new_task()])
        await self.lose(broker, begun=True)
        again = await self.redelivered(broker)
        assert (again.task, again.attempt, again.suspect) == (task, 1, True)

    async def test_a_task_whose_run_had_not_begun_is_no_suspect(self, connect):
        broker = await connect()
        await broker.submit([task := new_task()])
        await self.lose(broker, begun=False)
        again = await self.redelivered(broker)
        assert (again.task, again.attempt, again.suspect) == (task, 1, False)

    async def test_a_lost_run_does_not_use_up_a_retry(self, connect):
        broker = await connect()
        await broker.submit([new_task(retries=1)])
        for _ in range(4):
            await self.lose(broker, begun=True)
        assert (await self.redelivered(broker)).attempt == 1

    async def test_a_lost_retry_keeps_its_attempt(self, connect):
        broker = await connect()
        await broker.submit([new_task(retries=1)])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await delivery.retry(0, run.retrying(0))
            await begin(await anext(deliveries))
        again = await self.redelivered(broker)
        assert (again.attempt, again.suspect) == (2, True)

    async def test_a_loss_counts_only_for_a_run_that_was_alone(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        counted = []
        for alone in (False, True, False, True):
            await self.lose(broker, begun=True, alone=alone)
            counted.append((await self.redelivered(broker)).losses)
        assert counted == [0, 1, 1, 2]

    async def test_a_run_that_was_given_back_is_not_a_loss(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery, alone=True)
            await delivery.release(run.retrying())
        again = await self.redelivered(broker)
        assert (again.suspect, again.losses) == (False, 0)


class Cancelling(Suite):
    @pytest.mark.parametrize("delay", [0, SOON], ids=["queued", "scheduled"])
    async def test_a_task_that_is_cancelled_before_it_runs_is_never_delivered(self, connect, delay):
        broker, elsewhere = await connect(), await connect()
        await broker.submit([task := new_task(delay=delay)])
        await elsewhere.append(QUEUE, [cancelled(task)])
        await broker.submit([another := new_task(delay=delay)])
        async with consuming(broker, concurrency=1) as deliveries:
            assert (await anext(deliveries)).task == another

    async def test_a_task_that_is_cancelled_between_two_attempts_is_never_delivered(self, connect):
        broker = await connect()
        await broker.submit([task := new_task(retries=1)])
        async with consuming(broker, concurrency=1) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await delivery.retry(SOON, run.retrying(SOON))
            await broker.append(QUEUE, [cancelled(task)])
            await broker.submit([another := new_task(delay=2 * SOON)])
            assert (await anext(deliveries)).task == another

    async def test_a_task_that_is_cancelled_in_a_workers_hands_stays_cancelled(self, connect):
        broker = await connect()
        await broker.submit([task := new_task()])
        async with consuming(broker, concurrency=1) as deliveries:
            delivery = await anext(deliveries)
            await broker.append(QUEUE, [cancelled(task)])
            await finish(delivery)
            await broker.submit([another := new_task()])
            assert (await anext(deliveries)).task == another
        assert story(await shown(broker, of=task.id)) == ["queued", "cancelled"]


class Appending(Suite):
    """What a reader of the log is shown, whatever was written."""

    async def test_the_order_of_the_calls_is_the_order_of_the_events(self, connect):
        broker = await connect()
        await broker.submit(new_tasks(3))
        async with consuming(broker) as deliveries:
            held = [await anext(deliveries) for _ in range(3)]
            runs = [run_of(delivery) for delivery in held]
            written, pending = [], []
            for number in range(60):
                delivery, run = held[number % 3], runs[number % 3]
                event = run.running() if run.seq == 0 else run.progress(number)
                written.append(event)
                pending.append(delivery.append(event))
            await asyncio.gather(*reversed(pending))
        assert (await log_of(broker))[3:] == written

    async def test_one_call_may_bring_many_events(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = run_of(delivery)
            await delivery.append(running := run.running(), *(outputs := [run.output(n) for n in range(100)]))
        assert (await log_of(broker))[1:] == [running, *outputs]

    async def test_a_settle_comes_after_what_was_handed_over_before_it(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = run_of(delivery)
            events = [run.running(), run.output(1), run.output(2), run.succeeded()]
            for event in events[:-1]:
                delivery.append(event)
            await delivery.ack(events[-1])
        assert (await log_of(broker))[1:] == events

    async def test_an_entry_is_the_event_byte_for_byte(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await delivery.append(output := run.output("naïve \u2028 \U0001f600 \x00"))
        assert (await entries_of(broker))[-1].body == encode_event(output)

    async def test_an_event_is_durable_when_append_returns(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            run = await begin(await anext(deliveries))
        await broker.close()
        assert (await log_of(await connect()))[-1].run == run.name

    async def test_an_event_that_is_repeated_is_shown_once(self, connect):
        broker = await connect()
        await broker.submit([task := new_task()])
        run = Run(task)
        running, output, result = run.running(), run.output(), run.succeeded()
        await broker.append(QUEUE, [running, running, output, output, running, result, output, result])
        assert (await shown(broker))[1:] == [running, output, result]

    async def test_an_event_that_came_out_of_order_waits_to_be_resent(self, connect):
        broker = await connect()
        await broker.submit([task := new_task()])
        run = Run(task)
        running, first, second, result = run.running(), run.output(1), run.output(2), run.succeeded()
        await broker.append(QUEUE, [running, second])
        await broker.append(QUEUE, [result])
        await broker.append(QUEUE, [first, second, result])
        assert (await shown(broker))[1:] == [running, first, second, result]

    async def test_a_new_run_supersedes_the_one_before(self, connect):
        broker = await connect()
        await broker.submit([task := new_task()])
        old, new = Run(task), Run(task)
        written = [old.running(), new.running(), old.output("late"), new.output("new"), old.running()]
        await broker.append(QUEUE, written)
        assert (await shown(broker))[1:] == [written[0], written[1], written[3]]

    async def test_the_first_result_ends_the_task_whoever_wrote_it(self, connect):
        broker = await connect()
        await broker.submit([task := new_task()])
        old, new = Run(task), Run(task)
        await broker.append(QUEUE, [old.running(), new.running()])
        await broker.append(QUEUE, [result := old.succeeded("old")])
        await broker.append(QUEUE, [new.succeeded("new"), cancelled(task)])
        told = await shown(broker)
        assert story(told) == ["queued", "running", "running", "succeeded"]
        assert told[-1] == result

    async def test_a_task_that_is_over_does_not_begin_again(self, connect):
        broker = await connect()
        await broker.submit([task := new_task()])
        await broker.append(QUEUE, [cancelled(task)])
        await broker.append(QUEUE, [Run(task).running()])
        assert story(await shown(broker)) == ["queued", "cancelled"]

    async def test_an_event_at_its_limit_is_taken(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            event = run.output("")
            event = replace(event, output="x" * (MAX_EVENT_BYTES - len(encode_event(event))))
            await delivery.append(event)
        assert (await entries_of(broker))[-1].body == encode_event(event)

    async def test_an_event_over_its_limit_changes_nothing(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            before = await log_of(broker)
            with pytest.raises(TooLarge):
                await delivery.append(run.output("small"), replace(run.output(), output="x" * MAX_EVENT_BYTES))
            assert await log_of(broker) == before

    async def test_a_result_over_its_limit_leaves_the_delivery_to_be_settled_otherwise(self, connect):
        broker = await connect()
        await broker.submit([task := new_task()])
        async with consuming(broker, concurrency=1) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            with pytest.raises(TooLarge):
                await delivery.ack(replace(run.succeeded(), result="x" * MAX_EVENT_BYTES))
            run.seq -= 1
            await delivery.reject("result-too-large", run.failed("result-too-large"))
            await broker.submit([another := new_task()])
            assert (await anext(deliveries)).task == another
        assert story(await shown(broker, of=task.id)) == ["queued", "running", "failed"]


class Reading(Suite):
    async def test_offsets_rise(self, connect):
        broker = await connect()
        for task in new_tasks(20):
            await broker.submit([task])
        offsets = [entry.offset for entry in await entries_of(broker)]
        assert len(offsets) == 20
        assert all(earlier < later for earlier, later in pairwise(offsets))

    async def test_a_log_is_read_from_any_offset(self, connect):
        broker = await connect()
        await broker.submit(new_tasks(10))
        entries = await entries_of(broker)
        for place, entry in enumerate(entries):
            assert await entries_of(broker, after=entry.offset) == entries[place + 1 :]

    async def test_a_reader_waits_for_what_comes(self, connect):
        broker, elsewhere = await connect(), await connect()
        end = (await broker.bounds(QUEUE)).last
        for task in new_tasks(3):
            reading = read_until(broker, bool, after=end)
            async with meanwhile(reading) as [waiting]:
                await elsewhere.submit([task])
                [entry] = await waiting
            assert decode_event(entry.body).id == task.id
            end = entry.offset

    async def test_readers_get_each_entry_once_and_in_order_while_the_log_grows(self, connect):
        broker, elsewhere = await connect(), await connect()
        await broker.submit([task := new_task()])
        run = Run(task)
        events = [run.running(), *(run.progress(number) for number in range(300)), run.succeeded()]
        start = (await broker.bounds(QUEUE)).last

        def enough(entries):
            return len(entries) >= len(events)

        readers = [read_until(each, enough, after=start) for each in (broker, broker, elsewhere, elsewhere)]
        async with meanwhile(*readers) as reading:
            for place in range(0, len(events), 7):
                await broker.append(QUEUE, events[place : place + 7])
                await turns()
            got = await asyncio.gather(*reading)
        for entries in got:
            assert [decode_event(entry.body) for entry in entries] == events

    async def test_a_reader_that_stops_disturbs_no_other(self, connect):
        broker = await connect()
        await broker.submit(new_tasks(2))
        start = (await broker.bounds(QUEUE)).first - 1
        async with aclosing(broker.read(QUEUE, start)) as staying:
            await anext(staying)
            async with aclosing(broker.read(QUEUE, start)) as leaving:
                await anext(leaving)
            await broker.submit([third := new_task()])
            [entry] = await anext(staying)
        assert decode_event(entry.body).id == third.id

    async def test_reading_beyond_the_end_is_refused(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        end = (await broker.bounds(QUEUE)).last
        async with aclosing(broker.read(QUEUE, end + 1)) as batches:
            with pytest.raises(ResetRequired, match="ahead"):
                await anext(batches)


class ControlLog(Suite):
    async def test_messages_are_read_from_the_first_on(self, connect):
        broker, elsewhere = await connect(), await connect()
        first = (await broker.bounds(CONTROL)).first
        await broker.post(b'{"cancel":"a"}')
        await elsewhere.post(b'{"cancel":"b"}')
        assert [entry.body for entry in await entries_of(broker, CONTROL, first - 1)] == [
            b'{"cancel":"a"}',
            b'{"cancel":"b"}',
        ]

    async def test_a_message_is_durable_when_post_returns(self, connect):
        broker = await connect()
        await broker.post(b'{"cancel":"a"}')
        await broker.close()
        assert [entry.body for entry in await entries_of(await connect(), CONTROL)] == [b'{"cancel":"a"}']

    async def test_a_reader_waits_for_messages(self, connect):
        broker, elsewhere = await connect(), await connect()
        end = (await broker.bounds(CONTROL)).last
        async with meanwhile(read_until(broker, bool, CONTROL, after=end)) as [waiting]:
            await elsewhere.post(b'{"pause":"reports"}')
            [entry] = await waiting
        assert entry.body == b'{"pause":"reports"}'

    async def test_the_order_of_the_calls_is_the_order_of_the_messages(self, connect):
        broker = await connect()
        bodies = [b"%d" % number for number in range(50)]
        await asyncio.gather(*reversed([broker.post(body) for body in bodies]))
        assert [entry.body for entry in await entries_of(broker, CONTROL)] == bodies

    async def test_messages_stay_out_of_the_queues(self, connect):
        broker = await connect()
        await broker.post(b"{}")
        assert await log_of(broker) == []


class Bounding(Suite):
    async def test_an_empty_log_has_no_events(self, connect):
        bounds = await (await connect()).bounds(QUEUE)
        assert bounds.first > bounds.last

    async def test_the_bounds_are_the_first_and_the_last_event(self, connect, backend):
        broker = await connect()
        await broker.submit(new_tasks(5))
        bounds = await broker.bounds(QUEUE)
        entries = await entries_of(broker)
        assert bounds.last == entries[-1].offset
        # A server's log may begin with what is no event.
        assert bounds.first == entries[0].offset if backend.atomic else bounds.first <= entries[0].offset

    async def test_a_log_keeps_its_identity_and_its_bounds(self, connect, backend):
        broker = await connect()
        identity = (await broker.bounds(QUEUE)).identity
        await broker.submit(new_tasks(3))
        before = await broker.bounds(QUEUE)
        await broker.close()
        assert before.identity == identity
        after = await (await connect()).bounds(QUEUE)
        assert (after.identity, after.last) == (before.identity, before.last)
        assert after.first == before.first or not backend.atomic

    async def test_a_log_that_takes_anothers_place_has_another_identity(self, connect, open_fresh):
        identity = (await (await connect()).bounds(QUEUE)).identity
        fresh = await open_fresh(Retention())
        await fresh.declare(QUEUE)
        assert identity is None or (await fresh.bounds(QUEUE)).identity != identity

    async def test_every_connection_sees_the_same_log(self, connect):
        one, other = await connect(), await connect()
        await one.submit(new_tasks(3))
        assert await one.bounds(QUEUE) == await other.bounds(QUEUE)
        assert await entries_of(one) == await entries_of(other)


class Verifying(Suite):
    async def refused(self, broker: Broker, cursor: Cursor) -> str:
        with pytest.raises(ResetRequired) as caught:
            await verify(broker, QUEUE, cursor)
        return caught.value.reason

    async def test_every_place_in_the_log_can_be_resumed_from(self, connect):
        broker = await connect()
        await broker.submit(new_tasks(5))
        identity = (await broker.bounds(QUEUE)).identity
        for entry in await entries_of(broker):
            assert await verify(broker, QUEUE, cursor_at(identity, *entry)) == entry.offset

    async def test_the_beginning_can_be_resumed_from(self, connect):
        broker = await connect()
        start = await end_of(broker, QUEUE)
        assert await verify(broker, QUEUE, start) == start.offset
        await broker.submit(new_tasks(5))
        assert await verify(broker, QUEUE, start) == start.offset
        assert len(await log_of(broker, after=start.offset)) == 5

    async def test_the_end_can_be_resumed_from(self, connect):
        broker = await connect()
        await broker.submit(new_tasks(5))
        end = await end_of(broker, QUEUE)
        assert await verify(broker, QUEUE, end) == (await broker.bounds(QUEUE)).last

    async def test_a_cursor_outlives_the_connection(self, connect):
        broker = await connect()
        await broker.submit(new_tasks(5))
        end = await end_of(broker, QUEUE)
        await broker.close()
        assert await verify(await connect(), QUEUE, end) == end.offset

    async def test_a_cursor_of_another_log_is_refused(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        end = await end_of(broker, QUEUE)
        assert await self.refused(broker, end._replace(identity="elsewhere")) == "other-log"

    async def test_a_cursor_ahead_of_the_log_is_refused(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        end = await end_of(broker, QUEUE)
        assert await self.refused(broker, end._replace(offset=end.offset + 1)) == "ahead"

    async def test_a_cursor_at_another_event_is_refused(self, connect):
        broker = await connect()
        await broker.submit([new_task()])
        end = await end_of(broker, QUEUE)
        assert await self.refused(broker, end._replace(digest="00c0ffee")) == "diverged"

    async def test_a_cursor_that_the_log_has_trimmed_is_refused(self, connect):
        broker = await connect(Retention(size=20_000))
        await broker.submit([new_task()])
        old = await end_of(broker, QUEUE)
        await outgrow(broker, old.offset + 1)
        assert await self.refused(broker, old) == "trimmed"

    async def test_a_cursor_just_before_the_first_event_left_has_missed_nothing(self, connect):
        broker = await connect(Retention(size=20_000))
        await outgrow(broker, (await broker.bounds(QUEUE)).last + 1)
        bounds = await broker.bounds(QUEUE)
        cursor = Cursor(bounds.identity, bounds.first - 1, "00c0ffee")
        if bounds.identity is None:
            # Nothing is left to compare with, and nothing else tells this log from another one.
            assert await self.refused(broker, cursor) == "trimmed"
        else:
            assert await verify(broker, QUEUE, cursor) == cursor.offset


class Retaining(Suite):
    @pytest.fixture(params=[Retention(size=20_000), Retention(age=SOON)], ids=["size", "age"])
    def small(self, request) -> Retention:
        return request.param

    async def test_old_events_are_trimmed(self, connect, small):
        broker = await connect(small)
        await broker.submit(new_tasks(3))
        before = await broker.bounds(QUEUE)
        await outgrow_all(broker)
        after = await broker.bounds(QUEUE)
        assert before.last < after.first
        assert after.identity == before.identity

    async def test_what_is_left_is_whole(self, connect):
        broker = await connect(Retention(size=20_000))
        await broker.submit(new_tasks(3))
        await outgrow_all(broker)
        bounds = await broker.bounds(QUEUE)
        entries = await entries_of(broker)
        assert (bounds.first, bounds.last) == (entries[0].offset, entries[-1].offset)
        assert 10_000 < sum(len(entry.body) for entry in entries) < 40_000, "trimmed in steps, not by halves"

    async def test_a_log_may_forget_all_it_held(self, connect):
        broker = await connect(Retention(size=1))
        [receipt] = await broker.submit([task := new_task()])
        async with consuming(broker) as deliveries:
            await finish(await anext(deliveries))
        await outgrow(broker, receipt.cursor.offset)
        end = await end_of(broker, QUEUE)
        assert await verify(broker, QUEUE, end) == end.offset
        assert task.id not in [event.id for event in await log_of(broker)]

    async def test_a_reader_that_begins_too_far_behind_is_told(self, connect, small):
        broker = await connect(small)
        start = (await broker.bounds(QUEUE)).last
        await broker.submit([new_task()])
        await outgrow_all(broker)
        async with aclosing(broker.read(QUEUE, start)) as batches:
            with pytest.raises(ResetRequired, match="trimmed"):
                await anext(batches)

    async def test_a_reader_that_falls_behind_is_told_and_never_skips(self, connect):
        broker = await connect(Retention(size=20_000))
        await broker.submit([new_task()])
        start = (await broker.bounds(QUEUE)).first - 1
        got = []

        async def read_on() -> None:
            async for batch in batches:
                got.extend(batch)

        async with aclosing(broker.read(QUEUE, start)) as batches:
            got += await anext(batches)
            await outgrow_all(broker)
            await outgrow_all(broker)
            first = (await broker.bounds(QUEUE)).first
            with pytest.raises(ResetRequired, match="trimmed"):
                await read_on()
        assert got[-1].offset < first
        events = [decode_event(entry.body) for entry in got]
        assert accepted(events) == events, "each run's seq is dense"

    async def test_a_task_that_waits_outlives_its_events(self, connect):
        broker = await connect(Retention(size=20_000))
        await broker.submit([task := new_task()])
        await outgrow_all(broker)
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            assert (delivery.task, delivery.attempt, delivery.suspect) == (task, 1, False)
            await finish(delivery)
        assert story(await shown(broker, of=task.id)) == ["running", "succeeded"]

    async def test_a_task_that_runs_outlives_its_events(self, connect):
        broker = await connect(Retention(size=20_000))
        await broker.submit([task := new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await outgrow_all(broker)
            await finish(delivery, run)
        assert story(await shown(broker, of=task.id)) == ["succeeded"]

    async def test_a_finished_task_is_forgotten_with_its_last_event(self, connect, small):
        broker = await connect(small)
        await broker.submit([task := new_task(idempotency_key="july")])
        async with consuming(broker) as deliveries:
            await finish(await anext(deliveries))
        await outgrow_all(broker)
        assert await broker.status(QUEUE, task.id) is None
        assert await broker.load(QUEUE, task.id) is None
        assert task.id not in [status.id for status in await broker.statuses(QUEUE)]
        [receipt] = await broker.submit([new_task(idempotency_key="july")])
        assert receipt.created

    async def test_a_finished_task_is_known_as_long_as_its_last_event(self, connect):
        broker = await connect(Retention(size=20_000))
        [receipt] = await broker.submit([task := new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await delivery.append(*(run.progress(note="x" * 1_000) for _ in range(10)))
            await finish(delivery, run)
        end = (await broker.bounds(QUEUE)).last
        await outgrow(broker, receipt.cursor.offset)
        still_there = (await broker.bounds(QUEUE)).first <= end
        assert (await broker.status(QUEUE, task.id) is not None) == still_there

    async def test_a_live_task_is_kept_though_its_events_are_gone(self, connect):
        broker = await connect(Retention(size=20_000))
        await broker.submit([task := new_task()])
        await outgrow_all(broker)
        assert task.id in [status.id for status in await broker.statuses(QUEUE)]
        status = await broker.status(QUEUE, task.id)
        assert status.state == "queued"
        after = await verify(broker, QUEUE, status.cursor)
        await broker.append(QUEUE, [cancelled(task)])
        assert task.id in [event.id for event in await log_of(broker, after=after)]


class Projecting(Suite):
    """What each task is now."""

    async def test_a_refused_event_never_enters_the_log(self, connect):
        broker = await connect()
        await broker.submit([task := new_task()])
        old, new = Run(task), Run(task)
        running, superseding, result = old.running(), new.running(), new.succeeded()
        await broker.append(
            QUEUE, [running, running, superseding, old.output(), running, result, result, cancelled(task)]
        )
        assert (await log_of(broker))[1:] == [running, superseding, result]

    async def test_an_unknown_task_has_no_status(self, connect):
        broker = await connect()
        assert await broker.status(QUEUE, new_task().id) is None
        assert await broker.load(QUEUE, new_task().id) is None

    async def test_a_task_has_a_status_at_once_and_on_every_connection(self, connect, backend):
        broker, elsewhere = await connect(), await connect()
        [receipt] = await broker.submit([task := new_task(owner="ann")])
        status = await elsewhere.status(QUEUE, task.id)
        assert (status.id, status.queue, status.name, status.owner) == (task.id, QUEUE, "render", "ann")
        assert (status.state, status.attempt) == ("queued", 1)
        assert status.cursor == receipt.cursor if backend.atomic else status.cursor.offset >= receipt.cursor.offset
        assert status.first == (await entries_of(broker))[0].offset
        assert (status.progress, status.result, status.error) == (None, None, None)

    async def test_a_status_follows_the_task(self, connect):
        broker = await connect()
        await broker.submit([task := new_task(retries=1)])

        async def status():
            now = await broker.status(QUEUE, task.id)
            last = (await entries_of(broker))[-1]
            assert now.cursor == cursor_at((await broker.bounds(QUEUE)).identity, *last)
            return now

        async with consuming(broker) as deliveries:
            first = await anext(deliveries)
            run = await begin(first)
            assert (await status()).state == "running"
            await first.append(run.progress(3, note="rows"))
            assert (await status()).progress == Progress(3, note="rows")
            busy = ErrorInfo("Busy", "not now")
            await first.retry(0, run.retrying(0, busy))
            waiting = await status()
            assert (waiting.state, waiting.attempt, waiting.error) == ("retrying", 1, busy)
            second = await anext(deliveries)
            run = await begin(second)
            again = await status()
            assert (again.state, again.attempt, again.error) == ("running", 2, None)
            await second.ack(run.succeeded({"pages": 3}))
        done = await status()
        assert (done.state, done.attempt, done.result, done.progress) == ("succeeded", 2, {"pages": 3}, None)

    async def test_a_failed_tasks_status_tells_its_error(self, connect):
        broker = await connect()
        await broker.submit([task := new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await delivery.reject("no such report", run.failed("ValueError", "no such report"))
        status = await broker.status(QUEUE, task.id)
        assert (status.state, status.error) == ("failed", ErrorInfo("ValueError", "no such report"))

    async def test_tasks_are_listed_newest_first(self, connect):
        broker = await connect()
        tasks = [new_task(idempotency_key=f"key {number}") if number % 2 else new_task() for number in range(12)]
        for task in tasks:
            await broker.submit([task])
        assert [status.id for status in await broker.statuses(QUEUE)] == [task.id for task in reversed(tasks)]

    async def test_a_list_is_paged(self, connect):
        broker = await connect()
        tasks = [new_task(idempotency_key=f"key {number}") if number % 2 else new_task() for number in range(12)]
        await broker.submit(tasks)
        pages, before = [], None
        while page := await broker.statuses(QUEUE, before=before, limit=5):
            pages.append([status.id for status in page])
            before = page[-1].id
        assert [len(page) for page in pages] == [5, 5, 2]
        assert [id for page in pages for id in page] == [task.id for task in reversed(tasks)]

    async def test_a_list_is_filtered_by_state(self, connect):
        broker = await connect()
        await broker.submit(tasks := new_tasks(4))
        await broker.append(QUEUE, [cancelled(tasks[1]), cancelled(tasks[2])])
        listed = await broker.statuses(QUEUE, state="cancelled")
        assert [status.id for status in listed] == [tasks[2].id, tasks[1].id]
        assert [status.id for status in await broker.statuses(QUEUE, state="cancelled", limit=1)] == [tasks[2].id]
        assert await broker.statuses(QUEUE, state="failed") == []

    async def test_a_list_is_filtered_by_owner(self, connect):
        broker = await connect()
        await broker.submit(tasks := [new_task(owner=owner) for owner in ("ann", "bob", None, "ann")])
        await broker.append(QUEUE, [cancelled(tasks[3])])
        listed = await broker.statuses(QUEUE, owner="ann")
        assert [(status.id, status.owner) for status in listed] == [(tasks[3].id, "ann"), (tasks[0].id, "ann")]
        assert [status.id for status in await broker.statuses(QUEUE, owner="ann", state="queued")] == [tasks[0].id]
        assert await broker.statuses(QUEUE, owner="eve") == []

    async def test_a_list_is_of_one_queue(self, connect):
        broker = await connect()
        await broker.declare(OTHER)
        await broker.submit([new_task(queue=OTHER), mine := new_task()])
        assert [status.id for status in await broker.statuses(QUEUE)] == [mine.id]

    async def test_tasks_are_counted_by_state(self, connect):
        broker = await connect()
        tasks = [*new_tasks(3), new_task(delay=FAR)]
        await broker.submit(tasks)
        await broker.append(QUEUE, [cancelled(tasks[0])])
        async with consuming(broker) as deliveries:
            await begin(await anext(deliveries))
            counts = (await broker.counts())[QUEUE]
        assert {state: number for state, number in counts.items() if number} == {
            "cancelled": 1,
            "running": 1,
            "queued": 1,
            "scheduled": 1,
        }

    async def test_a_declared_queue_is_counted_though_it_is_empty(self, connect):
        broker = await connect()
        await broker.declare(OTHER)
        await broker.post(b"{}")
        counts = await broker.counts()
        assert set(counts) == {QUEUE, OTHER}
        assert not any(counts[OTHER].values())

    async def test_the_longest_wait_is_that_of_the_task_due_first(self, connect, backend):
        broker = await connect()
        assert await broker.oldest_due(QUEUE) is None
        await broker.submit([new_task(delay=FAR)])
        assert await broker.oldest_due(QUEUE) is None
        await broker.submit(tasks := new_tasks(2))
        assert await broker.oldest_due(QUEUE) == pytest.approx(tasks[0].submitted_at, abs=0.5)
        async with consuming(broker) as deliveries:
            await finish(await anext(deliveries))
            held = await anext(deliveries)
            if not backend.atomic:
                await begin(held)  # only a run tells others that somebody holds it
            assert await broker.oldest_due(QUEUE) is None

    async def test_a_task_is_loaded_as_it_was_submitted(self, connect):
        broker = await connect()
        await broker.submit([task := new_task(args={"report": 7}, owner="ann", timeout=60, retries=3)])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await delivery.reject("no such report", run.failed())
        assert await broker.load(QUEUE, task.id) == task


class BrokerContract(
    Opening,
    Submitting,
    Keys,
    Consuming,
    Scheduling,
    Settling,
    Losing,
    Cancelling,
    Appending,
    Reading,
    ControlLog,
    Bounding,
    Verifying,
    Retaining,
    Projecting,
    Processes,
):
    """All of it."""
