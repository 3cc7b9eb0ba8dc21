"""The task ref: a result as its annotation says, events from any cursor, outputs of one run, and cancelling."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pydantic
import pytest
from working import BACKENDS, Gate, story, until, url_of, word_of, working

from queuecast import (
    AttemptRestarted,
    Context,
    Queuecast,
    ResetRequired,
    TaskCancelled,
    TaskFailed,
    retry,
)
from queuecast.errors import TaskError

THEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass
class Point:
    x: int
    at: datetime


class Page(pydantic.BaseModel):
    title: str = pydantic.Field(alias="Title")
    points: list[Point]


@pytest.fixture(params=BACKENDS)
def app(request, tmp_path, cleanup):
    app = Queuecast(url_of(request.param, tmp_path))
    cleanup.push_async_callback(app.close)
    return app


@pytest.fixture
def queue(app):
    return app.queue("reports")


@pytest.fixture
def at_once(monkeypatch):
    """A retry comes at once."""
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)


class TestResult:
    @pytest.mark.parametrize(
        ("annotation", "value"),
        [
            (None, None),
            (str, "done"),
            (datetime, THEN),
            (timedelta, timedelta(minutes=1)),
            (Point, Point(1, THEN)),
            (dict[str, Point], {"a": Point(1, THEN)}),
            (Page, Page(Title="one", points=[Point(1, THEN)])),
            (list[Page], [Page(Title="one", points=[])]),
            (object, {"a": [1, None]}),
        ],
    )
    async def test_it_is_what_the_annotation_says(self, app, queue, annotation, value):
        async def give():
            return value

        give.__annotations__["return"] = annotation
        handler = queue.task(give)
        async with working(app):
            assert await (await handler.submit()).result() == value

    async def test_without_an_annotation_it_is_json(self, app, queue):
        @queue.task
        def give():
            return Point(1, THEN)

        async with working(app):
            assert await (await give.submit()).result() == {"x": 1, "at": "2026-01-02T03:04:05Z"}

    async def test_a_handler_that_breaks_its_own_word_is_told_of(self, app, queue):
        @queue.task
        async def give() -> int:
            return "seven"

        async with working(app):
            with pytest.raises(TaskError, match="does not fit"):
                await (await give.submit()).result()

    async def test_it_may_be_asked_for_before_during_and_after_the_run_by_anyone(self, app, queue):
        gate = Gate()

        @queue.task
        async def give() -> int:
            await gate.pass_through()
            return 7

        ref = await give.submit()
        early = asyncio.create_task(ref.result())
        async with working(app):
            await gate.reached.wait()
            during = asyncio.create_task(give.ref(ref.id).result())
            gate.opened.set()
            assert [await early, await during, await ref.result()] == [7, 7, 7]

    async def test_the_task_goes_on_after_a_timeout(self, app, queue):
        gate = Gate()

        @queue.task
        async def give() -> int:
            await gate.pass_through()
            return 7

        async with working(app):
            ref = await give.submit()
            await gate.reached.wait()
            with pytest.raises(TimeoutError):
                await ref.result(timeout=0.01)
            gate.opened.set()
            assert await ref.result() == 7

    @pytest.mark.parametrize("seconds", [0, 1e-6, 1e-4, 1e-3])
    async def test_a_timeout_while_the_tail_starts_spoils_it_for_nobody(self, app, queue, seconds):
        @queue.task
        async def give() -> int:
            return 7

        async with working(app):
            ref = await give.submit()
            impatient = asyncio.create_task(ref.result(timeout=seconds))
            assert await ref.result() == 7
            await asyncio.wait([impatient])
            assert impatient.exception() is None or isinstance(impatient.exception(), TimeoutError)

    async def test_a_failure_tells_its_type_and_message(self, app, queue):
        @queue.task
        def fail() -> int:
            raise ValueError("no such report")

        async with working(app):
            with pytest.raises(TaskFailed) as raised:
                await (await fail.submit()).result()
        assert (raised.value.type, raised.value.message) == ("ValueError", "no such report")


class TestEvents:
    async def test_every_cursor_resumes_exactly(self, app, queue):
        @queue.task
        async def count(ctx: Context) -> AsyncIterator[int]:
            ctx.progress(1, 3, "rows")
            for number in range(3):
                yield number

        async with working(app):
            ref = await count.submit()
            whole = [event async for event in ref.events()]
            words = ["queued", "running", "progress", "output", "output", "output", "succeeded"]
            assert [word_of(event) for event in whole] == words
            for place, event in enumerate(whole):
                assert [later async for later in ref.events(after=event.cursor)] == whole[place + 1 :]

    async def test_the_refs_own_cursor_leads_to_all_that_follows(self, app, queue):
        @queue.task
        async def give() -> int:
            return 7

        async with working(app):
            ref = await give.submit()
            assert [word_of(event) async for event in ref.events(after=ref.cursor)] == ["running", "succeeded"]

    async def test_another_task_that_speaks_of_this_one_is_not_this_one(self, app, queue):
        @queue.task
        async def give() -> int:
            return 7

        @queue.task
        async def delegate(id: str) -> dict[str, str]:
            return {"id": id}

        ref = await give.options(delay=0.2).submit()
        async with working(app):
            await (await delegate.submit(ref.id)).result()
            events = [event async for event in ref.events()]
        assert {event.id for event in events} == {ref.id}
        assert word_of(events[-1]) == "succeeded"

    @pytest.mark.parametrize(
        ("cursor", "reason"), [("nonsense", "malformed"), ("0.1.0", "other-log"), ("zzzz.1.0", "other-log")]
    )
    async def test_a_cursor_that_cannot_be_honoured_is_refused(self, queue, cursor, reason):
        @queue.task
        async def give() -> int:
            return 7

        ref = await give.submit()
        with pytest.raises(ResetRequired) as raised:
            await anext(ref.events(after=cursor))
        assert raised.value.reason == reason


class TestOutputs:
    async def test_they_are_what_the_annotation_says(self, app, queue):
        @queue.task
        async def points() -> AsyncIterator[Point]:
            for x in range(3):
                yield Point(x, THEN)

        async with working(app):
            ref = await points.submit()
            assert [point async for point in ref.outputs()] == [Point(x, THEN) for x in range(3)]
            assert await ref.result() is None

    async def test_a_failure_comes_after_what_was_yielded(self, app, queue):
        @queue.task
        async def points() -> AsyncIterator[int]:
            yield 1
            raise ValueError("no more")

        async with working(app):
            outputs = (await points.submit()).outputs()
            assert await anext(outputs) == 1
            with pytest.raises(TaskFailed, match="no more"):
                await anext(outputs)

    async def test_a_cancelled_task_ends_them(self, app, queue):
        gate = Gate()

        @queue.task
        async def points() -> AsyncIterator[int]:
            yield 1
            await gate.pass_through()

        async with working(app):
            ref = await points.submit()
            outputs = ref.outputs()
            assert await anext(outputs) == 1
            await ref.cancel()
            with pytest.raises(TaskCancelled):
                await anext(outputs)

    async def test_a_run_that_is_given_up_is_told_and_the_next_one_followed_from_its_beginning(
        self, app, queue, at_once
    ):
        @queue.task(retries=1)
        async def points(ctx: Context) -> AsyncIterator[str]:
            for number in range(3):
                yield f"{ctx.attempt}.{number}"
                if ctx.attempt == 1 and number == 1:
                    raise ValueError("once more")

        async with working(app):
            ref = await points.submit()
            outputs = ref.outputs()
            assert [await anext(outputs), await anext(outputs)] == ["1.0", "1.1"]
            with pytest.raises(AttemptRestarted):
                await anext(outputs)
            assert [piece async for piece in ref.outputs()] == ["2.0", "2.1", "2.2"]

    async def test_a_run_that_yields_nothing_gives_up_the_one_before_too(self, app, queue, at_once):
        @queue.task(retries=1)
        async def points(ctx: Context) -> AsyncIterator[int]:
            if ctx.attempt == 1:
                yield 1
                raise ValueError("once more")

        async with working(app):
            ref = await points.submit()
            outputs = ref.outputs()
            assert await anext(outputs) == 1
            with pytest.raises(AttemptRestarted):
                await anext(outputs)
            assert [piece async for piece in ref.outputs()] == []


class TestCancel:
    @pytest.mark.parametrize("delay", [0, 60])
    async def test_a_task_that_waits_is_cancelled_at_once(self, app, queue, delay):
        @queue.task
        async def give() -> int:
            return 7

        ref = await give.options(delay=delay).submit()
        await ref.cancel()
        with pytest.raises(TaskCancelled):
            await ref.result()
        assert (await story(ref))[1:] == ["cancelled"]

    async def test_what_was_cancelled_while_no_worker_ran_is_never_begun(self, app, queue):
        ran = []

        @queue.task
        async def give(x: int) -> None:
            ran.append(x)

        refs = [await give.submit(x) for x in range(10)]
        for ref in refs[::2]:
            await ref.cancel()
        async with working(app):
            for ref in refs[1::2]:
                await ref.result()
        assert ran == [1, 3, 5, 7, 9]

    async def test_a_task_that_waits_for_its_retry_is_cancelled(self, app, queue):
        @queue.task(retries=1)
        async def fail() -> None:
            raise ValueError

        async with working(app):
            ref = await fail.submit()
            await until(ref, "retrying")
            await ref.cancel()
            assert await story(ref) == ["queued", "running", "retrying", "cancelled"]

    async def test_a_task_that_has_ended_stays_as_it_is(self, app, queue):
        @queue.task
        async def give() -> int:
            return 7

        async with working(app):
            ref = await give.submit()
            await ref.result()
            await ref.cancel()
            assert await ref.result() == 7

    async def test_cancelling_twice_is_once(self, app, queue):
        gate = Gate()

        @queue.task
        async def wait() -> None:
            await gate.pass_through()

        async with working(app):
            ref = await wait.submit()
            await gate.reached.wait()
            await asyncio.gather(ref.cancel(), ref.cancel())
            assert await story(ref) == ["queued", "running", "cancelled"]

    async def test_leaving_the_events_cancels_nothing(self, app, queue):
        gate = Gate()

        @queue.task
        async def give() -> int:
            await gate.pass_through()
            return 7

        async with working(app):
            ref = await give.submit()
            async with aclosing(ref.events()) as events:
                await anext(events)
            gate.opened.set()
            assert await ref.result() == 7
