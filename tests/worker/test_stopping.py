"""Runs that are asked to end: by a client, or because their worker stops."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from working import Gate, story, until, working

from queuecast import Context, TaskCancelled
from queuecast.control import CancelRequested, encode_control


def waiting_handler(queue, kind: str):
    """Runs until it is asked to end."""
    if kind == "async":

        @queue.task(name="wait")
        async def wait(ctx: Context) -> None:
            await asyncio.sleep(60)

    elif kind == "async generator":

        @queue.task(name="wait")
        async def wait(ctx: Context) -> AsyncIterator[int]:
            yield 1
            await asyncio.sleep(60)

    elif kind == "generator":

        @queue.task(name="wait")
        def wait(ctx: Context) -> Iterator[int]:
            while True:
                yield 1
                time.sleep(0.005)

    elif kind == "thread that reports":

        @queue.task(name="wait")
        def wait(ctx: Context) -> None:
            while True:
                ctx.progress(1)
                time.sleep(0.005)

    else:

        @queue.task(name="wait")
        def wait(ctx: Context) -> None:
            while not ctx.cancelled:
                time.sleep(0.005)
            raise TaskCancelled

    return wait


KINDS = ["async", "async generator", "generator", "thread that reports", "thread that asks"]


class TestCancelling:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_what_runs_is_stopped(self, app, queue, kind):
        handler = waiting_handler(queue, kind)
        async with working(app):
            ref = await handler.submit()
            await until(ref, "running")
            await ref.cancel()
            with pytest.raises(TaskCancelled):
                await ref.result()
            told = await story(ref)
        assert (told[:2], told[-1]) == (["queued", "running"], "cancelled")

    async def test_it_frees_its_place(self, app, queue):
        handler = waiting_handler(queue, "async")
        async with working(app, concurrency=1):
            refs = [await handler.submit() for _ in range(3)]
            for ref in refs:
                await until(ref, "running")
                await ref.cancel()
                assert (await story(ref))[-1] == "cancelled"

    async def test_a_handler_that_finishes_all_the_same_has_succeeded(self, app, queue):
        @queue.task
        async def stubborn() -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "saved"

        async with working(app):
            ref = await stubborn.submit()
            await until(ref, "running")
            await ref.cancel()
            assert await ref.result() == "saved"

    async def test_a_handler_may_clean_up_first(self, app, queue):
        cleaned = []

        @queue.task
        async def careful() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                cleaned.append(True)

        async with working(app):
            ref = await careful.submit()
            await until(ref, "running")
            await ref.cancel()
            assert (await story(ref))[-1] == "cancelled"
        assert cleaned == [True]

    async def test_a_handler_that_cancels_its_own_task_and_returns_has_succeeded(self, app, queue):
        """The request may arrive at any moment, also while the result is being settled."""

        @queue.task
        async def impatient(ctx: Context) -> str:
            await impatient.ref(ctx.id).cancel()
            return "done"

        async with working(app):
            for _ in range(20):
                ref = await impatient.submit()
                assert (await story(ref))[-1] in ("succeeded", "cancelled")

    async def test_a_handler_is_stopped_in_the_step_in_which_it_returns(self, app, queue):
        """Before Python 3.13 such a cancellation is raised at the next await, which is ours."""

        @queue.task
        async def prompt() -> str:
            (run,) = workers[0]._runs.values()
            run.stop("cancelled")
            return "done"

        workers = []
        async with working(app) as worker:
            workers.append(worker)
            ref = await prompt.submit()
            assert await ref.result() == "done"

    async def test_all_that_was_asked_is_known_before_a_worker_begins(self, app, queue):
        begun = []

        @queue.task
        async def work(x: int) -> None:
            begun.append(x)

        refs = [await work.submit(number) for number in range(20)]
        # Through the control log alone, as for a task that another worker is running.
        session = await app.session()
        for ref in refs[:19]:
            await session.broker.post(encode_control(CancelRequested("reports", ref.id, time.time())))
        async with working(app):
            await refs[19].result()
            for ref in refs[:19]:
                assert await story(ref) == ["queued", "cancelled"]
        assert begun == [19]

    async def test_a_task_of_the_same_id_on_another_queue_is_another_task(self, app, queue):
        @queue.task
        async def work() -> int:
            return 7

        ref = await work.submit()
        session = await app.session()
        await session.broker.post(encode_control(CancelRequested("others", ref.id, time.time())))
        async with working(app):
            assert await ref.result() == 7


class TestStopping:
    async def test_what_ends_within_the_grace_finishes(self, app, queue):
        gate = Gate()

        @queue.task
        async def work() -> int:
            await gate.pass_through()
            return 7

        async with working(app):
            ref = await work.submit()
            await gate.reached.wait()
            asyncio.get_running_loop().call_later(0.05, gate.opened.set)
        assert await story(ref) == ["queued", "running", "succeeded"]

    async def test_what_runs_is_not_handed_to_another_worker_meanwhile(self, app, queue):
        gate = Gate()
        ran = []

        @queue.task
        async def work() -> int:
            ran.append(1)
            await gate.pass_through()
            return 7

        async with working(app):
            async with working(app, concurrency=1):
                ref = await work.submit()
                await gate.reached.wait()
                asyncio.get_running_loop().call_later(0.1, gate.opened.set)
            assert await ref.result() == 7
        assert ran == [1]

    async def test_nothing_new_is_begun(self, app, queue):
        gate = Gate()
        ran = []

        @queue.task
        async def work(x: int) -> None:
            ran.append(x)
            await gate.pass_through()

        async with working(app, concurrency=2):
            await work.submit(1)
            await gate.reached.wait()

            async def later():
                await work.submit(2)
                await asyncio.sleep(0.05)
                gate.opened.set()

            submitting = asyncio.create_task(later())
        await submitting
        assert ran == [1]
        async with working(app):
            while ran != [1, 2]:
                await asyncio.sleep(0.005)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_the_rest_is_given_back_and_has_lost_no_try(self, app, queue, kind):
        handler = waiting_handler(queue, kind)
        async with working(app, grace=0.05):
            ref = await handler.submit()
            await until(ref, "running")
        event = await until(ref, "retrying")
        assert (event.attempt, event.task.error.type, event.task.delay) == (1, "interrupted", 0.0)
        session = await app.session()
        deliveries = session.broker.consume("reports", 1, lambda _: None)
        again = await anext(deliveries)
        assert (again.task.id, again.attempt, again.suspect, again.losses) == (ref.id, 1, False, 0)
        await deliveries.aclose()

    async def test_the_next_worker_runs_it(self, app, queue):
        gate = Gate()

        @queue.task
        async def work(ctx: Context) -> int:
            await gate.pass_through()
            return ctx.attempt

        async with working(app, grace=0.02):
            ref = await work.submit()
            await gate.reached.wait()
        gate.opened.set()
        async with working(app):
            assert await ref.result() == 1
        assert await story(ref) == ["queued", "running", "retrying", "running", "succeeded"]

    async def test_a_thread_that_ignores_it_is_left_behind_and_its_task_given_back(self, app, queue, short_graces):
        go_on = threading.Event()

        @queue.task
        def deaf() -> str:
            go_on.wait(20)
            return "heard by nobody"

        began = time.monotonic()
        async with working(app, grace=0.05):
            ref = await deaf.submit()
            await until(ref, "running")
        assert time.monotonic() - began < 5
        assert (await until(ref, "retrying")).task.error.type == "interrupted"
        go_on.set()

    async def test_an_async_handler_that_ignores_it_does_not_hold_up_the_worker(self, app, queue, short_graces):
        go_on = asyncio.Event()
        ended = asyncio.Event()

        @queue.task
        async def deaf() -> None:
            while not go_on.is_set():
                try:
                    await go_on.wait()
                except asyncio.CancelledError:
                    continue
            ended.set()

        async with asyncio.timeout(10):
            async with working(app, grace=0.05):
                await until(await deaf.submit(), "running")
        go_on.set()
        await ended.wait()

    async def test_a_worker_that_has_not_begun_anything_stops_at_once(self, app, queue):
        @queue.task
        async def work() -> None: ...

        async with asyncio.timeout(5):
            async with working(app, grace=60):
                pass

    @pytest.mark.bound(60)
    async def test_under_load_every_task_ends_once_however_often_workers_come_and_go(self, app, queue):
        @queue.task
        async def loop(x: int) -> int:
            await asyncio.sleep(0)
            return x

        @queue.task
        def thread(x: int) -> int:
            return x

        async def workers():
            while True:
                async with working(app, concurrency=5, grace=0.01):
                    await asyncio.sleep(0.01)

        coming_and_going = [asyncio.create_task(workers()) for _ in range(2)]
        refs = [await handler.submit(number) for number in range(100) for handler in (loop, thread)]
        for place, ref in enumerate(refs):
            assert await ref.result() == place // 2
        for task in coming_and_going:
            task.cancel()
        await asyncio.wait(coming_and_going)
        for ref in refs:
            assert (await story(ref)).count("succeeded") == 1
