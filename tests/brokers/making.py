"""Tasks, and the events of their runs, as a worker would write them."""

import secrets
import time
from datetime import UTC, datetime

import msgspec
from msgspec import Raw

from queuecast.codec import decode_event, encode_event
from queuecast.event import ErrorInfo, Event, OutputEvent, Progress, ResultEvent, TaskEvent, TaskInfo, ended
from queuecast.task import Options, Task, make_task, timestamp

QUEUE = "reports"
WEEK = 7 * 86_400.0


def new_task(name: str = "render", *, queue: str = QUEUE, args: object = None, **options) -> Task:
    encoded = Raw(msgspec.json.encode({} if args is None else args))
    return make_task(queue, name, encoded, Options(**options), now=time.time(), horizon=WEEK)


def new_tasks(count: int) -> list[Task]:
    return [new_task(args={"number": number}) for number in range(count)]


def seconds_from_now(seconds: float) -> datetime:
    return datetime.fromtimestamp(time.time() + seconds, UTC)


class Run:
    """One execution of a task: knows its own name and the next `seq`, so each call makes the run's next event."""

    def __init__(self, task: Task, attempt: int = 1, name: str | None = None) -> None:
        self.task = task
        self.attempt = attempt
        self.name = name or secrets.token_hex(4)
        self.seq = 0
        self.outputs = 0

    def running(self, *, alone: bool = False) -> Event:
        return self._told(state="running", alone=alone)

    def progress(self, current: float = 1, note: str = "") -> Event:
        return self._told(state="running", progress=Progress(current, note=note))

    def output(self, value: object = "piece") -> Event:
        self.outputs += 1
        return self._event(OutputEvent, output=value, index=self.outputs - 1)

    def retrying(self, delay: float | None = None, error: ErrorInfo | None = None) -> Event:
        return self._told(state="retrying", delay=delay, error=error)

    def succeeded(self, result: object = "done") -> Event:
        return self._event(ResultEvent, state="succeeded", result=result)

    def failed(self, type: str = "ValueError", message: str = "no such report") -> Event:
        return self._event(ResultEvent, state="failed", error=ErrorInfo(type, message))

    def _told(self, **info) -> Event:
        told = TaskInfo(id=self.task.id, name=self.task.name, attempt=self.attempt, **info)
        return self._event(TaskEvent, task=told)

    def _event(self, kind, **payload) -> Event:
        self.seq += 1
        return as_read(
            kind(
                id=self.task.id,
                queue=self.task.queue,
                attempt=self.attempt,
                run=self.name,
                seq=self.seq,
                time=timestamp(time.time()),
                owner=self.task.owner,
                **payload,
            )
        )


def cancelled(task: Task) -> Event:
    """What any process appends for a task that is not running."""
    return as_read(ended(task, "cancelled", time.time()))


def as_read(event: Event) -> Event:
    """The event as a reader of the log gets it, so that what was written compares equal to what is read."""
    return decode_event(encode_event(event))
