"""Handlers that fail, in every way: their task ends with a reason, or is tried again."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from msgspec import Raw
from working import Gate, story, until, url_of, working

from queuecast import Context, Queuecast, TaskFailed, retry
from queuecast.task import Options, make_task
from queuecast.worker.outcome import MAX_MESSAGE_CHARS


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class OutsideError(BaseException):
    """Like the ones that test frameworks raise."""


FAILURES = [
    (ValueError("no such report"), "ValueError", "no such report"),
    (SystemExit(3), "SystemExit", "3"),
    (KeyboardInterrupt(), "KeyboardInterrupt", ""),
    (GeneratorExit("of nobody"), "GeneratorExit", "of nobody"),
    (asyncio.CancelledError("by itself"), "CancelledError", "by itself"),
    (OutsideError("far away"), "OutsideError", "far away"),
    (UnreadableError(), "UnreadableError", "its message cannot be read"),
    (ValueError("x" * 1_000_000), "ValueError", "x" * MAX_MESSAGE_CHARS),
    (OSError("\udcff.csv"), "OSError", "?.csv"),
    (TimeoutError("of its own"), "TimeoutError", "of its own"),
]


async def failure_of(ref) -> tuple[str, str]:
    with pytest.raises(TaskFailed) as raised:
        await ref.result()
    return raised.value.type, raised.value.message


class TestExceptions:
    @pytest.mark.parametrize(("error", "type", "message"), FAILURES, ids=[type for _, type, _ in FAILURES])
    async def test_whatever_a_handler_raises_fails_its_task_and_nothing_else(self, app, queue, error, type, message):
        @queue.task
        async def loop() -> None:
            raise error

        @queue.task
        async def loop_generator() -> AsyncIterator[int]:
            yield 1
            raise error

        @queue.task
        def thread() -> None:
            raise error

        @queue.task
        def thread_generator() -> Iterator[int]:
            yield 1
            raise error

        async with working(app):
            for handler in (loop, thread, loop_generator, thread_generator):
                ref = await handler.submit()
                assert await failure_of(ref) == (type, message)
                outputs = ["output"] if handler.signature.generates else []
                assert await story(ref) == ["queued", "running", *outputs, "failed"]

    async def test_arguments_that_are_refused_in_many_words_end_their_task(self, app, queue):
        @queue.task
        async def render(report: int) -> None:
            raise AssertionError("never begun")

        body = Raw(msgspec.json.encode({"x" * 300_000: 1}))
        task = make_task("reports", "render", body, Options(), now=time.time(), horizon=60)
        async with working(app):
            await (await app.session()).broker.submit([task])
            kind, message = await failure_of(queue.ref_to(render, task.id))
            assert (kind, len(message) <= MAX_MESSAGE_CHARS) == ("invalid-arguments", True)

    async def test_an_exhausted_iterator_in_a_thread_fails_it(self, app, queue):
        @queue.task
        def first_of_none() -> None:
            next(iter([]))

        async with working(app):
            assert (await failure_of(await first_of_none.submit()))[0] == "RuntimeError"

    async def test_a_cancelled_subtask_is_the_handlers_own_failure(self, app, queue):
        @queue.task
        async def wait_for_cancelled() -> None:
            subtask = asyncio.create_task(asyncio.sleep(60))
            asyncio.get_running_loop().call_soon(subtask.cancel)
            await subtask

        async with working(app):
            assert (await failure_of(await wait_for_cancelled.submit()))[0] == "CancelledError"

    async def test_a_handler_that_cancels_itself_has_failed(self, app, queue):
        @queue.task
        async def cancel_itself() -> None:
            running = asyncio.current_task()
            assert running is not None
            running.cancel()
            await asyncio.sleep(60)

        async with working(app):
            ref = await cancel_itself.submit()
            assert await failure_of(ref) == ("CancelledError", "")
            assert await story(ref) == ["queued", "running", "failed"]

    def test_a_loop_that_ends_under_a_worker_fails_no_task(self, tmp_path):
        app = Queuecast(url_of("sqlite", tmp_path))
        gate = Gate()

        @app.queue("reports").task
        async def hold() -> None:
            await gate.pass_through()

        async def work() -> None:
            async with working(app):
                await asyncio.Event().wait()

        async def leave() -> str:
            working = asyncio.create_task(work())
            ref = await hold.submit()
            await gate.reached.wait()
            assert not working.done()
            return ref.id

        async def look(id: str) -> str:
            async with app.running():
                status = await (await app.session()).broker.status("reports", id)
                assert status is not None
                return status.state

        id = asyncio.run(leave())
        assert asyncio.run(look(id)) not in {"failed", "cancelled"}

    async def test_a_task_group_that_fails_fails_its_task(self, app, queue):
        @queue.task
        async def together() -> None:
            async def fail():
                raise ValueError("in the group")

            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                group.create_task(asyncio.sleep(60))

        async with working(app):
            assert (await failure_of(await together.submit()))[0] == "ExceptionGroup"


class TestUnsendable:
    @pytest.mark.parametrize(
        ("value", "what"), [(object(), "not-json"), ("x" * 600_000, "too-large"), ("\u2028" * 150_000, "too-large")]
    )
    async def test_what_no_event_can_carry_fails_the_task_for_good(self, app, queue, value, what):
        @queue.task(retries=5)
        async def give():
            return value

        @queue.task(retries=5)
        def give_from_thread():
            return value

        @queue.task(retries=5)
        async def put_out() -> AsyncIterator[object]:
            yield "first"
            yield value

        @queue.task(retries=5)
        def put_out_from_thread() -> Iterator[object]:
            yield "first"
            yield value

        async with working(app):
            for handler in (give, give_from_thread, put_out, put_out_from_thread):
                ref = await handler.submit()
                kind, outputs = ("output", ["output"]) if handler.signature.generates else ("result", [])
                assert (await failure_of(ref))[0] == f"{kind}-{what}"
                assert await story(ref) == ["queued", "running", *outputs, "failed"]

    async def test_a_generator_is_closed_before_its_failure_is_told(self, app, queue):
        closed = []

        @queue.task
        async def put_out() -> AsyncIterator[object]:
            try:
                yield object()
            finally:
                await asyncio.sleep(0)
                closed.append("loop")

        @queue.task
        def put_out_from_thread() -> Iterator[object]:
            try:
                yield object()
            finally:
                closed.append("thread")

        async with working(app):
            for handler, where in ((put_out, "loop"), (put_out_from_thread, "thread")):
                await failure_of(await handler.submit())
                assert closed.pop() == where


class TestRetries:
    async def test_a_failed_attempt_is_tried_again_and_says_when(self, app, queue, at_once):
        @queue.task(retries=3)
        async def work(ctx: Context) -> int:
            if ctx.attempt < 3:
                raise ValueError(f"attempt {ctx.attempt}")
            return ctx.attempt

        async with working(app):
            ref = await work.submit()
            assert await ref.result() == 3
            events = [event async for event in ref.events() if event.type == "task"]
        told = [event.task for event in events if event.task.state == "retrying"]
        assert [(info.attempt, info.error.message, info.delay) for info in told] == [
            (1, "attempt 1", 0.0),
            (2, "attempt 2", 0.0),
        ]
        runs = [event.run for event in events if event.task.state == "running"]
        assert len(set(runs)) == 3

    async def test_the_last_attempt_fails_for_good(self, app, queue, at_once):
        @queue.task(retries=2)
        def work(ctx: Context) -> int:
            raise ValueError(f"attempt {ctx.attempt}")

        async with working(app):
            ref = await work.submit()
            assert await failure_of(ref) == ("ValueError", "attempt 3")
            tries = ["running", "retrying", "running", "retrying", "running", "failed"]
            assert await story(ref) == ["queued", *tries]

    async def test_the_wait_grows(self, app, queue, monkeypatch):
        monkeypatch.setattr(retry, "FIRST_DELAY", 0.02)

        @queue.task(retries=3)
        async def work() -> int:
            raise ValueError

        async with working(app):
            ref = await work.submit()
            await failure_of(ref)
            delays = [e.task.delay async for e in ref.events() if e.type == "task" and e.task.state == "retrying"]
        for delay, whole in zip(delays, (0.02, 0.04, 0.08), strict=True):
            assert whole / 2 <= delay < whole

    async def test_a_submitter_may_choose_the_retries(self, app, queue, at_once):
        @queue.task(retries=5)
        async def work(ctx: Context) -> int:
            raise ValueError

        async with working(app):
            ref = await work.options(retries=0).submit()
            assert await story(ref) == ["queued", "running", "failed"]


class TestTimeout:
    async def test_an_async_handler_is_cancelled(self, app, queue):
        cleaned = []

        @queue.task(timeout=0.05)
        async def slow() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                cleaned.append(True)

        @queue.task(timeout=0.05)
        async def slow_generator() -> AsyncIterator[int]:
            yield 1
            await asyncio.sleep(60)

        async with working(app):
            assert (await failure_of(await slow.submit()))[0] == "timeout"
            assert (await failure_of(await slow_generator.submit()))[0] == "timeout"
        assert cleaned

    async def test_a_thread_is_asked(self, app, queue):
        @queue.task(timeout=0.05)
        def by_progress(ctx: Context) -> None:
            while True:
                ctx.progress(1)
                time.sleep(0.005)

        @queue.task(timeout=0.05)
        def by_yielding() -> Iterator[int]:
            while True:
                yield 1
                time.sleep(0.005)

        @queue.task(timeout=0.05)
        def by_asking(ctx: Context) -> str:
            while not ctx.cancelled:
                time.sleep(0.005)
            return "too late"

        async with working(app):
            for handler in (by_progress, by_yielding, by_asking):
                assert (await failure_of(await handler.submit()))[0] == "timeout"

    async def test_a_handler_that_swallows_it_has_failed_all_the_same(self, app, queue):
        @queue.task(timeout=0.05)
        async def stubborn() -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "too late"

        async with working(app):
            assert (await failure_of(await stubborn.submit()))[0] == "timeout"

    async def test_each_attempt_has_its_own(self, app, queue, at_once):
        @queue.task(timeout=0.2, retries=1)
        async def slow_once(ctx: Context) -> int:
            await asyncio.sleep(60 if ctx.attempt == 1 else 0.05)
            return ctx.attempt

        async with working(app):
            ref = await slow_once.submit()
            assert (await until(ref, "retrying")).task.error.type == "timeout"
            assert await ref.result() == 2

    async def test_a_handlers_own_timeouts_go_on_working_within_it(self, app, queue):
        @queue.task(timeout=10)
        async def nested() -> str:
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(60)
            except TimeoutError:
                return "its own"

        async with working(app):
            assert await (await nested.submit()).result() == "its own"
