"""What `/metrics` shows: counted from the logs that this gateway tails, the broker's tables and the hub's counters.

Every gateway reads the same logs, so that figures about tasks are of the whole system on each of them: take the
maximum over gateways, not the sum. Figures about streams and submissions are this process's own.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .. import __version__
from ..brokers.base import Broker, Entry
from ..cursor import Cursor
from ..errors import BrokerError
from ..hub.counters import Counters
from ..session import Session
from ..tail import Tail
from ..task import State
from .catalog import Catalog

MAX_TIMED: Final = 100_000
"""Tasks whose waiting or running is being timed. Beyond that the oldest are let go, and are missing in the sums."""

MAX_NAMES: Final = 200
"""Task names of one queue that are told apart; foreign producers call theirs as they like. Others count as `other`."""

OUTPUT: Final = b'{"type":"output"'
"""How an output begins in a log, which is only counted and not decoded."""

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200)
"""Bounds of the histograms' buckets: from a task that does nothing to one of hours."""


class _Info(Struct):
    name: str
    state: str


class _Head(Struct):
    """What the meters need of an event."""

    type: str
    id: str
    time: str
    seq: int | None = None
    task: _Info | None = None
    state: str = ""


class _Timed(NamedTuple):
    name: str
    since: float


class QueueMeter:
    """Listens to one queue's log. What is there up to the offset `end` counts as known: only times are taken of it."""

    def __init__(self, queue: str, end: int, waits: Histogram, runs: Histogram, lags: Histogram) -> None:
        self.queue = queue
        self.events = 0
        self.attempts: Counter[tuple[str, str]] = Counter()
        self._waits = waits.labels(queue)
        self._runs = runs.labels(queue)
        self._lags = lags.labels(queue)
        self._timed: OrderedDict[str, _Timed] = OrderedDict()
        self._names: set[str] = set()
        self._end = end
        self._head = msgspec.json.Decoder(_Head).decode

    def entries(self, entries: list[Entry]) -> None:
        for offset, body in entries:
            new = offset > self._end
            self.events += new
            # Outputs are most of a busy log.
            if not body.startswith(OUTPUT):
                self._count(self._head(body), new)
        # Of each batch the last, so that the clock is asked once.
        if new:
            self._lags.observe(max(0.0, time.time() - _moment(self._head(body).time)))

    def restarted(self, reason: str, at: Cursor) -> None:
        # It may be another log, with offsets of its own; what comes from it is new.
        self._end = 0
        self._timed.clear()

    def _count(self, head: _Head, new: bool) -> None:
        if head.type == "result":
            self._ended(head, head.state, new)
        elif head.task is None or (head.task.state == "running" and head.seq != 1):
            return
        elif head.task.state == "running":
            timed = self._timed.get(head.id)
            now = _moment(head.time)
            if timed is not None and new:
                self._waits.observe(max(0.0, now - timed.since))
            self._time(head.id, head.task.name, now)
        elif head.task.state == "retrying":
            self._ended(head, "retrying", new)
        elif head.task.state == "queued":
            self._time(head.id, head.task.name, _moment(head.time))

    def _ended(self, head: _Head, outcome: str, new: bool) -> None:
        timed = self._timed.pop(head.id, None)
        if not new:
            return
        self.attempts[self._name(timed.name) if timed else "", outcome] += 1
        if timed is not None and head.seq is not None:
            self._runs.observe(max(0.0, _moment(head.time) - timed.since))

    def _name(self, name: str) -> str:
        if name not in self._names and len(self._names) >= MAX_NAMES:
            return "other"
        self._names.add(name)
        return name

    def _time(self, id: str, name: str, since: float) -> None:
        self._timed[id] = _Timed(name, since)
        if len(self._timed) > MAX_TIMED:
            self._timed.popitem(last=False)


def _moment(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


class Meters:
    """All of them, as one page of Prometheus text."""

    def __init__(self, streams: Counters, catalog: Catalog) -> None:
        self.submitted: Counter[str] = Counter()
        self._streams = streams
        self._catalog = catalog
        self._queues: dict[str, QueueMeter] = {}
        self._stops: list[Callable[[], None]] = []
        self._registry = CollectorRegistry()
        labels = ("queue",)
        wait, run = "queuecast_task_wait_seconds", "queuecast_task_run_seconds"
        self._waits = Histogram(wait, "From queued to running.", labels, buckets=SECONDS, registry=self._registry)
        self._runs = Histogram(
            run, "From running to the attempt's end.", labels, buckets=SECONDS, registry=self._registry
        )
        lag = "queuecast_stream_delivery_seconds"
        told = "From an event's own time to its hand-over to the streams."
        self._lags = Histogram(lag, told, labels, buckets=SECONDS, registry=self._registry)

    def follow(self, tail: Tail, end: int) -> None:
        """Count what this queue's log brings after the offset `end`: a restart must not count again what is there."""
        if tail.queue not in self._queues:
            meter = QueueMeter(tail.queue, end, self._waits, self._runs, self._lags)
            self._queues[tail.queue] = meter
            self._stops.append(tail.listen(meter))

    def stop(self) -> None:
        """Count no more."""
        for stop in self._stops:
            stop()
        self._stops.clear()

    async def page(self, session: Session) -> bytes:
        """Also when the broker does not answer, which is one of the figures."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Snapshot(self, await _tables(session.broker)))
        return generate_latest(registry) + generate_latest(self._registry)

    def families(self, tables: _Tables | None) -> Iterable[Metric]:
        info = GaugeMetricFamily("queuecast_build_info", "The version that runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield GaugeMetricFamily("queuecast_broker_up", "Whether the broker answers.", value=int(tables is not None))
        yield _counter("queuecast_tasks_submitted", "Tasks this process took.", ["queue"], _keyed(self.submitted))
        yield from self._of_logs()
        if tables is not None:
            yield from self._of_tables(tables)
        yield from self._of_streams()

    def _of_logs(self) -> Iterable[Metric]:
        yield _counter(
            "queuecast_attempts",
            "Attempts that ended, by how.",
            ["queue", "task", "outcome"],
            {(m.queue, *key): n for m in self._queues.values() for key, n in m.attempts.items()},
        )
        yield _counter(
            "queuecast_events_appended",
            "Events in the logs since this process follows them.",
            ["queue"],
            {(m.queue,): m.events for m in self._queues.values()},
        )

    def _of_tables(self, read: _Tables) -> Iterable[Metric]:
        now = time.time()
        tasks = GaugeMetricFamily("queuecast_queue_tasks", "Tasks by state.", labels=["queue", "state"])
        running = 0
        for queue, states in read.counts.items():
            running += states.get("running", 0)
            for state, number in states.items():
                tasks.add_metric([queue, state], number)
        yield tasks
        ages = GaugeMetricFamily(
            "queuecast_queue_oldest_ready_seconds",
            "How long the task that waits longest could have run.",
            labels=["queue"],
        )
        for queue, due in read.oldest.items():
            ages.add_metric([queue], max(0.0, now - due) if due is not None else 0.0)
        yield ages
        slots = GaugeMetricFamily("queuecast_worker_slots", "Tasks that workers can run at once.", labels=["state"])
        slots.add_metric(["busy"], running)
        slots.add_metric(["free"], max(0, self._catalog.slots(now) - running))
        yield slots

    def _of_streams(self) -> Iterable[Metric]:
        streams = self._streams
        open_now = GaugeMetricFamily("queuecast_streams_open", "Streams of this process.", labels=["queue"])
        for queue, number in streams.streams_open.items():
            open_now.add_metric([queue], number)
        yield open_now
        yield _counter("queuecast_streams_closed", "Streams that ended.", ["reason"], _keyed(streams.streams_closed))
        yield _counter("queuecast_streams_refused", "Streams not opened.", ["reason"], _keyed(streams.streams_refused))
        yield _counter("queuecast_stream_resumes", "Streams resumed.", ["result"], _keyed(streams.stream_resumes))


class _Tables(NamedTuple):
    """What the broker's tables hold now: tasks by queue and state, and since when the longest waiting could run."""

    counts: Mapping[str, Mapping[State, int]]
    oldest: Mapping[str, float | None]


async def _tables(broker: Broker) -> _Tables | None:
    """None when the broker does not answer."""
    try:
        counts = await broker.counts()
        return _Tables(counts, {name: await broker.oldest_due(name) for name in counts})
    except BrokerError:
        return None


class _Snapshot(Collector):
    """One scrape: figures that were just read, in the form that prometheus-client prints."""

    def __init__(self, meters: Meters, tables: _Tables | None) -> None:
        self._meters = meters
        self._tables = tables

    def collect(self) -> Iterable[Metric]:
        return self._meters.families(self._tables)


def _keyed(counter: Counter[str]) -> dict[tuple[str, ...], int]:
    return {(key,): number for key, number in counter.items()}


def _counter(name: str, help: str, labels: list[str], values: dict[tuple[str, ...], int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help, labels=labels)
    for key, number in values.items():
        family.add_metric(list(key), number)
    return family
