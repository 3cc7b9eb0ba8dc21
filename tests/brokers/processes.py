"""The promises that take several processes to keep, or to break."""

import asyncio
import os
import signal
import sys
from collections import Counter
from contextlib import AsyncExitStack, aclosing, suppress
from functools import partial
from pathlib import Path

import pytest

from queuecast.codec import decode_event

from .making import QUEUE, new_task, new_tasks
from .steps import Suite, begin, consuming, finish, log_of, meanwhile, results_of, shown, story, work


class Child:
    """Another process on the same store (see child.py), which tells line by line what it did."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def told(self) -> list[str]:
        """Its next line, as words; [] once it is gone."""
        return (await self._process.stdout.readline()).decode().split()

    async def all_told(self) -> list[list[str]]:
        """Every further line, up to its end."""
        return [line.split() for line in (await self._process.stdout.read()).decode().splitlines()]

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        return await self._process.wait()

    async def kill(self) -> None:
        """As the out-of-memory killer does it."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def reap(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.communicate()


async def start_child(cleanup: AsyncExitStack, maker: str, url: str, *verb: object) -> Child:
    """With one of the verbs of child.py, on a broker that `maker` makes of the URL; killed at the test's end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", f"{__package__}.child", maker, url, *map(str, verb)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    child = Child(process)
    cleanup.push_async_callback(child.reap)
    return child


class Processes(Suite):
    @pytest.fixture
    def start(self, backend, cleanup):
        if backend.url_for_processes is None:
            pytest.skip("this backend lives in one process")
        return partial(start_child, cleanup, backend.maker, backend.url_for_processes)

    @pytest.mark.bound(60)
    async def test_many_processes_submit_and_work_and_each_task_runs_once(self, connect, start, backend):
        broker = await connect()
        workers = [await start("work"), await start("work")]
        submitters = [await start("submit", 50) for _ in range(3)]
        submitted = {id for child in submitters for [_, id] in await child.all_told()}
        assert [await child.ended() for child in submitters] == [0, 0, 0]
        assert len(submitted) == 150

        ran: list[str] = []

        async def listen(worker: Child) -> None:
            while line := await worker.told():
                ran.extend(line[1:])

        async with meanwhile(*map(listen, workers)):
            await results_of(broker, submitted)
        assert len(ran) == len(set(ran))
        assert set(ran) <= submitted, "the last few may not have been told yet"
        events = [event for event in await log_of(broker) if backend.atomic or event.run]
        words = ("queued", "running", "succeeded") if backend.atomic else ("running", "succeeded")
        assert Counter((event.id, *story([event])) for event in events) == {
            (id, word): 1 for id in submitted for word in words
        }

    @pytest.mark.bound(60)
    async def test_a_task_wakes_a_consumer_in_another_process(self, connect, start, backend):
        broker = await connect()
        worker = await start("work")
        assert await worker.told() == ["ready"]
        for task in new_tasks(5):
            await broker.submit([task])
            assert await worker.told() == ["ran", task.id]
            told = story(await shown(broker, of=task.id))
            assert told[-2:] == ["running", "succeeded"]
            assert told[:-2] == ["queued"] or not backend.atomic

    @pytest.mark.bound(60)
    async def test_an_event_wakes_a_reader_in_another_process(self, connect, start):
        broker = await connect()
        end = (await broker.bounds(QUEUE)).last
        async with aclosing(broker.read(QUEUE, end)) as batches, meanwhile(anext(batches)) as [waiting]:
            [[_, id]] = await (await start("submit", 1)).all_told()
            [entry] = await waiting
        assert decode_event(entry.body).id == id

    @pytest.mark.bound(60)
    async def test_what_was_acknowledged_survives_the_death_of_its_process(self, connect, start):
        child = await start("submit", 1_000_000)
        acknowledged = [(await child.told())[1] for _ in range(20)]
        child.signal(signal.SIGKILL)
        whole_lines = [line for line in await child.all_told() if len(line) == 2]
        acknowledged += [id for _, id in whole_lines if len(id) == len(acknowledged[0])]

        broker = await connect()
        logged = [event.id for event in await log_of(broker)]
        assert logged[: len(acknowledged)] == acknowledged
        assert len(logged) == len(set(logged))
        async with consuming(broker, concurrency=len(logged)) as deliveries:
            assert [(await anext(deliveries)).task.id for _ in logged] == logged

    @pytest.mark.bound(60)
    @pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
    async def test_what_a_dead_process_held_is_handed_to_another(self, connect, start, backend, begun):
        child = await start("hold", "begun" if begun else "untouched")
        broker = await connect()
        await broker.submit([task := new_task()])
        assert await child.told() == ["holds", task.id]
        await child.kill()
        async with asyncio.timeout(backend.lost_within), consuming(broker) as deliveries:
            again = await anext(deliveries)
            assert (again.task, again.attempt) == (task, 1)
            # Where nothing of a run is durable, only some backends know that somebody died holding the task.
            assert again.suspect or not begun
            await finish(again)
        runs = ["running", "running"] if begun else ["running"]
        assert story(await shown(broker)) == ["queued", *runs, "succeeded"]

    @pytest.mark.bound(60)
    async def test_a_store_opens_after_all_its_processes_were_killed(self, connect, start, backend):
        holder = await start("hold", "begun")
        submitted = {id for [_, id] in await (await start("submit", 20)).all_told()}
        [_, held] = await holder.told()
        await holder.kill()

        broker = await connect()
        ran: list[str] = []
        async with asyncio.timeout(backend.lost_within), meanwhile(work(broker, ran)):
            await results_of(broker, submitted)
        assert held in submitted
        assert sorted(ran) == sorted(submitted)

    @pytest.mark.bound(90)
    async def test_a_process_that_stood_still_learns_what_it_lost(self, connect, start, backend):
        child = await start("hold", "begun")
        broker = await connect()
        await broker.submit([task := new_task()])
        assert await child.told() == ["holds", task.id]
        child.signal(signal.SIGSTOP)
        async with consuming(broker) as deliveries:
            async with asyncio.timeout(backend.lost_within):
                again = await anext(deliveries)
            assert again.suspect
            run = await begin(again)
            child.signal(signal.SIGCONT)
            assert await child.told() == ["lost", task.id]
            await finish(again, run)
        assert story(await shown(broker)) == ["queued", "running", "running", "succeeded"]
