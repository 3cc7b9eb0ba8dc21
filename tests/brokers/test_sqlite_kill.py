"""Real processes on one file, killed, stopped and starved at the worst moments."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from queuecast.brokers.sqlite import SQLiteBroker, duties
from queuecast.errors import StorageFull
from queuecast.event import ResultEvent

from .making import QUEUE, new_task, new_tasks
from .processes import Child
from .sqlite_child import LEASE
from .steps import accepted, begin, consuming, finish, log_of, meanwhile, results_of, story, work

pytestmark = pytest.mark.bound(60)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "work.db"


@pytest.fixture
def connect(path, cleanup, monkeypatch):
    monkeypatch.setattr(duties, "LEASE_SECONDS", LEASE)

    async def connect() -> SQLiteBroker:
        broker = SQLiteBroker(f"sqlite:///{path}", path=str(path))
        await broker.open()
        cleanup.push_async_callback(broker.close)
        await broker.declare(QUEUE)
        return broker

    return connect


@pytest.fixture
def start(path, cleanup):
    async def start(*verb: object) -> Child:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", f"{__package__}.sqlite_child", f"sqlite:///{path}"),
            *map(str, verb),
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        child = Child(process)
        cleanup.push_async_callback(child.reap)
        return child

    return start


async def one_result_each(broker: SQLiteBroker, ids: set[str]) -> None:
    """Every task ended once, and nothing is in the log that the fold would refuse."""
    log = await log_of(broker)
    assert accepted(log) == log
    assert Counter(event.id for event in log if isinstance(event, ResultEvent)) == dict.fromkeys(ids, 1)


async def whole_lines(child: Child) -> list[str]:
    """The ids in its further lines; the last may have been cut by the kill."""
    return [line[1] for line in await child.all_told() if len(line) == 2 and len(line[1]) == len(new_task().id)]


async def test_what_a_storm_of_submits_was_promised_survives_the_kill_of_all(connect, start):
    children = [await start("storm") for _ in range(3)]
    promised = {(await child.told())[1] for child in children for _ in range(30)}
    for child in children:
        child.signal(signal.SIGKILL)
    for child in children:
        promised.update(await whole_lines(child))
    logged = [event.id for event in await log_of(await connect())]
    assert promised <= set(logged)
    assert len(logged) == len(set(logged))


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_worker_killed_at_any_commit_costs_no_task_and_doubles_no_result(connect, start, moment):
    broker = await connect()
    submitted: set[str] = set()
    for number in range(2, 8):
        tasks = new_tasks(4)
        await broker.submit(tasks)
        submitted.update(task.id for task in tasks)
        child = await start("die", moment, number)
        assert await child.ended() == -signal.SIGKILL
        async with meanwhile(work(broker, [])):
            await results_of(broker, submitted)
    await one_result_each(broker, submitted)


async def test_four_processes_that_submit_and_work_give_each_task_one_result(connect, start):
    broker = await connect()
    children = [await start("both", 50) for _ in range(4)]
    submitted: set[str] = set()

    async def listen(child: Child) -> None:
        while line := await child.told():
            if line[0] == "submitted":
                submitted.add(line[1])
                if len(submitted) == 200:
                    complete.set()

    complete = asyncio.Event()
    async with meanwhile(*map(listen, children)):
        await complete.wait()
        await results_of(broker, submitted)
    await one_result_each(broker, submitted)


async def test_four_processes_lose_nothing_when_two_of_them_are_killed(connect, start):
    broker = await connect()
    children = [await start("both", 50) for _ in range(4)]
    promised: set[str] = set()
    for child in children:
        promised.update(line[1] for line in [await child.told() for _ in range(20)] if line[0] == "submitted")
    for child in children[:2]:
        await child.kill()
    for child in children[:2]:
        told = await child.all_told()
        promised.update(line[1] for line in told if len(line) == 2 and line[0] == "submitted" and len(line[1]) == 36)
    await results_of(broker, promised)
    log = await log_of(broker)
    assert accepted(log) == log
    assert max(Counter(event.id for event in log if isinstance(event, ResultEvent)).values()) == 1


async def test_two_writers_share_the_file_fairly(start):
    counted: Counter[int] = Counter()
    enough = asyncio.Event()

    async def count(number: int, child: Child) -> None:
        while await child.told():
            counted[number] += 1
            if counted.total() == 3_000:
                enough.set()

    children = [await start("storm") for _ in range(2)]
    for child in children:
        assert await child.told()
    async with meanwhile(*(count(number, child) for number, child in enumerate(children))):
        await enough.wait()
        assert min(counted[0], counted[1]) > 600


async def test_a_result_that_comes_after_the_lease_doubles_nothing(connect, start):
    child = await start("outlast")
    broker = await connect()
    await broker.submit([task := new_task()])
    assert await child.told() == ["holds", task.id]
    child.signal(signal.SIGSTOP)
    async with consuming(broker) as deliveries:
        again = await anext(deliveries)
        assert again.suspect
        run = await begin(again)
        child.signal(signal.SIGCONT)
        assert await child.told() == ["acked", task.id]
        await finish(again, run)
    log = await log_of(broker)
    assert accepted(log) == log
    assert story(log) == ["queued", "running", "running", "succeeded"]
    assert log[-1].result == "too late", "the first result ends the task, whoever wrote it"


async def test_who_dies_before_anything_of_its_run_is_durable_leaves_a_suspect(connect, start):
    """A handler can kill its process within the time that a commit takes."""
    child = await start("untouched")
    broker = await connect()
    await broker.submit([task := new_task()])
    assert await child.told() == ["holds", task.id]
    await child.kill()
    async with consuming(broker) as deliveries:
        again = await anext(deliveries)
        assert (again.attempt, again.suspect, again.losses) == (1, True, 0)
        await finish(again)


async def test_a_stopped_process_that_nobody_replaced_goes_on(connect, start, path):
    """Its lease lapses and its task is offered to everyone; as no one takes it, it holds it again."""
    child = await start("outlast")
    broker = await connect()
    await broker.submit([task := new_task()])
    assert await child.told() == ["holds", task.id]
    child.signal(signal.SIGSTOP)
    while await broker.oldest_due(QUEUE) is None:
        await asyncio.sleep(0)
    child.signal(signal.SIGCONT)
    while await broker.oldest_due(QUEUE) is not None:
        await asyncio.sleep(0)
    async with (
        aclosing(broker.consume(QUEUE, 1, lambda _: None)) as deliveries,
        meanwhile(anext(deliveries)) as [next_],
    ):
        await broker.submit([another := new_task()])
        assert (await next_).task == another


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("a small disk can be mounted by root on Linux only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class TestFullDisk:
    @pytest.fixture
    def path(self, small_disk) -> Path:
        return small_disk / "work.db"

    @pytest.fixture
    def fill(self, small_disk):
        """Leave no room; the returned function makes some again."""

        def fill():
            ballast = small_disk / "ballast"
            with suppress(OSError), open(ballast, "wb", buffering=0) as file:
                while file.write(b"x" * 4_096):
                    pass
            return ballast.unlink

        return fill

    async def fill_up(self, broker: SQLiteBroker) -> None:
        for _ in range(1_000):
            try:
                await broker.submit([new_task(args={"text": "x" * 20_000})])
            except StorageFull:
                return
        pytest.fail("the disk does not get full")

    async def test_submits_are_refused_and_reads_go_on(self, connect, fill):
        broker = await connect()
        await broker.submit(tasks := new_tasks(3))
        make_room = fill()
        await self.fill_up(broker)
        known = await log_of(broker)
        assert [event.id for event in known[:3]] == [task.id for task in tasks]
        make_room()
        await broker.submit([task := new_task()])
        assert [event.id for event in await log_of(broker)] == [*(event.id for event in known), task.id]

    async def test_a_workers_result_waits_for_room(self, connect, fill):
        broker = await connect()
        await broker.submit([task := new_task()])
        async with consuming(broker, concurrency=1) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            make_room = fill()
            await self.fill_up(broker)
            acked = asyncio.ensure_future(delivery.ack(run.succeeded("x" * 300_000)))
            await self.fill_up(broker)
            assert not acked.done()
            make_room()
            await acked
        assert (await results_of(broker, [task.id]))[task.id].result == "x" * 300_000
