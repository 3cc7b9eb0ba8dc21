"""What any process that follows a queue does for all: it ends what no worker ends, and takes in foreign answers."""

import asyncio
import json
import logging

import pytest

from queuecast.brokers.base import External
from queuecast.brokers.folded import following
from queuecast.brokers.folded.wire import Message
from queuecast.errors import BrokerUnavailable
from queuecast.event import MAX_EVENT_BYTES, ErrorInfo

from ..making import QUEUE, new_task, new_tasks, seconds_from_now
from ..steps import FAR, SOON, result_of, results_of, shown, story, turns
from .fake_driver import FakeHanded

REPLIES = f"_qc.replies.{QUEUE}"


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(following, "AGAIN_SECONDS", 0.001)


@pytest.fixture
def gateway(open_broker):
    """A process that follows the queue, whose workers are foreign."""

    async def gateway(reply_within=FAR):
        broker = await open_broker()
        await broker.declare(QUEUE, External(QUEUE, reply_within))
        await broker.counts()
        return broker

    return gateway


def taken(server) -> Message:
    """What a foreign worker is handed."""
    return server.queues[QUEUE].take().message


def answer(server, id, body=b'{"pages":3}', **headers):
    server.queues[REPLIES].put(Message(body=body, correlation_id=id, headers=headers))


class TestDeputies:
    async def test_two_that_end_a_task_at_the_same_moment_end_it_once(self, connect):
        one, other = await connect(), await connect()
        await asyncio.gather(one.counts(), other.counts())
        tasks = [new_task(expires_at=seconds_from_now(SOON)) for _ in range(5)]
        await one.submit(tasks)
        await results_of(other, [task.id for task in tasks])
        for task in tasks:
            assert story(await shown(one, of=task.id)) == ["queued", "failed"]

    async def test_a_task_that_nobody_answers_has_failed(self, gateway):
        broker = await gateway(reply_within=SOON)
        await broker.submit([task := new_task()])
        result = await result_of(broker, task.id)
        assert (result.state, result.error.type) == ("failed", "no-reply")

    async def test_a_delay_is_no_silence(self, gateway):
        broker = await gateway(reply_within=SOON)
        await broker.submit([later := new_task(delay=FAR), now := new_task()])
        await result_of(broker, now.id)
        assert (await broker.status(QUEUE, later.id)).state == "scheduled"

    async def test_an_answer_that_comes_too_late_changes_nothing(self, gateway, server):
        broker = await gateway(reply_within=SOON)
        await broker.submit([task := new_task()])
        await result_of(broker, task.id)
        answer(server, task.id)
        await broker.submit([another := new_task()])
        answer(server, another.id)
        await result_of(broker, another.id)
        assert story(await shown(broker, of=task.id)) == ["queued", "failed"]

    async def test_what_came_due_while_nobody_was_there_is_ended_by_who_comes(self, gateway):
        broker = await gateway(reply_within=SOON)
        await broker.submit([task := new_task()])
        await broker.close()
        assert (await result_of(await gateway(reply_within=SOON), task.id)).error.type == "no-reply"

    async def test_what_the_server_does_not_take_is_tried_again(self, gateway, monkeypatch):
        broker = await gateway(reply_within=SOON)
        await broker.submit([task := new_task()])
        append, refused = broker._driver.append, []

        def refuse_once(log, bodies):
            if refused:
                return append(log, bodies)
            refused.append(log)
            future = asyncio.get_running_loop().create_future()
            future.set_exception(BrokerUnavailable("not now"))
            return future

        monkeypatch.setattr(broker._driver, "append", refuse_once)
        assert (await result_of(broker, task.id)).error.type == "no-reply"
        assert refused == [QUEUE]


class TestReplies:
    async def test_one_that_cannot_be_written_yet_is_kept(self, gateway, server, monkeypatch):
        """What is given back too often is dropped by some servers."""
        broker = await gateway()
        await broker.submit([task := new_task()])
        append, given_back = broker._driver.append, []
        refused = iter(range(30))

        def refuse(log, bodies):
            if next(refused, None) is None:
                return append(log, bodies)
            future = asyncio.get_running_loop().create_future()
            future.set_exception(BrokerUnavailable("not now"))
            return future

        monkeypatch.setattr(broker._driver, "append", refuse)
        monkeypatch.setattr(FakeHanded, "give_back", given_back.append)
        answer(server, task.id, b'"done"')
        assert (await result_of(broker, task.id)).result == "done"
        assert given_back == []

    async def test_a_foreign_worker_is_asked_to_answer_by_the_tasks_id(self, gateway, server):
        broker = await gateway()
        await broker.submit([task := new_task(args={"report": 7}, correlation_id="the submitter's")])
        message = taken(server)
        assert (message.body, message.reply_to, message.correlation_id) == (b'{"report":7}', REPLIES, task.id)

    @pytest.mark.parametrize(
        ("body", "headers", "told"),
        [
            (b'{"pages":3}', {}, {"pages": 3}),
            (b"done", {}, "done"),
            (b"no such report", {"error": "ValueError"}, ErrorInfo("ValueError", "no such report")),
        ],
        ids=["JSON", "text", "error"],
    )
    async def test_an_answer_is_the_result(self, gateway, server, body, headers, told):
        broker = await gateway()
        await broker.submit([task := new_task(owner="ann")])
        answer(server, task.id, body, **headers)
        result = await result_of(broker, task.id)
        assert (result.owner, result.run) == ("ann", None)
        assert told == (result.result if result.state == "succeeded" else result.error)

    async def test_one_that_is_too_large_fails_its_task(self, gateway, server):
        broker = await gateway()
        await broker.submit([task := new_task()])
        answer(server, task.id, json.dumps("x" * MAX_EVENT_BYTES).encode())
        assert (await result_of(broker, task.id)).error.type == "result-too-large"

    async def test_the_first_answer_counts_through_whichever_gateway(self, gateway, server):
        one, other = await gateway(), await gateway()
        await one.submit(tasks := new_tasks(10))
        for task in tasks:
            for number in range(3):
                answer(server, task.id, b"%d" % number)
        await results_of(other, [task.id for task in tasks])
        for task in tasks:
            assert (
                story(await shown(one, of=task.id)) == story(await shown(other, of=task.id)) == ["queued", "succeeded"]
            )

    async def test_one_that_is_quicker_than_the_tasks_first_event_waits_for_it(self, gateway, server):
        broker = await gateway()
        task = new_task()
        answer(server, task.id)
        await turns()
        await broker.submit([task])
        assert (await result_of(broker, task.id)).result == {"pages": 3}

    async def test_one_that_belongs_to_no_task_is_dropped_with_a_warning(self, gateway, server, monkeypatch, caplog):
        monkeypatch.setattr(following, "KNOWN_SECONDS", 0.0)
        broker = await gateway()
        with caplog.at_level(logging.WARNING):
            answer(server, "nobody")
            answer(server, None)
            await broker.submit([task := new_task()])
            answer(server, task.id)
            await result_of(broker, task.id)
        assert server.queues[REPLIES].waiting == []
        assert sum("belongs to no task" in record.message for record in caplog.records) == 2

    async def test_one_that_is_not_in_the_log_yet_is_taken_again(self, gateway, server, monkeypatch):
        broker = await gateway()
        await broker.submit([task := new_task()])
        append, refused = broker._driver.append, []

        def refuse_once(log, bodies):
            if refused:
                return append(log, bodies)
            refused.append(log)
            future = asyncio.get_running_loop().create_future()
            future.set_exception(BrokerUnavailable("not now"))
            return future

        monkeypatch.setattr(broker._driver, "append", refuse_once)
        answer(server, task.id)
        assert (await result_of(broker, task.id)).state == "succeeded"
        assert refused == [QUEUE]

    async def test_answers_are_taken_again_after_a_lost_connection(self, gateway, server):
        broker = await gateway()
        await broker.submit([task := new_task()])
        server.cut()
        answer(server, task.id)
        assert (await result_of(broker, task.id)).state == "succeeded"
