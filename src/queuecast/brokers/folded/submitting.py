"""Submitting: the task durable, then its first event, then the answer; and one task for each idempotency key.

A server cannot tell whether a key was used. So a submit with one asks the projection first, and afterwards whose first
event the fold took. Two gateways that are asked at the same moment may both put the task into the queue. A worker drops
the later one when the log shows the other's run or its end; where both begin at the same moment, one result is shown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from ...codec import decode_event, encode_event, encode_task
from ...cursor import Cursor, cursor_at
from ...errors import BrokerUnavailable, KeyReused, OutcomeUnknown, ResetRequired
from ...event import TaskEvent, submitted
from ...task import Task, fingerprint, is_keyed, same_work
from ..base import External, Receipt
from .driver import Driver, Parcel
from .projection import Known, Projection
from .wire import Message, pack

PLACE_SECONDS: Final = 60.0
"""How long a place in a log that this process does not follow is told to submitters, before it asks for a newer one."""


class _Place(NamedTuple):
    cursor: asyncio.Future[Cursor]
    asked_at: float


class Submitting:
    """`followed` gives a queue's projection where this process follows it; `follow` begins to."""

    def __init__(
        self,
        driver: Driver,
        followed: Callable[[str], Projection | None],
        follow: Callable[[str], Awaitable[Projection]],
        external: Callable[[str], External | None],
    ) -> None:
        self._driver = driver
        self._followed = followed
        self._follow = follow
        self._external = external
        self._places: dict[str, _Place] = {}
        self._under_way: dict[str, tuple[Task, asyncio.Future[None]]] = {}

    async def submit(self, tasks: Sequence[Task]) -> list[Receipt]:
        """All or none. Raises `TooLarge`, `KeyReused`, `BrokerError`."""
        batch: dict[str, Task] = {}
        for task in tasks:
            encode_task(task)
            first = batch.setdefault(task.id, task)
            if first is not task and not same_work(first, task):
                raise KeyReused()
        receipts = await self._one_of_each(list(batch.values()))
        told: set[str] = set()
        answers = []
        for task in tasks:
            receipt = receipts[task.id]
            answers.append(receipt if task.id not in told else _again(receipt))
            told.add(task.id)
        return answers

    async def _one_of_each(self, tasks: list[Task]) -> dict[str, Receipt]:
        keyed = [task for task in tasks if is_keyed(task.id)]
        if not keyed:
            return await self._add(tasks)
        await self._turn_of(keyed)
        ended = asyncio.get_running_loop().create_future()
        self._under_way.update((task.id, (task, ended)) for task in keyed)
        try:
            known = {task.id: receipt for task in keyed if (receipt := await self._earlier(task)) is not None}
            return known | await self._add([task for task in tasks if task.id not in known])
        finally:
            for task in keyed:
                del self._under_way[task.id]
            ended.set_result(None)

    async def _turn_of(self, tasks: list[Task]) -> None:
        """Until nobody else in this process is submitting with one of these keys."""
        while others := [self._under_way[task.id] for task in tasks if task.id in self._under_way]:
            await others[0][1]

    async def _earlier(self, task: Task) -> Receipt | None:
        projection = await self._follow(task.queue)
        known = await projection.known(task.id)
        if known is None:
            return None
        if known.name != task.name or not _is_same(known.fingerprint, fingerprint(task)):
            raise KeyReused()
        status = await projection.status(task.id)
        return None if status is None else Receipt(task.id, status.state, status.cursor, created=False)

    async def _add(self, tasks: list[Task]) -> dict[str, Receipt]:
        """They are new, as far as this process can know."""
        places = {queue: await self._place(queue) for queue in {task.queue for task in tasks}}
        await self._driver.put([self._parcel(task) for task in tasks])
        try:
            return await self._tell(tasks, places)
        except BrokerUnavailable as error:
            raise OutcomeUnknown(f"what was submitted will run, and its log does not say so yet: {error}") from error

    async def _tell(self, tasks: list[Task], places: Mapping[str, Cursor]) -> dict[str, Receipt]:
        """The logs of what is in the queues now."""
        events: dict[str, list[TaskEvent]] = {}
        for task in tasks:
            events.setdefault(task.queue, []).append(submitted(task))
        appended = [
            (queue, self._driver.append(queue, [encode_event(event) for event in told]))
            for queue, told in events.items()
        ]
        numbers = {queue: await number for queue, number in appended}
        receipts: dict[str, Receipt] = {}
        for queue, told in events.items():
            projection = self._followed(queue)
            if projection is None:
                receipts |= {event.id: _receipt(event, places[queue]) for event in told}
                continue
            await projection.includes(numbers[queue])
            for event in told:
                receipts[event.id] = await self._exact(projection, event, places[queue])
        return receipts

    def _parcel(self, task: Task) -> Parcel:
        wait = 0.0 if task.not_before is None else max(0.0, task.not_before - time.time())
        return Parcel(task.queue, self._message(task), wait)

    def _message(self, task: Task) -> Message:
        external = self._external(task.queue)
        return pack(task) if external is None else pack(task, replies=self._driver.replies_to(task.queue))

    async def _exact(self, projection: Projection, event: TaskEvent, before: Cursor) -> Receipt:
        """Told by the fold: whose first event it took, and where that is."""
        known = await projection.known(event.id)
        try:
            if known is not None:
                return await self._told(projection, event, known)
        except ResetRequired:
            pass
        return _receipt(event, before)  # Trimmed already, or refused for being forged: nothing more is known.

    async def _told(self, projection: Projection, event: TaskEvent, known: Known) -> Receipt:
        if event.task.fingerprint is not None and known.fingerprint != event.task.fingerprint:
            status = await projection.status(event.id)
            if status is not None:
                return Receipt(event.id, status.state, status.cursor, created=False)
        body = await projection.at(known.first)
        first = decode_event(body)
        state = first.task.state if isinstance(first, TaskEvent) else event.task.state
        return Receipt(event.id, state, cursor_at(projection.identity, known.first, body), created=True)

    async def _place(self, queue: str) -> Cursor:
        """A place before whatever happens from now on; an old one is as good, but longer to read from."""
        projection = self._followed(queue)
        if projection is not None:
            return await projection.end()
        now = time.monotonic()
        place = self._places.get(queue)
        if place is None or place.asked_at < now - PLACE_SECONDS:
            # One question for all who submit meanwhile: the server answers it in milliseconds, not microseconds.
            place = self._places[queue] = _Place(asyncio.ensure_future(self._driver.recent(queue)), now)
            place.cursor.add_done_callback(partial(self._forget_failed, queue, place))
        return place.cursor.result() if place.cursor.done() else await asyncio.shield(place.cursor)

    def _forget_failed(self, queue: str, place: _Place, answer: asyncio.Future[Cursor]) -> None:
        if (answer.cancelled() or answer.exception() is not None) and self._places.get(queue) is place:
            del self._places[queue]


def _receipt(event: TaskEvent, place: Cursor) -> Receipt:
    return Receipt(event.id, event.task.state, place, created=True)


def _again(receipt: Receipt) -> Receipt:
    return Receipt(receipt.id, receipt.state, receipt.cursor, created=False)


def _is_same(known: str | None, work: str) -> bool:
    return known is None or known.partition(".")[0] == work
