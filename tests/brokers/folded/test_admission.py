"""What becomes of a message that is handed out: a task to run, or nothing to do any more, or nothing at all."""

import base64
import json

import pytest
from msgspec.structs import replace

from queuecast.brokers.folded import consumer
from queuecast.brokers.folded.driver import DEAD
from queuecast.brokers.folded.wire import ATTEMPT, EXPIRES_AT, Message, pack, pack_again
from queuecast.control import CLOCK_SLACK, TaskEnded, encode_control
from queuecast.errors import BrokerUnavailable
from queuecast.event import submitted
from queuecast.task import MAX_DEPTH, MAX_TASK_BYTES, fingerprint, timestamp

from ..making import QUEUE, Run, cancelled, new_task, new_tasks
from ..steps import begin, consuming, finish, result_of, shown, story
from .fake_driver import Waiting


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(consumer, "AGAIN_SECONDS", 0.001)


def hand_out_again(server):
    """The server cannot tell any more what it has handed out: a classic queue that was restarted marks everything."""
    queue = server.queues[QUEUE]
    queue.waiting = [each._replace(again=True) for each in queue.waiting]


def put(server, message: Message, *, again: bool = False) -> None:
    server.queues[QUEUE]._add(Waiting(0.0, 0, message, again))


def foreign(body: bytes = b"{}", **more) -> Message:
    return Message(**{"body": body, "id": "foreign", "name": "render"} | more)


async def nothing_comes_before(broker, deliveries, last=None):
    last = last or new_task("last")
    await broker.submit([last])
    assert (await anext(deliveries)).task == last


def letters(server):
    return [json.loads(entry.body) for entry in server.logs[DEAD].entries]


class TestRunsBefore:
    async def test_a_backlog_that_is_handed_out_again_is_as_it_was(self, connect, server):
        broker = await connect()
        await broker.submit(tasks := new_tasks(20))
        hand_out_again(server)
        async with consuming(broker, concurrency=20) as deliveries:
            got = [await anext(deliveries) for _ in tasks]
        assert [delivery.task for delivery in got] == tasks
        assert {(delivery.attempt, delivery.suspect, delivery.losses) for delivery in got} == {(1, False, 0)}
        assert letters(server) == []

    async def test_losses_are_counted_and_left_to_the_worker(self, connect, server):
        broker = await connect()
        await broker.submit([task := new_task()])
        for _ in range(7):
            await broker.append(QUEUE, [Run(task).running(alone=True)])
        hand_out_again(server)
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            assert (delivery.suspect, delivery.losses) == (True, 7)
        assert letters(server) == []

    async def test_what_has_ended_is_dropped(self, connect, server):
        broker = await connect()
        await broker.submit([task := new_task()])
        run = Run(task)
        await broker.append(QUEUE, [run.running(), run.succeeded()])
        hand_out_again(server)
        async with consuming(broker) as deliveries:
            await nothing_comes_before(broker, deliveries)
        assert story(await shown(broker, of=task.id)) == ["queued", "running", "succeeded"]

    async def test_what_a_retry_has_come_after_is_dropped(self, connect, server):
        """A worker died between the copy and the settling."""
        broker = await connect()
        await broker.submit([task := new_task(retries=1)])
        first, second = Run(task), Run(task, attempt=2)
        await broker.append(QUEUE, [first.running(), first.retrying(0.0), second.running()])
        hand_out_again(server)
        async with consuming(broker) as deliveries:
            await nothing_comes_before(broker, deliveries)

    async def test_a_retrys_copy_runs_though_its_event_is_not_there(self, connect, server):
        broker = await connect()
        task = new_task(idempotency_key="july")
        await broker.append(QUEUE, [submitted(task), Run(task).running()])
        put(server, pack_again(task, 2))
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            assert (delivery.task.id, delivery.attempt) == (task.id, 2)

    async def test_what_cannot_be_looked_at_yet_is_looked_at_again(self, connect, server, monkeypatch):
        broker = await connect()
        await broker.submit([task := new_task()])
        asked, bounds = [], broker._driver.bounds

        async def fail_twice(log):
            asked.append(log)
            if len(asked) <= 2:
                raise BrokerUnavailable("not now")
            return await bounds(log)

        monkeypatch.setattr(broker._driver, "bounds", fail_twice)
        async with consuming(broker) as deliveries:
            assert (await anext(deliveries)).task == task
        assert len(asked) > 2


class TestEnds:
    async def test_a_task_that_ended_is_not_begun_though_its_worker_follows_no_log(self, connect, server):
        broker, elsewhere = await connect(), await connect()
        await broker.submit([task := new_task()])
        await elsewhere.append(QUEUE, [cancelled(task)])
        async with consuming(broker) as deliveries:
            await nothing_comes_before(broker, deliveries)
            assert broker._following == {}

    async def test_a_key_that_is_used_again_is_not_ended_by_the_past(self, connect, server):
        broker = await connect()
        task = new_task(idempotency_key="july")
        past = TaskEnded(QUEUE, task.id, task.submitted_at - 2 * CLOCK_SLACK)
        await broker.post(encode_control(past))
        await broker.submit([task])
        async with consuming(broker) as deliveries:
            assert (await anext(deliveries)).task == task

    async def test_a_task_with_a_key_that_has_ended_long_ago_is_another_one(self, connect, server):
        """Its gateway has forgotten the earlier one sooner than this worker."""
        broker = await connect()
        task = new_task(idempotency_key="july")
        earlier = Run(task)
        long_ago = timestamp(task.submitted_at - 2 * CLOCK_SLACK)
        await broker.append(
            QUEUE, [replace(event, time=long_ago) for event in (earlier.running(), earlier.succeeded())]
        )
        put(server, pack(task))
        async with consuming(broker) as deliveries:
            assert (await anext(deliveries)).task == task

    async def test_what_has_expired_unbegun_is_buried(self, connect, server):
        broker = await connect()
        task = replace(new_task(), expires_at=1.0)
        put(server, pack(task))
        async with consuming(broker) as deliveries:
            await nothing_comes_before(broker, deliveries)
        assert [(each["id"], each["reason"]) for each in letters(server)] == [(task.id, "expired")]
        assert (await result_of(broker, task.id)).error.type == "expired"

    async def test_a_later_attempt_does_not_expire(self, connect, server):
        broker = await connect()
        task = replace(new_task(), expires_at=1.0)
        put(server, pack_again(task, 2))
        async with consuming(broker) as deliveries:
            assert (await anext(deliveries)).attempt == 2


class TestKeys:
    """Two processes have put a task into the queue with one key, at the same moment."""

    async def test_the_later_one_is_dropped_while_the_other_runs(self, connect, server):
        broker, elsewhere = await connect(), await connect()
        await broker.submit([task := new_task(idempotency_key="july")])
        async with consuming(elsewhere) as others, consuming(broker, concurrency=1) as deliveries:
            held = await anext(deliveries)
            run = await begin(held)
            put(server, pack(replace(task, submitted_at=task.submitted_at + 0.001)))
            await nothing_comes_before(elsewhere, others)
            await finish(held, run)

    async def test_the_later_one_is_dropped_once_the_other_has_ended(self, connect, server):
        broker = await connect()
        await broker.submit([task := new_task(idempotency_key="july")])
        async with consuming(broker) as deliveries:
            await finish(await anext(deliveries))
            put(server, pack(task))
            await nothing_comes_before(broker, deliveries)

    async def test_where_both_begin_one_result_is_shown(self, connect, server):
        broker = await connect()
        await broker.submit([task := new_task(idempotency_key="july")])
        put(server, pack(task))
        async with consuming(broker) as deliveries:
            one, other = await anext(deliveries), await anext(deliveries)
            runs = [await begin(one), await begin(other)]
            await one.ack(runs[0].succeeded("one"))
            await other.ack(runs[1].succeeded("other"))
            await nothing_comes_before(broker, deliveries)
        told = await shown(broker, of=task.id)
        assert story(told) == ["queued", "running", "running", "succeeded"]
        assert told[-1].result == "one"

    async def test_a_released_one_is_no_later_one(self, connect, server):
        """It comes once more while the log still says that it runs."""
        broker, elsewhere = await connect(), await connect()
        await broker.submit([task := new_task(idempotency_key="july")])
        await broker.append(QUEUE, [Run(task).running()])
        server.queues[QUEUE].waiting.clear()
        put(server, pack_again(task, 1))
        async with consuming(elsewhere) as others:
            assert (await anext(others)).task == task


TOO_DEEP = b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1)
TOO_LARGE = b"1" * (MAX_TASK_BYTES + 1)


class TestPoison:
    @pytest.mark.parametrize(
        "body", [b"\xff", b"{", b"", TOO_DEEP, TOO_LARGE], ids=["no text", "cut off", "empty", "too deep", "too large"]
    )
    async def test_what_is_no_task_fails_at_once_and_is_kept(self, connect, server, body):
        broker = await connect()
        put(server, foreign(body))
        async with consuming(broker) as deliveries:
            await nothing_comes_before(broker, deliveries)
            assert server.queues[QUEUE].waiting == []
        [letter] = letters(server)
        assert (letter["queue"], letter["id"], letter["reason"]) == (QUEUE, "foreign", "undecodable")
        assert base64.b64decode(letter["body"]) == body[:64_000]
        result = await result_of(broker, "foreign")
        assert (result.state, result.error.type) == ("failed", "undecodable")
        assert await broker.load(QUEUE, "foreign") is None

    async def test_its_producer_is_told(self, connect, server):
        broker = await connect()
        put(server, foreign(b"{", reply_to="amq.gen-1", correlation_id="7"))
        async with consuming(broker) as deliveries:
            await nothing_comes_before(broker, deliveries)
        [answer] = server.replies["amq.gen-1"]
        assert (answer.correlation_id, answer.headers) == ("7", {"error": "undecodable"})
        assert json.loads(answer.body)["type"] == "undecodable"

    async def test_no_answer_goes_to_a_queue_of_our_own(self, connect, server):
        broker = await connect()
        put(server, foreign(reply_to="_qc.events.reports"))
        async with consuming(broker) as deliveries:
            await nothing_comes_before(broker, deliveries)
        assert [letter["reason"] for letter in letters(server)] == ["bad-reply-to"]
        assert not server.replies


class TestForeign:
    async def test_a_message_that_nothing_tells_from_others_is_given_an_id_once(self, connect, server):
        broker = await connect()
        put(server, foreign(b'{"report":7}', id=None))
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            [held] = broker._driver.intakes[0].held
            assert held.message.id == delivery.task.id
            await delivery.release()
            assert (await anext(deliveries)).task.id == delivery.task.id
        assert bytes(delivery.task.args) == b'{"report":7}'

    async def test_one_that_comes_twice_is_one_task(self, connect, server):
        broker = await connect()
        for _ in range(2):
            put(server, foreign(id=None, reply_to="amq.gen-1", correlation_id="7"))
        async with consuming(broker) as deliveries:
            first, second = await anext(deliveries), await anext(deliveries)
        assert first.task.id == second.task.id

    async def test_its_first_event_tells_its_work(self, connect, server):
        broker = await connect()
        put(server, foreign(b'{"report":7}'))
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await delivery.ack(run.succeeded("done"))
        first, *rest = await shown(broker, "foreign")
        assert first.task.fingerprint.partition(".")[0] == fingerprint(delivery.task)
        assert story([first, *rest]) == ["queued", "running", "succeeded"]

    async def test_one_that_comes_again_after_its_end_is_answered_and_not_run(self, connect, server):
        broker = await connect()
        put(server, foreign(b'{"report":7}'))
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await delivery.ack(run.succeeded("done"))
            put(server, foreign(b'{"report":7.0}', reply_to="amq.gen-1", correlation_id="7"))
            await nothing_comes_before(broker, deliveries)
        assert [answer.body for answer in server.replies["amq.gen-1"]] == [b'"done"']

    async def test_an_id_that_comes_again_with_other_work_is_a_dead_letter(self, connect, server):
        broker = await connect()
        put(server, foreign(b'{"report":7}'))
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            for _ in range(2):
                put(server, foreign(b'{"report":8}', reply_to="amq.gen-1", correlation_id="8"))
            await nothing_comes_before(broker, deliveries)
            await delivery.ack(run.succeeded("done"))
        first, second = letters(server)
        assert (first["reason"], first["id"] != "foreign", first["id"]) == ("id-conflict", True, second["id"])
        assert (await result_of(broker, first["id"])).error.type == "id-conflict"
        assert (await result_of(broker, "foreign")).state == "succeeded"
        assert [answer.headers for answer in server.replies["amq.gen-1"]] == [{"error": "id-conflict"}] * 2

    async def test_it_is_answered_with_the_result(self, connect, server):
        broker = await connect()
        put(server, foreign(reply_to="amq.gen-1", correlation_id="7"))
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await delivery.ack(run.succeeded({"pages": 3}))
        [answer] = server.replies["amq.gen-1"]
        assert (answer.body, answer.correlation_id, answer.headers) == (b'{"pages":3}', "7", {})

    async def test_it_is_answered_again_where_a_worker_died_in_between(self, connect, server):
        broker = await connect()
        message = foreign(reply_to="amq.gen-1", correlation_id="7")
        task = replace(new_task(), id="foreign")
        run = Run(task)
        await broker.append(QUEUE, [run.running(), run.succeeded("done")])
        put(server, message, again=True)
        async with consuming(broker) as deliveries:
            await nothing_comes_before(broker, deliveries)
        assert [answer.body for answer in server.replies["amq.gen-1"]] == [b'"done"']

    async def test_it_is_told_that_its_task_was_cancelled(self, connect, server):
        broker, elsewhere = await connect(), await connect()
        await elsewhere.append(QUEUE, [submitted(task := replace(new_task(), id="foreign")), cancelled(task)])
        put(server, foreign(reply_to="amq.gen-1", correlation_id="7"))
        async with consuming(broker) as deliveries:
            await nothing_comes_before(broker, deliveries)
        assert [answer.headers for answer in server.replies["amq.gen-1"]] == [{"error": "cancelled"}]

    async def test_it_is_told_that_its_task_has_expired(self, connect, server):
        broker = await connect()
        put(server, foreign(reply_to="amq.gen-1", correlation_id="7", headers={EXPIRES_AT: 1}))
        async with consuming(broker) as deliveries:
            await nothing_comes_before(broker, deliveries)
        assert [answer.headers for answer in server.replies["amq.gen-1"]] == [{"error": "expired"}]

    async def test_it_is_told_that_its_task_was_rejected(self, connect, server):
        broker = await connect()
        put(server, foreign(reply_to="amq.gen-1", correlation_id="7", headers={ATTEMPT: 3}))
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            await delivery.reject("ValueError", run.failed("ValueError", "no such report"))
        [answer] = server.replies["amq.gen-1"]
        assert (delivery.attempt, answer.headers) == (3, {"error": "ValueError"})
