"""The application: opened by whoever needs it first, in the loop that needs it, and closed without a trace."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Collection
from contextlib import aclosing, asynccontextmanager, suppress

import pytest
from working import BACKENDS, Gate, story, url_of, working

from queuecast import BrokerUnavailable, ConfigurationError, Context, Queuecast, ResultExpired
from queuecast.brokers.memory import MemoryBroker
from queuecast.brokers.sqlite import writer
from queuecast.session import Session


@pytest.fixture(params=BACKENDS)
def app(request, tmp_path, cleanup):
    app = Queuecast(url_of(request.param, tmp_path))
    cleanup.push_async_callback(app.close)
    return app


def adder(app: Queuecast):
    @app.queue("sums").task
    async def add(x: int, y: int = 0) -> int:
        return x + y

    return add


class TestQueues:
    def test_a_queue_is_made_once(self):
        app = Queuecast("memory://")
        assert app.queue("reports") is app.queue("reports")

    @pytest.mark.parametrize("name", ["", "Reports", "a.b", "_qc.control", "-a", "a-", "a" * 65])
    def test_a_bad_name_is_refused(self, name):
        with pytest.raises(ConfigurationError, match="is no queue name"):
            Queuecast("memory://").queue(name)

    def test_external_queues_need_a_broker_server(self):
        with pytest.raises(ConfigurationError, match="external"):
            Queuecast("memory://").queue("reports", external=True)

    @pytest.mark.parametrize("url", ["nonsense", "http://localhost", "memory://?retain_days=0", "memory://?retain=1"])
    def test_a_url_that_names_no_broker_is_refused(self, url):
        with pytest.raises(ConfigurationError):
            Queuecast(url)

    def test_the_environment_names_the_broker_where_the_program_does_not(self, monkeypatch):
        monkeypatch.setenv("QUEUECAST_BROKER", "memory://")
        assert Queuecast().url == "memory://"

    async def test_a_queue_may_be_made_after_the_application_was_opened(self, app):
        async with app.running():
            add = adder(app)
            async with working(app):
                assert await (await add.submit(1, 2)).result() == 3


class TestSession:
    async def test_everyone_in_a_loop_shares_one(self, app):
        sessions = await asyncio.gather(*(app.session() for _ in range(10)))
        assert len(set(map(id, sessions))) == 1

    async def test_whoever_gives_up_waiting_for_it_takes_it_from_nobody(self, app):
        impatient = asyncio.create_task(app.session())
        patient = asyncio.create_task(app.session())
        await asyncio.sleep(0)
        impatient.cancel()
        assert await patient is await app.session()

    async def test_a_failed_opening_is_tried_again(self, monkeypatch):
        app = Queuecast("memory://")
        monkeypatch.setattr(MemoryBroker, "open", failing)
        for _ in range(2):
            with pytest.raises(BrokerUnavailable):
                await app.session()
        monkeypatch.undo()
        assert await app.session()

    async def test_a_failed_opening_that_nobody_waits_for_is_forgotten(self, monkeypatch):
        app = Queuecast("memory://")
        monkeypatch.setattr(MemoryBroker, "open", failing)
        waiting = asyncio.create_task(app.session())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.sleep(0)
        gc.collect()
        monkeypatch.undo()
        assert await app.session()

    async def test_what_was_opened_before_a_declaration_failed_is_closed(self, monkeypatch):
        app = Queuecast("memory://")
        adder(app)
        closed = []
        monkeypatch.setattr(MemoryBroker, "declare", failing)
        monkeypatch.setattr(MemoryBroker, "close", lambda self: done(closed.append(self)))
        with pytest.raises(BrokerUnavailable):
            await app.session()
        assert len(closed) == 1

    async def test_closing_twice_is_harmless(self, app):
        await app.session()
        await app.close()
        await app.close()

    async def test_it_may_be_opened_again(self, app):
        first = await app.session()
        await app.close()
        assert await app.session() is not first

    async def test_the_broker_is_chosen_before_it_is_open(self, app):
        await app.session()
        with pytest.raises(ConfigurationError, match="open already"):
            app.use("memory://")

    async def test_whoever_waits_for_a_result_is_told_that_the_application_closes(self, app):
        ref = await adder(app).submit(1)
        waiting = asyncio.create_task(ref.result())
        await ref._queue.app.session()
        await asyncio.sleep(0.05)
        await app.close()
        with pytest.raises(BrokerUnavailable):
            await waiting

    def test_memory_lives_in_the_loop_that_opened_it(self):
        app = Queuecast("memory://")
        adder(app).submit_sync(1)
        with pytest.raises(ConfigurationError, match="one event loop"):
            asyncio.run(app.session())

    def test_each_loop_has_its_own(self, tmp_path):
        app = Queuecast(url_of("sqlite", tmp_path))
        add = adder(app)

        async def in_one_loop():
            ref = await add.submit(1, 2)
            await app.close()
            return ref

        async def in_another(ref):
            async with app.running(worker=True):
                return await add.ref(ref.id).result()

        assert asyncio.run(in_another(asyncio.run(in_one_loop()))) == 3


class TestSubmitSync:
    async def test_a_thread_submits_through_the_open_application(self, app):
        add = adder(app)
        async with app.running(worker=True):
            ref = await asyncio.to_thread(add.submit_sync, 1, y=2)
            assert await ref.result() == 3

    async def test_a_handler_in_a_thread_submits_too(self, app):
        add = adder(app)

        @app.queue("sums").task
        def delegate() -> str:
            return add.submit_sync(20, 22).id

        async with app.running(worker=True):
            id = await (await delegate.submit()).result()
            assert await add.ref(id).result() == 42

    def test_a_script_without_a_loop_submits(self, app):
        ref = adder(app).submit_sync(1, 2)
        assert app.run_sync(statuses(ref)) == ["queued"]

    async def test_it_is_refused_inside_a_loop(self, app):
        with pytest.raises(RuntimeError, match="await submit instead"):
            adder(app).submit_sync(1)

    def test_a_wrong_argument_is_refused_as_by_submit(self, app):
        with pytest.raises(Exception, match="do not fit"):
            adder(app).submit_sync("seven")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_a_forked_process_does_not_wait_for_its_parents_thread(self, tmp_path):
        program = f"""
import os, sys
from queuecast import Queuecast
app = Queuecast({url_of("sqlite", tmp_path)!r})
@app.queue("sums").task
def add(x: int) -> int: return x
add.submit_sync(1)
child = os.fork()
if not child:
    add.submit_sync(2)
    os._exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
        ended = subprocess.run([sys.executable, "-W", "ignore", "-c", program], timeout=20, check=False)
        assert ended.returncode == 7


class TestRunning:
    async def test_the_lifespan_is_entered_once_and_its_value_is_the_contexts_state(self, app_with_lifespan):
        app, entered = app_with_lifespan

        @app.queue("sums").task
        async def peek(ctx: Context) -> str:
            return ctx.state

        async with app.running(worker=True):
            assert await (await peek.submit()).result() == "the pool"
            assert await (await peek.submit()).result() == "the pool"
            assert entered == ["in"]
        assert entered == ["in", "out"]

    async def test_without_a_worker_nothing_runs(self, app):
        async with app.running():
            ref = await adder(app).submit(1)
            with pytest.raises(TimeoutError):
                await ref.result(timeout=0.05)

    async def test_a_worker_needs_something_to_run(self, app):
        app.queue("empty")
        with pytest.raises(ConfigurationError, match="no handler to run"):
            async with app.running(worker=True):
                pass
        assert not app._sessions

    async def test_entered_within_itself_it_is_closed_by_whoever_leaves_last(self, app):
        add = adder(app)
        assert app.gateway.hub is None
        async with app.running(worker=True):
            hub = app.gateway.hub
            async with app.running():
                assert await (await add.submit(1)).result() == 1
            assert await (await add.submit(2)).result() == 2
            assert app.gateway.hub is hub is not None
        assert app.gateway.hub is None
        assert not app._sessions

    async def test_a_program_that_serves_its_gateway_may_be_running_already(self, app):
        add = adder(app)
        left = asyncio.Event()
        said = []

        async def receive():
            if said:
                await left.wait()
            return {"type": "lifespan.shutdown" if said else "lifespan.startup"}

        async def send(message):
            said.append(message["type"])
            ready.set()

        ready = asyncio.Event()
        async with app.running(worker=True):
            serving = asyncio.create_task(app.gateway({"type": "lifespan"}, receive, send))
            await ready.wait()
            left.set()
            await serving
            assert await (await add.submit(2)).result() == 2
        assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    async def test_what_fails_at_the_end_of_a_served_gateway_is_told_as_that(self, app, monkeypatch, caplog):
        close = Session.close

        async def fail(session):
            await close(session)
            raise BrokerUnavailable("the disk is gone")

        monkeypatch.setattr(Session, "close", fail)
        told = asyncio.Queue()
        heard = asyncio.Queue()
        heard.put_nowait({"type": "lifespan.startup"})
        serving = asyncio.create_task(app.gateway({"type": "lifespan"}, heard.get, told.put))
        assert (await told.get())["type"] == "lifespan.startup.complete"
        heard.put_nowait({"type": "lifespan.shutdown"})
        await serving
        assert await told.get() == {"type": "lifespan.shutdown.failed", "message": "the disk is gone"}
        assert "did not stop as it should: the disk is gone" in caplog.text

    async def test_an_error_of_the_host_comes_through(self, app):
        adder(app)
        with pytest.raises(ZeroDivisionError):
            async with app.running(worker=True):
                1 / 0  # noqa: B018

    @pytest.mark.bound(60)
    async def test_starting_and_stopping_leaves_nothing_behind(self, app):
        earlier = set(threading.enumerate())  # a test before this one may have left one behind
        add = adder(app)

        @app.queue("sums").task
        def slowly(x: int) -> int:
            return x

        async def once(number):
            async with app.running(worker=True):
                refs = [await add.submit(number), await slowly.submit(number)]
                assert [await ref.result() for ref in refs] == [number, number]

        await once(0)
        gc.collect()
        before = (asyncio.all_tasks(), descriptors())
        for number in range(25):
            await once(number)
        await all_threads_gone("queuecast handler", earlier)
        gc.collect()
        assert (asyncio.all_tasks(), descriptors()) == before

    async def test_a_broker_that_ends_keeps_nobody_waiting_and_is_not_asked_again(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(writer, "LOOK_SECONDS", 0.0)
        app = Queuecast(f"sqlite:///{tmp_path}/work.db")
        gate = Gate()

        @app.queue("sums").task
        async def hold() -> None:
            await gate.pass_through()

        async with app.running():
            session = await app.session()
            async with working(app):
                ref = await hold.submit()
                await gate.reached.wait()
                waiting = asyncio.create_task(ref.result())
                tail = await session.tail("sums")
                while "for 1" not in repr(tail):
                    await asyncio.sleep(0)
                # It asks before it waits, and was answered before we are.
                await session.broker.status("sums", ref.id)
                (tmp_path / "work.db").unlink()
                with suppress(BrokerUnavailable):
                    while True:
                        await session.broker.post(b"{}")
                with pytest.raises(BrokerUnavailable, match="was deleted"):
                    await waiting
            assert "was deleted" in session.ended
        assert not any("cannot be consumed" in record.message for record in caplog.records)

    async def test_starting_is_given_up_at_any_moment(self, app):
        adder(app)

        async def run():
            async with app.running(worker=True):
                await asyncio.Event().wait()

        for steps in range(0, 60, 3):
            running = asyncio.create_task(run())
            for _ in range(steps):
                await asyncio.sleep(0)
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled()


class TestQueueEvents:
    async def test_a_queue_tells_what_happens_from_now_on(self, app):
        add = adder(app)
        await add.submit(1)
        async with app.running(worker=True), aclosing(add.queue.events(after="first")) as events:
            first = await anext(events)
            assert (first.type, first.task.state) == ("task", "queued")

    async def test_a_cursor_resumes_exactly(self, app):
        add = adder(app)
        refs = [await add.submit(number) for number in range(5)]
        async with aclosing(add.queue.events(after="first")) as events:
            seen = [await anext(events) for _ in range(5)]
        for place, event in enumerate(seen[:-1]):
            async with aclosing(add.queue.events(after=event.cursor)) as events:
                assert await anext(events) == seen[place + 1]
        assert [event.id for event in seen] == [ref.id for ref in refs]

    async def test_only_an_owners_events_are_told(self, app):
        add = adder(app)
        for owner in ("ann", "bob", "ann"):
            await add.options(owner=owner).submit(1)
        async with aclosing(add.queue.events(after="first", owner="ann")) as events:
            assert [(await anext(events)).owner for _ in range(2)] == ["ann", "ann"]

    async def test_last_means_from_now_on(self, app):
        add = adder(app)
        await add.submit(1)
        async with aclosing(add.queue.events()) as events:
            coming = asyncio.ensure_future(anext(events))
            while not coming.done():
                new = await add.submit(2)
                await asyncio.wait([coming], timeout=0.1)
            first = await coming
        assert first.task.state == "queued"
        assert first.id <= new.id

    async def test_submitting_by_name(self, app):
        adder(app)
        gate = Gate()

        @app.queue("sums").task
        async def wait(x: int) -> None:
            await gate.pass_through()

        async with working(app):
            ref = await app.queue("sums").submit("wait", {"x": 1}, owner="ann", retries=3)
            await gate.reached.wait()
            gate.opened.set()
            assert await story(ref) == ["queued", "running", "succeeded"]

    async def test_an_unknown_task_has_expired(self, app):
        add = adder(app)
        ref = add.ref("0199-nobody")
        for call in (ref.result, ref.cancel, lambda: anext(ref.events()), lambda: anext(ref.outputs())):
            with pytest.raises(ResultExpired):
                await call()


@pytest.fixture
def app_with_lifespan(cleanup):
    entered = []

    @asynccontextmanager
    async def lifespan():
        entered.append("in")
        yield "the pool"
        entered.append("out")

    app = Queuecast("memory://", lifespan=lifespan)
    cleanup.push_async_callback(app.close)
    return app, entered


async def failing(*_):
    raise BrokerUnavailable("not now")


async def done(_):
    return


async def statuses(ref) -> list[str]:
    session = await ref._queue.app.session()
    status = await session.broker.status(ref.queue, ref.id)
    return [status.state]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


async def all_threads_gone(prefix: str, earlier: Collection[threading.Thread] = ()) -> None:
    while any(thread.name.startswith(prefix) for thread in set(threading.enumerate()).difference(earlier)):
        await asyncio.sleep(0.01)


async def test_a_session_may_be_closed_twice_at_once():
    """By its application, and by its broker's end."""
    session = Session("memory://", lambda _: None)
    await session.open()
    for name in ("a", "b", "c"):
        await session.tail(name)
    await asyncio.gather(session.close(), session.close())
