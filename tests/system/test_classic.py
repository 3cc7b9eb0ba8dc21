"""Plain programs on both sides: pika workers behind an external queue, and a pika producer before one of ours."""

import asyncio
import json
import random
from contextlib import asynccontextmanager, suppress

import pytest
from servers.ports import free_port

from .checker import by_task, flaws_of_stream, flaws_of_task
from .classic import Plain
from .client import PAUSE_SECONDS, Gateways, Reader, request, whole_log

ORDER = json.dumps({"prices": [19.5, 3.5]}).encode()

KILLS = 5
"""Of a gateway, while answers come."""

IN_FLIGHT = 10
"""Tasks that are submitted and not yet answered, while gateways are killed."""

LONG = 600
"""Seconds of work whose worker does not live to see its end."""


@asynccontextmanager
async def reading(queue, *ports, gateways=None):
    """Somebody who follows the queue from its first event on."""
    if gateways is None:
        gateways = Gateways()
        for port in ports:
            gateways.up(port)
    reader = Reader(gateways, queue)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(reader.follow())
        yield reader
        following.cancel()


async def submit(port, text="one two three", seconds=0, **options):
    """To the plain workers: the task's id."""
    body = {"name": "process_task", "args": {"text": text, "seconds": seconds}} | options
    answer = await request(port, "POST", "/queues/task_queue/tasks", body)
    assert answer.status == 202, answer
    return answer.body["id"]


async def result_of(reader, id):
    """The event; one, and not a second one."""
    await reader.until(lambda: id in reader.results)
    assert reader.results[id] == 1
    return next(event for event in reader.events if event["id"] == id and event["type"] == "result")


def runs_of(reader, id):
    return {event["run"] for event in reader.events if event["id"] == id and "run" in event}


async def ready(*processes):
    """Not in the loop's thread, where others go on."""
    for process in processes:
        await asyncio.to_thread(process.ready)


# Plain workers


@pytest.mark.parametrize(("worker", "answer"), [("worker", {"words": 3}), ("worker_acks", "3 words")])
async def test_the_answer_of_a_plain_worker_is_the_result(classic, worker, answer):
    port = free_port()
    await ready(classic.server(port))
    classic.plain(worker)
    async with reading("task_queue", port) as reader:
        id = await submit(port)
        result = await result_of(reader, id)
        assert (result["state"], result["result"]) == ("succeeded", answer)
    status = await request(port, "GET", f"/queues/task_queue/tasks/{id}")
    assert (status.body["state"], status.body["result"]) == ("succeeded", answer)


async def test_whoever_waits_for_the_answer_gets_it_in_the_response(classic):
    port = free_port()
    await ready(classic.server(port))
    classic.plain("worker")
    body = {"name": "process_task", "args": {"text": "one two", "seconds": 0}}
    answer = await request(port, "POST", "/queues/task_queue/tasks", body, prefer="wait=15")
    assert (answer.status, answer.body["result"]) == (200, {"words": 2})


async def test_a_plain_worker_says_that_a_task_has_failed(classic):
    port = free_port()
    await ready(classic.server(port))
    classic.plain("worker_acks")
    async with reading("task_queue", port) as reader:
        result = await result_of(reader, await submit(port, text=3))
    assert result["state"] == "failed"
    assert result["error"] == {"type": "AttributeError", "message": "'int' object has no attribute 'split'"}


@pytest.mark.parametrize("first", ["worker", "server"])
async def test_either_side_declares_the_queue(classic, first):
    port = free_port()
    if first == "worker":
        classic.plain("worker").out.wait_for("waiting for tasks")
        await ready(classic.server(port))
    else:
        await ready(classic.server(port))
        classic.plain("worker").out.wait_for("waiting for tasks")
    async with reading("task_queue", port) as reader:
        assert (await result_of(reader, await submit(port)))["result"] == {"words": 3}


async def test_what_is_submitted_before_there_is_a_worker_waits_for_one(classic):
    port = free_port()
    await ready(classic.server(port))
    id = await submit(port)
    classic.plain("worker_acks")
    async with reading("task_queue", port) as reader:
        assert (await result_of(reader, id))["result"] == "3 words"


async def test_two_gateways_tell_the_same(classic):
    ports = free_port(), free_port()
    await ready(*[classic.server(port) for port in ports])
    classic.plain("worker")
    classic.plain("worker_acks")
    async with reading("task_queue", ports[0]) as one, reading("task_queue", ports[1]) as other:
        ids = [await submit(ports[number % 2], seconds=0.01) for number in range(10)]
        for reader in (one, other):
            for id in ids:
                await result_of(reader, id)
        assert one.events == other.events
        assert one.ids == other.ids


class Steady:
    """Submits one task after the other to whichever gateway is up, each again until it is accepted."""

    def __init__(self, gateways, reader):
        self.accepted = {}
        self._gateways = gateways
        self._reader = reader
        self._stopping = False

    async def submit(self):
        while not self._stopping:
            await self._reader.until(lambda: len(self.accepted) - len(self._reader.results) < IN_FLIGHT)
            await self._submit_one(len(self.accepted))

    def stop(self):
        self._stopping = True

    async def _submit_one(self, number):
        body = {"name": "process_task", "args": {"text": "word " * number, "seconds": 0}}
        while True:
            port = await self._gateways.any()
            with suppress(ConnectionError):
                key = f'"{number}"'
                answer = await request(port, "POST", "/queues/task_queue/tasks", body, idempotency_key=key)
                if answer.status == 202:
                    self.accepted[answer.body["id"]] = number
                    return
            await asyncio.sleep(PAUSE_SECONDS)


@pytest.mark.bound(90)
async def test_gateways_are_killed_while_answers_come_and_each_task_ends_once(classic):
    """At a random moment after an answer was shown, while others are between their arrival and the log."""
    servers = {port: classic.server(port) for port in (free_port(), free_port())}
    await ready(*servers.values())
    classic.plain("worker")
    gateways = Gateways()
    for port in servers:
        gateways.up(port)
    async with reading("task_queue", gateways=gateways) as reader, asyncio.TaskGroup() as group:
        steady = Steady(gateways, reader)
        submitting = group.create_task(steady.submit())
        for turn in range(KILLS):
            port = list(servers)[turn % 2]
            seen = len(reader.results) + random.randint(1, IN_FLIGHT)
            await reader.until(lambda seen=seen: len(reader.results) >= seen)
            gateways.down(port)
            servers[port].kill()
            servers[port] = classic.server(port)
            await ready(servers[port])
            gateways.up(port)
        steady.stop()
        await submitting
        await reader.until(lambda: reader.results.keys() >= steady.accepted.keys())
    assert reader.resets == []
    log = (await whole_log(port, "task_queue")).events
    assert flaws_of_stream(reader.events, log) == []
    told = by_task(log)
    assert {id: flaws_of_task(events) for id, events in told.items()} == {id: [] for id in steady.accepted}
    results = {id: events[-1]["result"] for id, events in told.items()}
    assert results == {id: {"words": number} for id, number in steady.accepted.items()}


async def test_a_worker_that_acks_by_itself_and_dies_has_failed_to_reply(classic):
    port = free_port()
    await ready(classic.gateway(port, application="system.foreign:qc"))
    worker = classic.plain("worker")
    async with reading("task_queue", port) as reader:
        id = await submit(port, seconds=LONG)
        worker.out.wait_for("received")
        worker.kill()
        result = await result_of(reader, id)
        assert (result["state"], result["error"]["type"]) == ("failed", "no-reply")
        classic.plain("worker")
        assert (await result_of(reader, await submit(port)))["state"] == "succeeded"


async def test_what_only_foreign_workers_were_given_is_not_requeued_and_it_says_why(classic):
    port = free_port()
    await ready(classic.gateway(port, application="system.foreign:qc"))
    async with reading("task_queue", port) as reader:
        id = await submit(port)
        unanswered = await request(port, "POST", f"/queues/task_queue/tasks/{id}/requeue")
        assert (unanswered.status, unanswered.body["type"]) == (409, "urn:queuecast:problem:not-dead")
        assert (await result_of(reader, id))["error"]["type"] == "no-reply"
    dead = await request(port, "POST", f"/queues/task_queue/tasks/{id}/requeue")
    assert (dead.status, dead.body["type"]) == (409, "urn:queuecast:problem:not-kept")
    assert "external" in dead.body["detail"]


async def test_a_worker_that_acks_when_done_and_dies_leaves_its_task_to_another(classic):
    port = free_port()
    await ready(classic.server(port))
    worker = classic.plain("worker_acks")
    async with reading("task_queue", port) as reader:
        id = await submit(port, seconds=3)
        worker.out.wait_for("received")
        worker.kill()
        other = classic.plain("worker_acks")
        assert (await result_of(reader, id))["result"] == "3 words"
        other.out.wait_for("received")


async def test_a_plain_reader_has_all_events(classic):
    port = free_port()
    await ready(classic.server(port))
    classic.plain("worker")
    ids = [await submit(port) for _ in range(5)]
    read = classic.plain("reader", "task_queue")
    for id in ids:
        read.out.wait_for(f"result {id}")
    log = (await whole_log(port, "task_queue")).events
    lines = [line.split(" ", 3) for line in read.out.all]
    assert [json.loads(event) for *_, event in lines] == log
    offsets = [int(offset) for offset, *_ in lines]
    assert offsets == sorted(set(offsets))


# A plain producer


async def test_a_plain_producer_is_answered_and_the_queue_hears_it(classic):
    port = free_port()
    await ready(classic.shop(port))
    producer = classic.plain("producer", "19.5", "3.5")
    producer.out.wait_for("answer: 23.0")
    async with reading("orders", port) as reader:
        await reader.until(lambda: reader.results)
        [id] = reader.results
        assert (await result_of(reader, id))["result"] == 23.0
    assert await asyncio.to_thread(producer.wait) == 0
    status = await request(port, "GET", f"/queues/orders/tasks/{id}")
    assert (status.body["name"], status.body["state"]) == ("total", "succeeded")


async def test_it_is_answered_once_although_the_worker_is_killed_in_the_middle(classic):
    port = free_port()
    await ready(classic.gateway(port, application="system.foreign:qc"))
    worker = classic.worker(application="system.foreign:qc")
    with Plain(classic.broker) as plain:
        async with reading("orders", port) as reader:
            plain.publish("orders", ORDER, type="total", reply_to=plain.replies, correlation_id="first")
            await reader.until(lambda: reader.events and runs_of(reader, reader.events[0]["id"]))
            worker.kill()
            id = reader.events[0]["id"]
            classic.worker(application="system.foreign:qc")
            await reader.until(lambda: len(runs_of(reader, id)) == 2)
            classic.gate.touch()
            assert (await result_of(reader, id))["result"] == 23.0
            # Whatever else was sent for the first is there before the second's answer.
            plain.publish("orders", ORDER, type="total", reply_to=plain.replies, correlation_id="second")
            for name in ("first", "second"):
                properties, body = await asyncio.to_thread(plain.answer)
                assert (properties.correlation_id, json.loads(body)) == (name, 23.0)


async def test_a_message_with_neither_id_nor_reply_to_is_one_task(classic):
    """It is put back with an id; a user id, which only its own user may publish, would close our channel."""
    classic.gate.touch()
    port = free_port()
    await ready(classic.gateway(port, application="system.foreign:qc"))
    worker = classic.worker(application="system.foreign:qc")
    with Plain(classic.broker) as plain:
        async with reading("orders", port) as reader:
            plain.publish("orders", ORDER, type="total", user_id=plain.user)
            await reader.until(lambda: reader.results)
            [id] = reader.results
            assert (await result_of(reader, id))["result"] == 23.0
        assert worker.stop() == 0
        assert plain.waiting("orders") == 0
    told = by_task((await whole_log(port, "orders")).events)
    assert list(told) == [id]


BAD = {
    "undecodable": {"body": b"no JSON", "type": "total"},
    "unknown-task-name": {"body": ORDER, "type": "totall"},
    "invalid-arguments": {"body": b'{"prices": "many"}', "type": "total"},
    "bad-reply-to": {"body": ORDER, "type": "total", "reply_to": "_qc.control"},
}

ANSWERED = ("unknown-task-name", "invalid-arguments")
"""Those that are tasks, though none that can be run."""


@pytest.mark.parametrize("reason", BAD)
async def test_what_cannot_be_run_goes_to_the_dead_letters_with_its_reason(classic, reason):
    classic.gate.touch()
    port = free_port()
    await ready(classic.gateway(port, application="system.foreign:qc"))
    worker = classic.worker(application="system.foreign:qc")
    id = f"{reason}-{random.getrandbits(64):x}"
    with Plain(classic.broker) as plain:
        async with reading("orders", port) as reader:
            asked = {"reply_to": plain.replies, "correlation_id": "bad"} | BAD[reason]
            plain.publish("orders", **asked, message_id=id)
            result = await result_of(reader, id)
            assert (result["state"], result["error"]["type"]) == ("failed", reason)
            if reason in ANSWERED:
                properties, _ = await asyncio.to_thread(plain.answer)
                assert properties.headers["error"] == reason
            assert reason in await asyncio.to_thread(plain.dead_letter, id)
            # The next one is not held up.
            plain.publish("orders", ORDER, type="total", message_id=f"after-{id}")
            assert (await result_of(reader, f"after-{id}"))["result"] == 23.0
        assert worker.stop() == 0
        assert plain.waiting("orders") == 0
