"""Dead letters are found again, as they were submitted."""

import pytest
from msgspec.structs import replace

from queuecast.brokers.folded import dead
from queuecast.brokers.folded.dead import DeadLetters
from queuecast.brokers.folded.driver import DEAD
from queuecast.brokers.folded.wire import Message
from queuecast.errors import BrokerUnavailable
from queuecast.event import ErrorInfo

from ..making import QUEUE, new_task, new_tasks
from ..steps import OTHER
from .fake_driver import FakeServer

BUSY = ErrorInfo("ValueError", "busy")


@pytest.fixture(params=["log", None], ids=["named", "nameless"])
def server(request):
    return FakeServer(request.param)


@pytest.fixture
def letters(server):
    """Of a worker, and of a gateway."""
    return DeadLetters(server.driver()), DeadLetters(server.driver())


async def test_a_task_is_loaded_as_it_was_submitted(letters):
    worker, gateway = letters
    tasks = [new_task(args={"report": 7}, owner="ann", retries=3), *new_tasks(20)]
    for task in tasks:
        await worker.bury(task, BUSY)
        assert await gateway.load(QUEUE, task.id) == task
    assert await gateway.load(QUEUE, tasks[0].id) == tasks[0]


async def test_what_is_no_dead_letter_is_not_found(letters):
    worker, gateway = letters
    assert await gateway.load(QUEUE, new_task().id) is None
    await worker.bury(new_task(), BUSY)
    assert await gateway.load(QUEUE, new_task().id) is None


async def test_queues_are_told_apart(letters):
    worker, gateway = letters
    await worker.bury(task := new_task(), BUSY)
    assert await gateway.load(OTHER, task.id) is None
    await worker.bury(other := replace(task, queue=OTHER, name="send"), BUSY)
    assert await gateway.load(OTHER, task.id) == other
    assert await gateway.load(QUEUE, task.id) == task


async def test_a_message_that_is_no_task_cannot_be_loaded(letters):
    worker, gateway = letters
    await worker.bury_message(QUEUE, "a", Message(body=b"\xff"), ErrorInfo("undecodable"))
    assert await gateway.load(QUEUE, "a") is None


async def test_what_is_forged_among_them_disturbs_no_other(server, letters):
    worker, gateway = letters
    forged = [b"", b"\xff", b"[]", b'{"queue":1,"id":2}', b'{"queue":"%b","id":"forged"}' % QUEUE.encode()]
    server.logs[DEAD].write(*forged)
    await worker.bury(task := new_task(), BUSY)
    assert await gateway.load(QUEUE, "forged") is None
    assert await gateway.load(QUEUE, task.id) == task


async def test_the_last_burial_of_an_id_counts(letters):
    worker, gateway = letters
    await worker.bury(task := new_task(), BUSY)
    assert await gateway.load(QUEUE, task.id) == task
    await worker.bury(later := replace(task, retries=5), BUSY)
    assert await gateway.load(QUEUE, task.id) == later


async def test_what_the_server_has_trimmed_is_forgotten(server, letters):
    worker, gateway = letters
    await worker.bury(old := new_task(), BUSY)
    await worker.bury(new := new_task(), BUSY)
    assert await gateway.load(QUEUE, old.id) == old
    server.logs[DEAD].trim(server.logs[DEAD].entries[0].offset)
    assert await gateway.load(QUEUE, old.id) is None
    assert await gateway.load(QUEUE, new.id) == new


async def test_a_gateway_that_comes_later_begins_at_what_is_left(server, letters):
    worker, gateway = letters
    await worker.bury(new_task(), BUSY)
    await worker.bury(new := new_task(), BUSY)
    server.logs[DEAD].trim(server.logs[DEAD].entries[0].offset)
    assert await gateway.load(QUEUE, new.id) == new


async def test_another_log_of_the_name_is_read_from_its_beginning(server, letters):
    worker, gateway = letters
    for task in (tasks := new_tasks(30)):
        await worker.bury(task, BUSY)
    assert await gateway.load(QUEUE, tasks[0].id) == tasks[0]
    server.recreate(DEAD, server.identity and "another")
    for task in (others := new_tasks(2)):
        await worker.bury(task, BUSY)
    assert await gateway.load(QUEUE, tasks[0].id) is None
    assert await gateway.load(QUEUE, others[1].id) == others[1]


async def test_the_oldest_are_forgotten_where_there_are_too_many(letters, monkeypatch):
    monkeypatch.setattr(dead, "MAX_KNOWN", 3)
    worker, gateway = letters
    for task in (tasks := new_tasks(5)):
        await worker.bury(task, BUSY)
    assert [await gateway.load(QUEUE, task.id) for task in tasks] == [None, None, *tasks[2:]]


async def test_a_server_that_does_not_answer_is_unavailable(server, letters):
    worker, gateway = letters
    await worker.bury(task := new_task(), BUSY)
    server.down = True
    with pytest.raises(BrokerUnavailable):
        await gateway.load(QUEUE, task.id)
    server.down = False
    assert await gateway.load(QUEUE, task.id) == task
