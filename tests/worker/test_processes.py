"""Handlers in processes of their own, and tasks whose process dies."""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from working import story, until, working

from queuecast import Queuecast, TaskCancelled, TaskFailed
from queuecast.event import Progress
from queuecast.worker import children, run
from queuecast.worker.trail import Trail

from . import handlers

LOSSES = 2
"""Deaths alone after which a task is buried here; each takes a new process."""

pytestmark = pytest.mark.bound(60)


async def gone(pid: int) -> None:
    """Wait until a process has ended."""
    while _is_running(pid):
        await asyncio.sleep(0.01)


def _is_running(pid: int) -> bool:
    with suppress(FileNotFoundError):
        # The main thread of a process that was killed may be gone before the others are.
        ended = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
        return not ended or len(os.listdir(f"/proc/{pid}/task")) > 1
    return False


async def pid_of(ref) -> int:
    """The process that a handler has told of."""
    return int((await until(ref, "progress")).task.progress.note)


async def failure_of(ref) -> tuple[str, str]:
    with pytest.raises(TaskFailed) as raised:
        await ref.result()
    return raised.value.type, raised.value.message


class OnOneBackend:
    """Starting processes takes time, and what is between them and the worker is the same on every backend."""

    @pytest.fixture
    def url(self):
        return "memory://"


class TestRunning(OnOneBackend):
    async def test_a_process_whose_answer_cannot_be_read_is_killed(self, processes, monkeypatch):
        """It would wait for more work, and its task with it."""

        def unreadable(_frame):
            raise msgspec.DecodeError("cut off")

        monkeypatch.setattr(run, "MAX_LONE_LOSSES", LOSSES)
        monkeypatch.setattr(children, "decode_answer", unreadable)
        async with working(processes):
            assert (await failure_of(await handlers.where.submit()))[0] == "worker-lost"

    async def test_it_is_another_process_and_the_same_one_the_next_time(self, processes):
        async with working(processes):
            pids = [await (await handler.submit()).result() for handler in (handlers.where, handlers.async_where) * 2]
        assert len(set(pids)) == 1
        assert pids[0] != os.getpid()
        await gone(pids[0])

    async def test_outputs_and_progress_come_through_in_order(self, processes):
        async with working(processes):
            ref = await handlers.count.submit(3)
            assert [number async for number in ref.outputs()] == [0, 1, 2]
            told = await story(ref)
            assert [word for word in told if word != "progress"] == ["queued", "running", *["output"] * 3, "succeeded"]
            assert [number async for number in (await handlers.async_count.submit(300)).outputs()] == list(range(300))

    async def test_the_latest_progress_is_told_though_nothing_follows(self, processes, tmp_path):
        async with working(processes):
            ref = await handlers.say_twice_and_wait.submit(str(tmp_path / "go on"))
            async for event in ref.events():
                if event.type == "task" and event.task.progress == Progress(2, 3):
                    (tmp_path / "go on").touch()
            assert await ref.result() is None

    async def test_the_lifespan_is_entered_once_in_each_process(self, processes):
        async with working(processes):
            states = [await (await handlers.state.submit()).result() for _ in range(2)]
            assert states == [await (await handlers.where.submit()).result()] * 2

    @pytest.mark.parametrize(
        ("how", "expected"),
        [
            ("anything", ("ValueError", "anything")),
            ("exit", ("SystemExit", "3")),
            ("interrupt", ("KeyboardInterrupt", "")),
            ("stop", ("StopIteration", "")),
            ("close", ("GeneratorExit", "")),
            ("outside", ("OutsideError", "")),
            ("cancel", ("CancelledError", "")),
            ("unreadable", ("UnreadableError", "its message cannot be read")),
        ],
    )
    async def test_whatever_it_raises_fails_its_task_and_spares_its_process(self, processes, how, expected):
        async with working(processes):
            before = await (await handlers.where.submit()).result()
            assert await failure_of(await handlers.fail.submit(how)) == expected
            assert await (await handlers.where.submit()).result() == before

    @pytest.mark.parametrize(
        ("how", "type"), [("close", "GeneratorExit"), ("outside", "OutsideError"), ("interrupt", "KeyboardInterrupt")]
    )
    async def test_what_is_no_exception_fails_the_task_of_every_kind_of_handler(self, processes, how, type):
        async with working(processes):
            before = await (await handlers.where.submit()).result()
            for handler in (handlers.async_fail, handlers.fail_after_one, handlers.async_fail_after_one):
                assert await failure_of(await handler.submit(how)) == (type, "")
            assert await (await handlers.where.submit()).result() == before

    @pytest.mark.parametrize(("what", "type"), [("nothing JSON", "result-not-json"), ("too much", "result-too-large")])
    async def test_a_result_that_no_event_can_carry_fails_its_task(self, processes, what, type):
        async with working(processes):
            assert (await failure_of(await handlers.give.submit(what)))[0] == type

    async def test_what_it_prints_is_seen(self, processes, capfd):
        async with working(processes):
            await (await handlers.give.submit("printed")).result()
        assert "printed by a handler" in capfd.readouterr().out

    async def test_its_environment_is_the_workers(self, processes, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", "somewhere")
        async with working(processes):
            environment = await (await handlers.environment.submit()).result()
        assert (environment["PYTHONPATH"], environment["stdin"]) == ("somewhere", "")
        assert environment["first"] == sys.path[0]

    async def test_a_handler_there_submits_to_the_workers_broker(self, tmp_path, cleanup):
        handlers.app.use(f"sqlite:///{tmp_path}/other.db?sync=normal")
        cleanup.push_async_callback(handlers.app.close)
        async with working(handlers.app):
            id = await (await handlers.delegate.submit()).result()
            assert await handlers.light.ref(id).result() == os.getpid()

    async def test_two_run_at_once_in_two(self, processes):
        async with working(processes):
            refs = [await handlers.wait.submit() for _ in range(2)]
            assert len({await pid_of(ref) for ref in refs}) == 2
            for ref in refs:
                await ref.cancel()
                assert (await story(ref))[-1] == "cancelled"

    async def test_an_idle_one_that_has_died_is_not_used_again(self, processes):
        async with working(processes):
            first = await (await handlers.where.submit()).result()
            os.kill(first, signal.SIGKILL)
            await gone(first)
            ref = await handlers.where.submit()
            assert await ref.result() != first
            assert (await story(ref)).count("running") == 1


class TestStopping(OnOneBackend):
    @pytest.mark.parametrize("handler", [handlers.wait, handlers.async_wait])
    async def test_it_is_asked_to_end(self, processes, handler):
        async with working(processes):
            ref = await handler.submit()
            pid = await pid_of(ref)
            began = time.monotonic()
            await ref.cancel()
            with pytest.raises(TaskCancelled):
                await ref.result()
            assert time.monotonic() - began < 3
            await gone(pid)

    async def test_it_is_killed_when_it_ignores_that(self, processes, short_graces):
        async with working(processes):
            ref = await handlers.wait.submit(ignoring=True)
            pid = await pid_of(ref)
            await ref.cancel()
            with pytest.raises(TaskCancelled):
                await ref.result()
            await gone(pid)

    async def test_what_it_had_started_is_killed_with_it(self, processes, short_graces):
        async with working(processes):
            ref = await handlers.wait_for_program.submit()
            pid = await pid_of(ref)
            await ref.cancel()
            with pytest.raises(TaskCancelled):
                await ref.result()
            await gone(pid)

    async def test_it_is_asked_to_end_in_the_middle_of_what_it_says(self, processes):
        async with working(processes):
            for _ in range(3):
                ref = await handlers.pour.submit()
                await until(ref, "output")
                began = time.monotonic()
                await ref.cancel()
                assert (await story(ref))[-1] == "cancelled"
                assert time.monotonic() - began < 4

    async def test_its_timeout_ends_it(self, processes):
        async with working(processes):
            ref = await handlers.wait.options(timeout=0.5).submit()
            assert (await failure_of(ref))[0] == "timeout"

    async def test_a_worker_that_stops_gives_its_task_back(self, processes):
        async with working(processes, grace=0.05):
            ref = await handlers.wait.submit()
            pid = await pid_of(ref)
        await gone(pid)
        assert (await until(ref, "retrying")).task.error.type == "interrupted"


class TestDying:
    @pytest.fixture(autouse=True)
    def buried_soon(self, monkeypatch):
        monkeypatch.setattr(run, "MAX_LONE_LOSSES", LOSSES)

    @pytest.mark.parametrize(("how", "words"), [("exit", "exit code 9"), ("signal", "signal SIGSEGV")])
    async def test_a_task_that_kills_its_process_is_buried_and_its_neighbour_untouched(
        self, processes, tmp_path, how, words
    ):
        deaths = tmp_path / "deaths"
        async with working(processes):
            neighbour = await handlers.wait.submit()
            pid = await pid_of(neighbour)
            ref = await handlers.die.options(retries=3).submit(how, str(deaths))
            type, message = await failure_of(ref)
            assert _is_running(pid)
            await neighbour.cancel()
            assert (await story(neighbour)).count("running") == 1
        assert type == "worker-lost"
        assert words in message
        # The first time nobody knows that it was alone in its process.
        assert len(deaths.read_text().splitlines()) == LOSSES + 1
        events = [event async for event in ref.events() if event.type == "task" and event.task.state == "running"]
        assert [event.task.alone for event in events] == [False] + [True] * LOSSES
        assert {event.attempt for event in events} == {1}

    async def test_its_end_is_noticed_though_what_it_started_lives_on(self, processes, tmp_path):
        async with working(processes):
            ref = await handlers.die_with_a_child_left.submit(str(tmp_path / "once"))
            assert await ref.result() is None
            assert (await story(ref)).count("running") == 2

    async def test_a_suspect_runs_alone_in_a_process_of_its_own(self, processes, tmp_path):
        (tmp_path / "harmless").touch()
        ref = await handlers.suspicious.submit(str(tmp_path / "harmless"))
        await lose_a_run(processes, alone=False)
        async with working(processes):
            assert await ref.result() != os.getpid()
        running = [e.task.alone async for e in ref.events() if e.type == "task" and e.task.state == "running"]
        assert running == [False, True]

    async def test_a_suspect_that_kills_its_process_is_buried(self, processes, tmp_path):
        ref = await handlers.suspicious.submit(str(tmp_path / "nowhere"))
        await lose_a_run(processes, alone=False)
        async with working(processes):
            assert (await failure_of(ref))[0] == "worker-lost"
        assert (await story(ref)).count("running") == 1 + LOSSES

    async def test_losses_under_other_workers_count_too(self, processes, tmp_path):
        ref = await handlers.suspicious.submit(str(tmp_path / "nowhere"))
        for _ in range(LOSSES - 1):
            await lose_a_run(processes, alone=True)
        async with working(processes):
            assert (await failure_of(ref))[0] == "worker-lost"
        assert (await story(ref)).count("running") == LOSSES

    async def test_a_suspect_that_no_other_process_can_find_runs_here(self, url, cleanup):
        app = Queuecast(url)
        cleanup.push_async_callback(app.close)

        @app.queue("processes").task
        async def local() -> int:
            return os.getpid()

        ref = await local.submit()
        await lose_a_run(app, alone=False)
        async with working(app):
            assert await ref.result() == os.getpid()


async def lose_a_run(app: Queuecast, *, alone: bool) -> None:
    """A worker begins the next task and is never heard of again."""
    session = await app.session()
    deliveries = session.broker.consume("processes", 1, lambda _: None)
    delivery = await anext(deliveries)
    await delivery.append(Trail(delivery, time.time).task("running", alone=alone))
    await deliveries.aclose()
