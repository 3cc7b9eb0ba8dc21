"""What a careless or hostile program may put into a queue: a result says why, and the worker's slot is free again."""

import gzip
import pickle
from contextlib import aclosing, asynccontextmanager

import pika
import pytest

from queuecast import Queuecast, TaskFailed
from queuecast.task import MAX_TASK_BYTES
from queuecast.worker import Worker

from .steps import plain

pytestmark = pytest.mark.bound(60)


class House:
    """An application with a worker that runs one task at a time."""

    def __init__(self, url, name, folder):
        self.url = url
        self.qc = Queuecast(f"{url}?state={folder}")
        self.queue = self.qc.queue(name)
        self.calls = []

        @self.queue.task
        async def double(number: int) -> int:
            self.calls.append(number)
            return 2 * number

        self.double = double

    @asynccontextmanager
    async def open(self):
        async with self.qc.running():
            session = await self.qc.session()
            await session.declare(self.queue.name)
            async with Worker(self.qc, session, concurrency=1).running():
                yield self

    def send(self, body, *, type="double", **properties):
        with plain(self.url) as channel:
            channel.confirm_delivery()
            channel.basic_publish(
                "", self.queue.name, body, pika.BasicProperties(type=type, **properties), mandatory=True
            )

    async def result(self, id):
        """Once its end is in the log; raises `TaskFailed`."""
        async with aclosing(self.queue.events(after="first")) as events:
            await anext(event async for event in events if event.type == "result" and event.id == id)
        return await self.queue.ref_to(self.double, id).result()

    async def results(self, count):
        """The first so many that are shown."""
        results = []
        async with aclosing(self.queue.events(after="first")) as events:
            while len(results) < count:
                event = await anext(events)
                if event.type == "result":
                    results.append(event)
        return results

    async def why(self, id):
        """Of what type its error is."""
        with pytest.raises(TaskFailed) as failure:
            await self.result(id)
        return failure.value.type

    async def still_works(self):
        before = len(self.calls)
        assert await (await self.double.submit(21)).result() == 42
        assert self.calls[before:] == [21]


@pytest.fixture
def house(url, name, tmp_path):
    return House(url, name, tmp_path / "state")


BODIES = {
    "empty": b"",
    "no JSON": b"number=1",
    "too large": b'"' + b"x" * MAX_TASK_BYTES + b'"',
    "compressed": gzip.compress(b'{"number":1}'),
    "a pickle": pickle.dumps({"number": 1}),
    "no text": b'{"number":"\xff"}',
    "not a number": b'{"number":NaN}',
}


async def test_a_body_that_is_no_json_is_a_dead_letter(house):
    async with house.open():
        for id, body in BODIES.items():
            house.send(body, message_id=id)
        house.send(b'{"number":1}', message_id="said to be one", content_type="application/x-python-serialize")
        for id in BODIES:
            assert await house.why(id) == "undecodable", id
        assert await house.result("said to be one") == 2
        await house.still_works()
    assert house.calls == [1, 21]


async def test_what_no_handler_takes_fails_and_says_why(house):
    async with house.open():
        house.send(b"{}", type="os.system", message_id="unknown")
        house.send(b"{}", type=None, message_id="nameless")
        house.send(b'{"number":"one"}', message_id="wrong type")
        house.send(b"[1]", message_id="no object")
        house.send(b'{"number":1,"more":2}', message_id="too much")
        assert await house.why("unknown") == await house.why("nameless") == "unknown-task-name"
        for id in ("wrong type", "no object", "too much"):
            assert await house.why(id) == "invalid-arguments", id
        await house.still_works()


async def test_an_id_stands_for_one_task(house):
    async with house.open():
        for _ in range(3):
            house.send(b'{"number":1}', message_id="a1")
        assert await house.result("a1") == 2
        house.send(b'{"number":5}', message_id="a1")
        house.send(b'{"number":1}', message_id="a1")
        await house.still_works()
        results = await house.results(3)
    assert 5 not in house.calls
    assert [(result.id, result.state) for result in results if result.id == "a1"] == [("a1", "succeeded")]
    assert [result.error.type for result in results if result.error] == ["id-conflict"]


async def test_headers_that_are_forged_or_none_of_ours_change_nothing(house):
    forged = {
        "qc-attempt": "NaN",
        "qc-retries": -1,
        "qc-timeout": "nan",
        "qc-not-before": "soon",
        "qc-lease": "no such lease",
        "x-death": [{"count": 99, "queue": house.queue.name}],
        "x-delivery-count": 10**9,
        "nested": {"a": {"b": [1, {"c": None}]}},
        "large": "x" * 100_000,
        "traceparent": "\n",
    }
    async with house.open():
        house.send(b'{"number":1}', message_id="forged", headers=forged, user_id="guest", expiration="60000")
        house.send(b'{"number":2}', message_id="more", headers={"qc-attempt": 10**9})
        assert (await house.result("forged"), await house.result("more")) == (2, 4)
        await house.still_works()


async def test_no_answer_goes_to_a_queue_of_our_own(house):
    async with house.open():
        for to in ("_qc.control", f"_qc.events.{house.queue.name}"):
            house.send(b'{"number":1}', message_id=to, reply_to=to, correlation_id="1")
            assert await house.why(to) == "bad-reply-to"
        await house.still_works()
    assert house.calls == [21]


async def test_what_is_forged_in_the_event_log_is_not_shown(house):
    log = f"_qc.events.{house.queue.name}"
    async with house.open():
        await house.still_works()
        with plain(house.url) as channel:
            for body in (b"", b"\xff", b"{}", b"[1]\n[2]", gzip.compress(b"{}"), b'{"type":"result","id":"x"}'):
                channel.basic_publish("", log, body)
        await house.still_works()
        first, second = await house.results(2)
    assert (first.result, second.result) == (42, 42)
