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
from .feed import Feed
from .line import ANSWER_SECONDS
from .link import Link
from .publisher import Publisher
from .tasks import Addressed, put

LOOK_SECONDS: Final = 2.0
"""Seconds of silence after which a new reader asks whether the log ends before its place: RabbitMQ never says so."""

FIRST_STEP: Final = 4
"""Entries that are looked at from the end of a log for an event; then twice as many, and so on."""

NO_DIGEST: Final = "0"
"""Of a cursor at a place without an event (`cursor.beginning`)."""


async def pages(link: Link, publisher: Publisher, stream: str, after: Cursor, token: str) -> AsyncGenerator[Page, None]:
    """See `Driver.read`. `token` is the header of what this very driver has appended."""
    place, seen = entry.place_of(after.offset)
    feed = await Feed.open(link, stream, place)
    try:
        arrived = await feed.take(LOOK_SECONDS)
        if not arrived:
            end = await _end(link, publisher, stream)
            if end < place or (seen and end <= place):
                raise ResetRequired("ahead")
            arrived = await feed.take()
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


async def recent(link: Link, publisher: Publisher, stream: str) -> Cursor:
    """See `Driver.recent`. Goes back over entries without events. Raises `BrokerUnavailable`."""
    end = await _end(link, publisher, stream)
    back = FIRST_STEP
    while True:
        start = max(0, end - back)
        pieces = await _between(link, stream, start, end)
        for piece in reversed(pieces):
            if entries := entry.events(piece):
                return cursor_at(None, *entries[-1])
        if start == 0 or not pieces or pieces[0].place > start:  # what lay before is trimmed
            return beginning(None, entry.before(end))
        back *= 2


async def _between(link: Link, stream: str, start: int, end: int) -> list[Piece]:
    """The entries from one place to before another, which is there as well."""
    feed = await Feed.open(link, stream, start)
    pieces: list[Piece] = []
    try:
        while not pieces or pieces[-1].place < end:
            pieces += await _some(feed)
        return [piece for piece in pieces if piece.place < end]
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
    """Where a log begins and ends. Raises `BrokerUnavailable`."""
    end = await _end(link, publisher, stream)
    return Bounds(entry.first_of(await _first_place(link, stream)), entry.before(end), None)


async def _end(link: Link, publisher: Publisher, stream: str) -> int:
    """The place of an empty entry of our own: whatever was durable lies before it.

    Reading from "last" would not do: it gives the last chunk, of a replica that may be behind its leader, and a reader
    that gets nothing more cannot know that there is nothing more.
    """
    feed = await Feed.open(link, stream, "next")
    try:
        return await _mark(feed, publisher, stream)
    finally:
        await feed.close()


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


async def _first_place(link: Link, stream: str) -> int:
    """Of a log that has an entry. Whether it holds events does not matter: none has been trimmed that lay after it."""
    feed = await Feed.open(link, stream, "first")
    try:
        return (await _some(feed))[0].place
    finally:
        await feed.close()


async def _some(feed: Feed) -> list[Piece]:
    """Of a feed in which there is something."""
    arrived = await feed.take(ANSWER_SECONDS)
    if not arrived:
        raise BrokerUnavailable(f"RabbitMQ did not deliver what is in a stream within {ANSWER_SECONDS:.0f} s")
    return arrived
