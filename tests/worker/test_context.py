"""The context of a run: progress is coalesced, outputs wait for the log, and what the log refused is said again."""

import asyncio
import threading
import time

import pytest
from brokers.making import as_read, new_task

from queuecast import BrokerUnavailable, TaskCancelled
from queuecast.brokers import Delivery
from queuecast.lifecycle import apply, kind_of
from queuecast.worker import context as context_module
from queuecast.worker.context import MAX_NOTE_CHARS, MAX_UNCONFIRMED, PROGRESS_INTERVAL, RunContext
from queuecast.worker.trail import Trail


class Log(Delivery):
    """Takes events when it is told to, and folds what it has taken as every log does."""

    def __init__(self, *, slow: bool = False) -> None:
        self.task = new_task()
        self.attempt, self.suspect, self.losses = 1, False, 0
        self.slow = slow
        self.shown = []
        self.waiting = []
        self.failing = 0
        self._record = None

    async def begin(self, event):
        return self.append(event)

    def append(self, *events):
        durable = asyncio.get_running_loop().create_future()
        if self.failing:
            self.failing -= 1
            durable.set_exception(BrokerUnavailable("the disk is full"))
            return durable
        for event in events:
            record = apply(self._record, event)
            if record is not None:
                self._record = record
                self.shown.append(as_read(event))
        self.waiting.append(durable)
        if not self.slow:
            self.confirm(1)
        return durable

    def confirm(self, count: int) -> None:
        for durable in self.waiting[:count]:
            durable.set_result(None)
        del self.waiting[:count]

    def ack(self, *events):
        return self.append(*events)

    def retry(self, delay, *events):
        return self.append(*events)

    def reject(self, reason, *events):
        return self.append(*events)

    def release(self, *events):
        return self.append(*events)

    @property
    def told(self) -> list:
        return [event.output if event.type == "output" else event.task.progress.current for event in self.shown[1:]]


def begun(log: Log) -> tuple[RunContext, Trail]:
    trail = Trail(log, time.time)
    context = RunContext(log, trail, None)
    context.write(trail.task("running"))
    return context, trail


async def pour(context: RunContext, count: int) -> None:
    for number in range(count):
        await context.output(number)


async def told(log: Log, *values) -> None:
    while log.told != list(values):
        await asyncio.sleep(0.005)


class TestProgress:
    async def test_the_first_is_written_at_once(self):
        context, _ = begun(log := Log())
        context.progress(1)
        assert log.told == [1]

    async def test_of_a_burst_the_first_and_the_latest_are_written(self):
        context, _ = begun(log := Log())
        for number in range(1_000):
            context.progress(number)
        await told(log, 0, 999)

    async def test_the_last_is_never_lost(self):
        context, _ = begun(log := Log())
        context.progress(1)
        context.progress(2)
        context.close()
        await log.append(*context.unwritten())
        assert log.told == [1, 2]

    async def test_there_are_at_most_twenty_a_second(self):
        context, _ = begun(log := Log())
        began = time.monotonic()
        while time.monotonic() < began + 0.4:
            context.progress(time.monotonic() - began)
            await asyncio.sleep(0)
        assert 3 <= len(log.told) <= 0.4 / PROGRESS_INTERVAL + 1

    async def test_a_thread_that_reports_without_a_pause_does_not_flood_the_loop(self, monkeypatch):
        context, _ = begun(log := Log())
        calls = []
        loop = asyncio.get_running_loop()
        threadsafe = loop.call_soon_threadsafe
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *args: (calls.append(1), threadsafe(*args)))

        def report():
            for number in range(20_000):
                context.progress(number)

        await asyncio.to_thread(report)
        while log.told[-1:] != [19_999]:
            await asyncio.sleep(0.005)
        assert len(calls) <= 2 + len(log.told)

    async def test_it_goes_before_the_output_that_follows_it(self):
        context, _ = begun(log := Log())
        context.progress(1)
        context.progress(2)
        await context.output("a")
        assert log.told == [1, 2, "a"]

    async def test_what_is_reported_after_the_end_is_dropped(self):
        context, _ = begun(log := Log())
        context.close()
        context.progress(1)
        await asyncio.to_thread(context.progress, 2)
        await asyncio.sleep(0)
        assert log.told == []

    async def test_a_thread_that_should_stop_is_told(self):
        context, _ = begun(Log())
        context.stop()
        assert context.cancelled
        with pytest.raises(TaskCancelled):
            await asyncio.to_thread(context.progress, 1)
        with pytest.raises(TaskCancelled):
            await asyncio.to_thread(context.output_from_thread, 1)

    @pytest.mark.parametrize("current", [float("nan"), float("inf"), "three", None, [1]])
    async def test_what_is_no_number_is_refused(self, current):
        context, _ = begun(log := Log())
        with pytest.raises((TypeError, ValueError)):
            context.progress(current)
        with pytest.raises((TypeError, ValueError)):
            context.progress(1, current or "none")
        assert log.told == []

    async def test_a_note_is_kept_short_and_writable(self):
        context, _ = begun(log := Log())
        context.progress(1, note="\udcff" + "x" * 1_000_000)
        assert log.shown[-1].task.progress.note == "?" + "x" * (MAX_NOTE_CHARS - 1)


class TestOutputs:
    async def test_no_more_are_on_their_way_than_the_limit(self):
        context, _ = begun(log := Log(slow=True))
        yielded = []

        async def pour():
            for number in range(MAX_UNCONFIRMED + 10):
                yielded.append(number)
                await context.output(number)

        pouring = asyncio.create_task(pour())
        await asyncio.sleep(0)
        # The run's beginning is on its way too.
        assert len(log.waiting) == MAX_UNCONFIRMED
        assert len(yielded) == MAX_UNCONFIRMED - 1
        for room in range(1, 11):
            log.confirm(1)
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(log.waiting) == MAX_UNCONFIRMED
            assert len(yielded) == MAX_UNCONFIRMED - 1 + room
        log.confirm(MAX_UNCONFIRMED)
        await asyncio.sleep(0)
        log.slow = False
        log.confirm(MAX_UNCONFIRMED)
        await pouring

    async def test_progress_does_not_go_beyond_the_limit_either(self):
        context, _ = begun(log := Log(slow=True))
        pouring = asyncio.create_task(pour(context, MAX_UNCONFIRMED - 1))
        await asyncio.sleep(0)
        context.progress(7)
        await asyncio.sleep(2 * PROGRESS_INTERVAL)
        assert len(log.waiting) == MAX_UNCONFIRMED
        log.slow = False
        log.confirm(MAX_UNCONFIRMED)
        await pouring
        await told(log, *range(MAX_UNCONFIRMED - 1), 7)

    async def test_stopping_lets_go_of_a_handler_that_waits(self):
        context, _ = begun(Log(slow=True))
        pouring = asyncio.create_task(pour(context, MAX_UNCONFIRMED))
        await asyncio.sleep(0)
        assert not pouring.done()
        context.stop()
        await pouring

    async def test_a_thread_waits_too(self):
        context, _ = begun(log := Log(slow=True))
        yielded = []

        def pour():
            for number in range(MAX_UNCONFIRMED + 1):
                context.output_from_thread(number)
                yielded.append(number)

        thread = threading.Thread(target=pour)
        thread.start()
        while len(log.waiting) < MAX_UNCONFIRMED:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        assert len(log.waiting) == MAX_UNCONFIRMED
        log.slow = False
        log.confirm(MAX_UNCONFIRMED)
        await asyncio.to_thread(thread.join)
        assert len(yielded) == MAX_UNCONFIRMED + 1


class TestAFailingLog:
    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch):
        monkeypatch.setattr(context_module, "REWRITE_SECONDS", 0.01)

    async def test_what_it_did_not_take_is_said_again_in_order(self):
        context, _ = begun(log := Log())
        await asyncio.sleep(0)
        log.failing = 1
        for number in range(5):
            await context.output(number)
        await told(log, 0, 1, 2, 3, 4)

    async def test_what_it_did_not_take_goes_before_the_result(self):
        context, trail = begun(log := Log())
        await asyncio.sleep(0)
        log.failing = 1
        await context.output("a")
        await context.output("b")
        context.close()
        await log.ack(*context.unwritten(), trail.result("succeeded"))
        assert [kind_of(event) for event in log.shown] == ["running", "output", "output", "result"]

    async def test_it_may_fail_again_and_again(self):
        context, _ = begun(log := Log())
        log.failing = 3
        await context.output("a")
        await context.output("b")
        await told(log, "a", "b")

    async def test_a_handler_does_not_pour_into_memory_meanwhile(self):
        context, _ = begun(log := Log())
        log.failing = 1_000_000
        pouring = asyncio.create_task(pour(context, 3 * MAX_UNCONFIRMED))
        await asyncio.sleep(0.05)
        assert not pouring.done()
        assert context._unconfirmed == MAX_UNCONFIRMED
        log.failing = 0
        await pouring
        await told(log, *range(3 * MAX_UNCONFIRMED))
