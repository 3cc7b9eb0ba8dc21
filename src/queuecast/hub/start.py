"""Where a stream starts: at its client's cursor if that can be honoured, else where a reset says.

A client asks by its `Last-Event-ID`, or by `?after=<cursor>|first|last`; without either a queue's stream starts at
`last`, with what comes from now on, and a task's at `first`. A cursor that cannot be honoured is answered in the
stream, never by a status that would end a native EventSource for good.
"""

from __future__ import annotations

from typing import NamedTuple

from ..brokers.base import Status, verify
from ..cursor import Cursor, beginning
from ..errors import ResetRequired
from ..task import FINAL_STATES
from .fanout import Fanout
from .place import Place, parse_place, text_of
from .replay import going_on


class Start(NamedTuple):
    """A place that is good to go on from.

    `id` is what the stream opens with: empty where there is no event yet that the place could be compared with.
    `reset` is the reason why it is not the place that was `asked` for. `told`: the task has ended and the client
    knows, so there is nothing to stream. Not `known`: no such task, so far.
    """

    place: Place
    id: str = ""
    asked: str = ""
    reset: str = ""
    resumed: bool = False
    told: bool = False
    known: bool = True


async def start_of_queues(fanout: Fanout, asked: str) -> Start:
    """Raises `BrokerError`."""
    if asked in {"", "last"}:
        place = dict(fanout.window.at)
        return Start(place, text_of(place))
    if asked == "first":
        place = {queue: await _oldest(fanout, queue) for queue in fanout.window.queues}
        return Start(place, text_of(place))
    place, reason = await _honour(fanout, asked)
    return Start(place, text_of(place), asked, reason, resumed=True)


async def start_of_task(fanout: Fanout, status: Status | None, origin: Place, asked: str) -> Start:
    """`origin` is a place from before the status was looked up: an unknown task can only begin after it."""
    if status is None:
        return Start(origin, text_of(origin), known=False)
    over = status.state in FINAL_STATES
    if asked == "last":
        return Start(origin, text_of(origin), told=over)
    begin = await _beginning_of(fanout, status)
    if asked in {"", "first"}:
        return Start(begin)
    place, reason = await _honour(fanout, asked)
    if reason:
        return Start(begin, "", asked, reason, resumed=True)
    told = over and place[status.queue].offset >= status.cursor.offset
    return Start(place, text_of(place), asked, resumed=True, told=told)


async def _honour(fanout: Fanout, asked: str) -> tuple[Place, str]:
    """The place that was asked for, or else where to go on, and the reason."""
    try:
        place = parse_place(asked, fanout.window.queues)
    except ResetRequired as reset:
        return dict(fanout.window.at), reset.reason
    reason = ""
    for queue, cursor in place.items():
        try:
            await _check(fanout, queue, cursor)
        except ResetRequired as reset:
            place[queue] = await going_on(fanout, queue, reset.reason)
            reason = reason or reset.reason
    return place, reason


async def _check(fanout: Fanout, queue: str, cursor: Cursor) -> None:
    if not fanout.window.holds(queue, cursor):
        async with fanout.gate:
            await verify(fanout.broker, queue, cursor)


async def _oldest(fanout: Fanout, queue: str) -> Cursor:
    bounds = await fanout.broker.bounds(queue)
    return beginning(bounds.identity, bounds.first - 1)


async def _beginning_of(fanout: Fanout, status: Status) -> Place:
    oldest = await _oldest(fanout, status.queue)
    return {status.queue: oldest._replace(offset=max(oldest.offset, status.first - 1))}
