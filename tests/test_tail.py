"""The tail: every listener is told of every entry once, and of every place where that cannot be."""

import asyncio
from collections.abc import Callable

import pytest
from brokers.making import QUEUE, new_task, new_tasks

from queuecast import tail as tail_module
from queuecast.brokers import Retention
from queuecast.brokers.base import Bounds, Entry, end_of, verify
from queuecast.brokers.memory import MemoryBroker
from queuecast.codec import decode_event
from queuecast.cursor import Cursor
from queuecast.errors import BrokerUnavailable
from queuecast.tail import Tail
from queuecast.task import Task


class Recorder:
    """A listener that can be waited for."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.restarts: list[tuple[str, Cursor]] = []
        self._news = asyncio.Event()

    def entries(self, entries: list[Entry]) -> None:
        self.ids += [decode_event(entry.body).id for entry in entries]
        self._news.set()

    def restarted(self, reason: str, at: Cursor) -> None:
        self.restarts.append((reason, at))
        self._news.set()

    async def until(self, fact: Callable[[], object]) -> None:
        while not fact():
            self._news.clear()
            await self._news.wait()

    async def has_heard_of(self, task: Task) -> None:
        await self.until(lambda: task.id in self.ids)


class Flaky(MemoryBroker):
    """Cannot tell the bounds as often as it is said to."""

    failures = 0

    async def bounds(self, queue: str) -> Bounds:
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailable("away for a moment")
        return await super().bounds(queue)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(tail_module, "RETRY_SECONDS", 0.001)


@pytest.fixture
def open_broker(cleanup):
    async def open_broker(**settings) -> Flaky:
        broker = Flaky(**settings)
        await broker.open()
        cleanup.push_async_callback(broker.close)
        return broker

    return open_broker


@pytest.fixture
def follow(cleanup):
    async def follow(broker: MemoryBroker, backlog: int = 0) -> tuple[Tail, Recorder]:
        tail, recorder = Tail(broker, QUEUE, backlog), Recorder()
        tail.listen(recorder)
        await tail.start()
        cleanup.push_async_callback(tail.stop)
        return tail, recorder

    return follow


@pytest.fixture
def failing(caplog):
    """Wait until a tail has noticed that its broker fails."""

    async def failing() -> None:
        while "cannot be read" not in caplog.text:
            await asyncio.sleep(0)

    return failing


def ids(tasks: list[Task]) -> list[str]:
    return [task.id for task in tasks]


async def test_a_listener_is_told_of_each_entry_once_and_in_order(open_broker, follow):
    broker = await open_broker()
    _, recorder = await follow(broker)
    tasks = new_tasks(200)
    for place in range(0, len(tasks), 9):
        await broker.submit(tasks[place : place + 9])
        await asyncio.sleep(0)
    await recorder.has_heard_of(tasks[-1])
    assert recorder.ids == ids(tasks)


async def test_a_tail_begins_at_the_end_of_its_log(open_broker, follow):
    broker = await open_broker()
    await broker.submit(new_tasks(3))
    tail, recorder = await follow(broker)
    assert tail.at == await end_of(broker, QUEUE)
    await broker.submit([task := new_task()])
    await recorder.has_heard_of(task)
    assert recorder.ids == [task.id]


@pytest.mark.parametrize(("backlog", "told"), [(0, 0), (1, 1), (3, 3), (5, 5), (6, 5), (1_000, 5)])
async def test_a_tail_with_a_backlog_begins_that_far_before(open_broker, follow, backlog, told):
    broker = await open_broker()
    await broker.submit(tasks := [*new_tasks(5)])
    _, recorder = await follow(broker, backlog)
    await broker.submit([task := new_task()])
    await recorder.has_heard_of(task)
    assert recorder.ids == ids([*tasks[5 - told :], task])


@pytest.mark.parametrize("backlog", [0, 1, 3, 10])
@pytest.mark.parametrize("events", [0, 5])
async def test_where_a_tail_stands_a_client_can_resume(open_broker, follow, backlog, events):
    broker = await open_broker()
    await broker.submit(new_tasks(events))
    tail, recorder = await follow(broker, backlog)
    assert await verify(broker, QUEUE, tail.at) == tail.at.offset
    await broker.submit([task := new_task()])
    await recorder.has_heard_of(task)
    assert tail.at == await end_of(broker, QUEUE)


async def test_every_listener_is_told(open_broker, follow):
    broker = await open_broker()
    tail, first = await follow(broker)
    second = Recorder()
    tail.listen(second)
    await broker.submit(tasks := new_tasks(3))
    for recorder in (first, second):
        await recorder.has_heard_of(tasks[-1])
        assert recorder.ids == ids(tasks)


async def test_a_listener_that_has_left_is_told_no_more(open_broker, follow):
    broker = await open_broker()
    tail, staying = await follow(broker)
    leaving = Recorder()
    leave = tail.listen(leaving)
    await broker.submit([first := new_task()])
    await leaving.has_heard_of(first)
    leave()
    await broker.submit([second := new_task()])
    await staying.has_heard_of(second)
    assert leaving.ids == [first.id]


async def test_a_listener_learns_that_it_missed_what_was_trimmed(open_broker, follow):
    broker = await open_broker(retention=Retention(size=1_000))
    tail, recorder = await follow(broker)
    await broker.submit(new_tasks(50))  # more than is kept, before anybody reads
    await recorder.until(lambda: recorder.restarts)
    assert recorder.restarts == [("trimmed", await end_of(broker, QUEUE))]
    assert tail.at == recorder.restarts[0][1]
    await broker.submit([task := new_task()])
    await recorder.has_heard_of(task)
    assert recorder.ids == [task.id]


async def test_a_tail_goes_on_after_its_broker_failed_and_skips_nothing(open_broker, follow, failing):
    broker = await open_broker()
    _, recorder = await follow(broker)
    await broker.submit(before := new_tasks(3))
    await recorder.has_heard_of(before[-1])
    await broker.close()
    await failing()
    await broker.open()
    await broker.submit(after := new_tasks(3))
    await recorder.has_heard_of(after[-1])
    assert recorder.ids == ids([*before, *after])
    assert recorder.restarts == []


async def test_a_tail_notices_that_another_log_came_back(open_broker, follow, failing):
    broker = await open_broker()
    _, recorder = await follow(broker)
    await broker.submit(before := new_tasks(3))
    await recorder.has_heard_of(before[-1])
    await broker.close()
    await failing()
    broker._queues.clear()  # as if somebody had deleted the file
    await broker.open()
    await broker.submit(new_tasks(7))
    await recorder.until(lambda: recorder.restarts)
    assert recorder.restarts == [("other-log", await end_of(broker, QUEUE))]
    await broker.submit([task := new_task()])
    await recorder.has_heard_of(task)
    assert recorder.ids == ids([*before, task])


async def test_a_tail_outlives_a_failure_while_it_looks_for_a_new_place(open_broker, follow):
    broker = await open_broker(retention=Retention(size=1_000))
    _, recorder = await follow(broker)
    await broker.submit(new_tasks(50))
    broker.failures = 3
    await recorder.until(lambda: recorder.restarts)
    assert [reason for reason, _ in recorder.restarts] == ["trimmed"]
    await broker.submit([task := new_task()])
    await recorder.has_heard_of(task)


async def test_a_tail_does_not_start_without_its_broker(open_broker):
    broker = await open_broker()
    await broker.close()
    with pytest.raises(BrokerUnavailable):
        await Tail(broker, QUEUE).start()


async def test_a_tail_that_never_started_can_be_stopped(open_broker):
    await Tail(await open_broker(), QUEUE).stop()


async def test_nothing_is_left_of_a_tail_that_was_stopped(open_broker, follow):
    broker = await open_broker()
    tail, recorder = await follow(broker)
    await tail.stop()
    await broker.submit([new_task()])
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert recorder.ids == []


async def test_a_listener_that_fails_hears_that_it_missed_something_and_the_others_hear_all(open_broker, follow):
    class Defective(Recorder):
        def entries(self, entries: list[Entry]) -> None:
            raise RuntimeError("a defect")

    broker = await open_broker()
    tail, sound = await follow(broker)
    defective = Defective()
    tail.listen(defective)
    await broker.submit([task := new_task()])
    await sound.has_heard_of(task)
    assert [reason for reason, _ in defective.restarts] == ["diverged"]


async def test_a_tail_outlives_a_defect_of_its_broker(open_broker, follow, monkeypatch):
    broker = await open_broker()
    read, defects = broker.read, [TypeError("a defect")]

    def defective(queue: str, after: int):
        if defects:
            raise defects.pop()
        return read(queue, after)

    monkeypatch.setattr(broker, "read", defective)
    _, sound = await follow(broker)
    await broker.submit([task := new_task()])
    await sound.has_heard_of(task)
    assert not defects
