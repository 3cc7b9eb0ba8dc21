"""Reading a log: from a cursor on, and where it begins and ends."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from typing import Final

from ...cursor import Cursor, beginning, cursor_at, digest
from ...errors import BrokerUnavailable, OutcomeUnknown, ResetRequired
from ..base import Bounds, Entry
from ..folded.driver import Page
from ..folded.wire import Message
from . import entry
from .entry import Piece
from .feed import CREDIT, Feed
from .line import ANSWER_SECONDS
from .link import Link
from .publisher import Publisher
from .tasks import Addressed, put

LOOK_SECONDS: Final = 2.0
"""Seconds of silence after which a new reader asks whether the log ends before its place: RabbitMQ never says so."""

NO_DIGEST: Final = "0"
"""Of a cursor at a place without an event (`cursor.beginning`)."""


async def pages(link: Link, stream: str, after: Cursor, token: str) -> AsyncGenerator[Page, None]:
    """See `Driver.read`. `token` is the header of what this very driver has appended."""
    place, seen = entry.place_of(after.offset)
    feed = await Feed.open(link, stream, place)
    try:
        arrived = await _first(link, stream, feed, place, seen)
        first = arrived[0]
        if first.place > place:
            raise ResetRequired("trimmed")
        _compare(first, seen, after)
        skip, own = seen, 0
        while True:
            entries: list[Entry] = []
            for piece in arrived:
                entries += entry.events(piece, skip)
                skip = 0
            own = _number(arrived, token) or own
            yield Page(entries, entry.last_of(arrived[-1].place), own)
            arrived = await feed.take()
    finally:
        await feed.close()


async def _first(link: Link, stream: str, feed: Feed, place: int, seen: int) -> list[Piece]:
    """What arrives first. Raises `ResetRequired` ("ahead") where the log ends before the place."""
    arrived = await feed.take(LOOK_SECONDS)
    if not arrived:
        end = await _end(link, stream)
        if end < place or (seen and end <= place):
            raise ResetRequired("ahead")
    while not arrived:
        arrived = await feed.take()
    return arrived


async def _end(link: Link, stream: str) -> int:
    """The offset in the stream after what can be seen of it."""
    pieces = await _ready(link, stream, "last")
    return pieces[-1].place + 1 if pieces else 0


async def recent(link: Link, stream: str) -> Cursor:
    """See `Driver.recent`. Goes back over entries without events. Raises `BrokerUnavailable`."""
    pieces = await _ready(link, stream, "last")
    back = CREDIT
    while pieces and not any(piece.body for piece in pieces) and pieces[0].place:
        start = max(0, pieces[0].place - back)
        earlier = await _ready(link, stream, start, pieces[0].place)
        if not any(piece.body for piece in earlier) and (not earlier or earlier[0].place > start):
            break  # what lay before is trimmed
        pieces, back = earlier, 2 * back
    for piece in reversed(pieces):
        if entries := entry.events(piece):
            return cursor_at(None, *entries[-1])
    return beginning(None, entry.before(pieces[-1].place) if pieces else 0)


async def _ready(link: Link, stream: str, start: int | str, end: int | None = None) -> list[Piece]:
    """What the server has from some place on, up to an entry where one is given."""
    feed = await Feed.open(link, stream, start)
    pieces: list[Piece] = []
    try:
        while arrived := await feed.take_ready():
            pieces += arrived
            if end is not None and arrived[-1].place >= end:
                return [piece for piece in pieces if piece.place < end]
        return pieces
    finally:
        await feed.close()


def _compare(piece: Piece, seen: int, after: Cursor) -> None:
    """Whether the log still has the cursor's event where it was."""
    if not seen or after.digest == NO_DIGEST:
        return
    entries = entry.events(piece)
    if len(entries) < seen or digest(entries[seen - 1].body) != after.digest:
        raise ResetRequired("diverged")


def _number(arrived: list[Piece], token: str) -> int:
    for piece in reversed(arrived):
        if piece.headers.get(entry.FROM) == token:
            return int(str(piece.headers.get(entry.NUMBER, 0)))
    return 0


async def bounds(link: Link, publisher: Publisher, stream: str) -> Bounds:
    """Where a log begins and ends. An empty entry of our own tells the end: whatever was durable lies before it.

    Reading from "last" would not do: it gives the last chunk, of a replica that may be behind its leader, and a reader
    that gets nothing more cannot know that there is nothing more. Raises `BrokerUnavailable`.
    """
    feed = await Feed.open(link, stream, "next")
    try:
        end = await _mark(feed, publisher, stream)
    finally:
        await feed.close()
    return Bounds(await _first_event(link, stream, end), entry.before(end), None)


async def _mark(feed: Feed, publisher: Publisher, stream: str) -> int:
    mark = secrets.token_hex(8)
    message = Message(body=b"", content_type=entry.CONTENT_TYPE, headers={entry.MARK: mark})
    try:
        await put(publisher, [Addressed("", stream, message)])
    except OutcomeUnknown as error:
        raise BrokerUnavailable(str(error)) from error
    while True:
        for piece in await _some(feed):
            if piece.headers.get(entry.MARK) == mark:
                return piece.place


async def _first_event(link: Link, stream: str, end: int) -> int:
    """The offset of the first event before an entry, or of that entry's where there is none."""
    feed = await Feed.open(link, stream, "first")
    try:
        while True:
            for piece in await _some(feed):
                if piece.body or piece.place >= end:
                    return entry.first_of(min(piece.place, end))
    finally:
        await feed.close()


async def _some(feed: Feed) -> list[Piece]:
    """Of a feed in which there is something."""
    arrived = await feed.take(ANSWER_SECONDS)
    if not arrived:
        raise BrokerUnavailable(f"RabbitMQ did not deliver what is in a stream within {ANSWER_SECONDS:.0f} s")
    return arrived
