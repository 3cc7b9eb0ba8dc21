"""Every kind of handler runs, tells what happens, and ends its task exactly once."""

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from working import Gate, hold_back_control_log, story, until, working

from queuecast import BrokerUnavailable, ConfigurationError, Context, Queuecast, TaskCancelled, TaskFailed
from queuecast.brokers.memory import MemoryBroker, MemoryDelivery
from queuecast.control import CancelRequested, encode_control
from queuecast.worker import Worker, cancels, run, worker
from queuecast.worker.run import Run

KINDS = ["async", "thread", "async generator", "generator"]


def handler_of(queue, kind: str):
    """Gives 3 outputs or a sum, after some progress."""
    if kind == "async":

        @queue.task(name="work")
        async def work(ctx: Context, x: int) -> int:
            ctx.progress(1, 2, "half")
            return x + 1

    elif kind == "thread":

        @queue.task(name="work")
        def work(ctx: Context, x: int) -> int:
            ctx.progress(1, 2, "half")
            return x + 1

    elif kind == "async generator":

        @queue.task(name="work")
        async def work(ctx: Context, x: int) -> AsyncIterator[int]:
            ctx.progress(1, 2, "half")
            for number in range(x):
                yield number

    else:

        @queue.task(name="work")
        def work(ctx: Context, x: int) -> Iterator[int]:
            ctx.progress(1, 2, "half")
            yield from range(x)

    return work


class TestKinds:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_it_runs(self, app, queue, kind):
        handler = handler_of(queue, kind)
        async with working(app):
            ref = await handler.submit(3)
            outputs = ["output"] * 3 if "generator" in kind else []
            assert await story(ref) == ["queued", "running", "progress", *outputs, "succeeded"]
            assert await ref.result() == (None if outputs else 4)
            assert [value async for value in ref.outputs()] == ([0, 1, 2] if outputs else [])

    async def test_a_context_is_given_where_it_is_wanted(self, app, queue):
        @queue.task
        async def wanted(ctx: Context, x: int) -> list[object]:
            return [ctx.id, ctx.attempt, ctx.state, ctx.cancelled]

        @queue.task
        async def unwanted(x: int) -> int:
            return x

        async with working(app):
            ref = await wanted.submit(1)
            assert await ref.result() == [ref.id, 1, None, False]
            assert await (await unwanted.submit(1)).result() == 1

    async def test_many_outputs_keep_their_order(self, app, queue):
        @queue.task
        async def loop(n: int) -> AsyncIterator[int]:
            for number in range(n):
                yield number

        @queue.task
        def thread(n: int) -> Iterator[int]:
            yield from range(n)

        async with working(app):
            for handler in (loop, thread):
                assert [value async for value in (await handler.submit(500)).outputs()] == list(range(500))

    async def test_context_variables_stay_within_their_run(self, app, queue):
        variable = contextvars.ContextVar("variable", default=0)

        @queue.task
        async def loop(x: int) -> int:
            variable.set(variable.get() + x)
            return variable.get()

        @queue.task
        def thread(x: int) -> int:
            variable.set(variable.get() + x)
            return variable.get()

        async with working(app, concurrency=1):
            for handler in (loop, thread, loop, thread):
                assert await (await handler.submit(1)).result() == 1

    async def test_what_a_handler_leaves_running_does_not_hold_it(self, app, queue):
        left = []

        @queue.task
        async def leave() -> str:
            left.append(asyncio.create_task(asyncio.Event().wait()))
            return "gone"

        async with working(app):
            assert await (await leave.submit()).result() == "gone"
        left[0].cancel()


class TestConcurrency:
    @pytest.mark.parametrize("kind", ["async", "thread"])
    async def test_a_queue_runs_so_many_at_once_and_no_more(self, app, kind):
        handlers = []
        running = {"a": 0, "b": 0}
        most = {"a": 0, "b": 0}
        full = asyncio.Event()
        go_on = threading.Event()
        loop = asyncio.get_running_loop()

        def count(name: str, by: int) -> None:
            running[name] += by
            most[name] = max(most[name], running[name])
            if sum(running.values()) == 6:
                full.set()

        for name in ("a", "b"):

            async def asynchronous(name: str) -> None:
                count(name, 1)
                while not go_on.is_set():
                    await asyncio.sleep(0.001)
                count(name, -1)

            def synchronous(name: str) -> None:
                loop.call_soon_threadsafe(count, name, 1)
                go_on.wait(20)
                loop.call_soon_threadsafe(count, name, -1)

            function = asynchronous if kind == "async" else synchronous
            handlers.append(app.queue(name).task(name="work")(function))
        async with working(app, concurrency=3):
            refs = [await handler.submit(handler.queue.name) for handler in handlers for _ in range(10)]
            await full.wait()
            go_on.set()
            for ref in refs:
                await ref.result()
        assert most == {"a": 3, "b": 3}

    @pytest.mark.parametrize("concurrency", [1, 2])
    async def test_one_after_the_other_all_are_run(self, app, queue, concurrency):
        ran = []

        @queue.task
        async def work(x: int) -> None:
            ran.append(x)

        async with working(app, concurrency=concurrency):
            refs = [await work.submit(number) for number in range(50)]
            for ref in refs:
                await ref.result()
        assert ran == list(range(50))

    async def test_two_workers_share_a_queue(self, app, queue):
        gate = Gate()
        ran = []

        @queue.task
        async def work(x: int) -> None:
            ran.append(x)
            if len(ran) == 2:
                gate.opened.set()
            await gate.pass_through()

        async with working(app, concurrency=1), working(app, concurrency=1):
            refs = [await work.submit(number) for number in range(10)]
            for ref in refs:
                await ref.result()
        assert sorted(ran) == list(range(10))


class TestWorker:
    async def test_it_refuses_a_queue_that_the_application_lacks(self, app, queue):
        @queue.task
        async def work() -> None: ...

        session = await app.session()
        with pytest.raises(ConfigurationError, match="no queue named ports, orts; there are reports"):
            Worker(app, session, queues=["ports", "reports", "orts"])

    async def test_it_runs_the_queues_that_it_is_told_to(self, app, queue):
        @queue.task
        async def work() -> int:
            return 1

        @app.queue("others").task
        async def other() -> None: ...

        async with working(app, queues=["reports"]):
            ref = await other.submit()
            assert await (await work.submit()).result() == 1
            with pytest.raises(TimeoutError):
                await ref.result(timeout=0.05)

    async def test_it_says_what_it_is(self, app, queue):
        gate = Gate()

        @queue.task
        async def work() -> None:
            await gate.pass_through()

        async with working(app) as worker:
            await work.submit()
            await gate.reached.wait()
            assert repr(worker).endswith("of reports: 1 running>")
            gate.opened.set()

    async def test_a_submitter_with_other_code_is_told_what_does_not_fit(self, app, queue):
        """Version skew: the task was valid where it was submitted."""

        @queue.task
        async def work(x: int) -> None: ...

        session = await app.session()
        newer = Queuecast("memory://").queue("reports")

        @newer.task(name="work")
        async def newer_work(x: str, y: int = 1) -> None: ...

        @newer.task
        async def only_there() -> None: ...

        async with working(app):
            for handler, args, type, words in [
                (newer_work, ("seven",), "invalid-arguments", "/args/x: Expected `int`, got `str`"),
                (newer_work, ("seven", 2), "invalid-arguments", "/args/"),
                (only_there, (), "unknown-task-name", "'only_there'"),
            ]:
                body = handler.signature.bind(args, {})
                (receipt,) = await session.broker.submit([newer.prepare(handler.name, body, handler._options)])
                ref = work.ref(receipt.id)
                with pytest.raises(TaskFailed) as raised:
                    await ref.result()
                assert raised.value.type == type
                assert words in raised.value.message
                assert await story(ref) == ["queued", "failed"]


class TestAFailingBroker:
    """Only where the broker can be made to fail."""

    @pytest.fixture(params=["memory"])
    def url(self):
        return "memory://"

    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch):
        monkeypatch.setattr(run, "SETTLE_AGAIN_SECONDS", 0.01)

    @pytest.fixture
    def failing(self, monkeypatch):
        """Settle in vain so many times."""

        def failing(verb: str, times: int):
            original = getattr(MemoryDelivery, verb)
            failures = []

            def fail(delivery, *args):
                if len(failures) == times:
                    return original(delivery, *args)
                failures.append(delivery)
                refused = asyncio.get_running_loop().create_future()
                refused.set_exception(BrokerUnavailable("the disk is full"))
                return refused

            monkeypatch.setattr(MemoryDelivery, verb, fail)
            return failures

        return failing

    async def test_a_result_that_was_not_taken_is_told_later_and_once(self, app, queue, failing):
        failures = failing("ack", 3)
        ran = []

        @queue.task
        async def work() -> int:
            ran.append(1)
            return 7

        async with working(app, concurrency=1):
            ref = await work.submit()
            assert await ref.result() == 7
            assert await (await work.submit()).result() == 7
            assert await story(ref) == ["queued", "running", "succeeded"]
        assert len(failures) == 3
        assert len(ran) == 2

    async def test_a_run_whose_beginning_was_not_taken_ends_all_the_same(self, app, queue, failing):
        failing("append", 1)

        @queue.task
        async def work() -> int:
            return 7

        async with working(app):
            ref = await work.submit()
            assert await story(ref) == ["queued", "running", "succeeded"]

    async def test_a_worker_stops_though_its_broker_takes_nothing(self, app, queue, failing):
        failing("ack", 1_000_000)

        @queue.task
        async def work() -> int:
            return 7

        async with working(app, grace=0.05):
            ref = await work.submit()
            await until(ref, "running")

    async def test_a_queue_whose_consumer_failed_is_consumed_again(self, app, queue, monkeypatch):
        monkeypatch.setattr(worker, "RECONSUME_DELAY", 0.01)
        original = MemoryBroker.consume
        failures = [BrokerUnavailable("not now"), OSError("nor now"), BrokerUnavailable("never")]

        def consume(broker, *args):
            if failures:
                raise failures.pop()
            return original(broker, *args)

        monkeypatch.setattr(MemoryBroker, "consume", consume)

        @queue.task
        async def work() -> int:
            return 7

        async with working(app):
            assert await (await work.submit()).result() == 7
        assert failures == []


async def test_a_defect_of_ours_gives_the_task_back(app, queue, monkeypatch):
    @queue.task
    async def double(number: int) -> int:
        return 2 * number

    met, call = [], Run._call

    def defect(run):
        met.append(run)
        if len(met) == 1:
            raise RuntimeError("an oversight")
        return call(run)

    monkeypatch.setattr(worker, "SETTLE_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(Run, "_call", defect)
    async with working(app):
        assert await (await double.submit(21)).result() == 42
    assert len(met) == 2


async def test_a_run_that_a_defect_of_ours_ends_is_not_taken_for_lost(app, queue, monkeypatch):
    @queue.task
    async def double(number: int) -> int:
        return 2 * number

    oversights = [RuntimeError("an oversight")]
    judge = run.judge

    def defect(*args, **options):
        if oversights:
            raise oversights.pop()
        return judge(*args, **options)

    monkeypatch.setattr(worker, "SETTLE_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(run, "judge", defect)
    async with working(app):
        ref = await double.submit(21)
        retrying = await until(ref, "retrying")
        assert (retrying.task.error.type, retrying.task.delay) == ("interrupted", 0.0)
        assert await story(ref) == ["queued", "running", "retrying", "running", "succeeded"]


class TestControlLog:
    """What was asked to be cancelled is known before anything is run."""

    @pytest.fixture
    def url(self):
        return "memory://"

    async def test_a_worker_that_cannot_read_it_begins_nothing(self, app, queue, monkeypatch):
        begun = []

        @queue.task
        async def work() -> None:
            begun.append(1)

        monkeypatch.setattr(cancels, "CATCH_UP_SECONDS", 0.05)
        ref = await work.submit()
        broker = (await app.session()).broker
        await broker.post(encode_control(CancelRequested("reports", ref.id, time.time())))
        let_go = hold_back_control_log(monkeypatch)
        with pytest.raises(BrokerUnavailable, match="which tasks are to be cancelled cannot be read"):
            async with working(app):
                raise AssertionError("it takes tasks")
        let_go.set()
        async with working(app):
            with pytest.raises(TaskCancelled):
                await ref.result()
        assert begun == []
