"""A log of many finished tasks in a file, and a driver that reads it: what a server's driver costs is left out."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

from msgspec import Raw

from queuecast.brokers.base import Bounds, Entry
from queuecast.brokers.folded.driver import Page
from queuecast.codec import encode_event
from queuecast.cursor import Cursor
from queuecast.event import Event, ResultEvent, TaskEvent, TaskInfo, submitted
from queuecast.task import Options, make_task, new_run_id, timestamp

QUEUE = "reports"
PAGE = 2_000  # entries, about what one delivery of a server brings
AT_ONCE = 50  # tasks whose events lie mixed in the log


def story(number: int) -> list[Event]:
    """Submitted, begun, succeeded."""
    now = time.time()
    task = make_task(QUEUE, "render", Raw(b"{}"), Options(owner=f"user-{number % 1_000}"), now=now, horizon=1e6)
    run, told = new_run_id(), timestamp(now)
    shared = {"id": task.id, "queue": QUEUE, "attempt": 1, "run": run, "time": told, "owner": task.owner}
    running = TaskInfo(id=task.id, name=task.name, state="running", attempt=1)
    result = {"pages": number, "file": f"reports/{number}.pdf"}
    return [
        submitted(task),
        TaskEvent(**shared, seq=1, task=running),
        ResultEvent(**shared, seq=2, state="succeeded", result=result),
    ]


def mixed(numbers: Iterable[int]) -> list[bytes]:
    """The events of some tasks, each step of all of them before the next."""
    return [encode_event(event) for step in zip(*map(story, numbers), strict=True) for event in step]


def write(file: Path, tasks: int) -> None:
    with file.open("wb") as lines:
        for start in range(0, tasks, AT_ONCE):
            lines.writelines(body + b"\n" for body in mixed(range(start, min(start + AT_ONCE, tasks))))


class FiledLog:
    """As much of a driver as a projection needs. What is `add`ed comes after what is in the file."""

    def __init__(self, file: Path, events: int) -> None:
        self.last = events
        self._file = file
        self._added: asyncio.Queue[bytes] = asyncio.Queue()

    def add(self, body: bytes) -> None:
        self._added.put_nowait(body)

    async def bounds(self, log: str) -> Bounds:
        return Bounds(1, self.last, "file")

    async def read(self, log: str, after: Cursor) -> AsyncGenerator[Page, None]:
        offset = 0
        with self._file.open("rb", buffering=1 << 20) as lines:
            entries: list[Entry] = []
            for line in lines:
                offset += 1
                if offset > after.offset:
                    entries.append(Entry(offset, line[:-1]))
                    if len(entries) == PAGE:
                        yield Page(entries, offset, 0)
                        entries = []
        yield Page(entries, offset, 0)
        while True:
            self.last += 1
            yield Page([Entry(self.last, await self._added.get())], self.last, 0)


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
