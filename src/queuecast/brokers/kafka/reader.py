"""Reading a log: from a cursor on, and where it begins and ends.

An event's offset is Kafka's plus one, which is where whoever has seen it goes on: so 0 is the place before the first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from ...cursor import Cursor, beginning, cursor_at, digest
from ...errors import BrokerError, BrokerUnavailable, ResetRequired
from ..base import Entry
from ..folded.driver import Page
from .tail import Feed, Tails
from .topics import Extent, Topics

logger = logging.getLogger(__name__)

NO_DIGEST: Final = "0"
"""Of a cursor at a place without an event (`cursor.beginning`)."""

READ_SECONDS: Final = 10.0
"""Seconds for a record that is there to arrive."""

WATCH_SECONDS: Final = 2.0
"""How often it is looked whether the topics that are read are still the same."""


async def pages(
    tails: Tails, topic: str, after: Cursor, look: Callable[[], Awaitable[Extent]]
) -> AsyncGenerator[Page, None]:
    """See `Driver.read`. `look` tells the topic as it is now."""
    extent = await look()
    compared = after.digest != NO_DIGEST
    start = after.offset - compared
    _check(after.identity, start, after.offset, extent)
    feed = tails.open(topic, start, extent.identity)
    reached = after.offset
    try:
        if compared:
            first, *entries = await _some(feed)
            if first.offset != after.offset or digest(first.body) != after.digest:
                raise ResetRequired("diverged")
        else:
            entries = []
        while True:
            reached = entries[-1].offset if entries else reached
            yield Page(entries, reached, reached)
            entries = await feed.take()
    except BrokerUnavailable:
        # The client's word for what has happened may be any; the topic as it is now shows whether there is more to it.
        _check(extent.identity, reached, reached, await look())
        raise
    finally:
        feed.close()


def _check(identity: str | None, start: int, end: int, extent: Extent) -> None:
    """Whether a reader at this place has missed nothing. Raises `ResetRequired`."""
    if identity is not None and identity != extent.identity:
        raise ResetRequired("other-log")
    if start < extent.low:
        raise ResetRequired("trimmed")
    if end > extent.high:
        raise ResetRequired("ahead")


async def recent(tails: Tails, topic: str, extent: Extent) -> Cursor:
    """See `Driver.recent`. Raises `BrokerUnavailable`."""
    if extent.high <= extent.low:
        return beginning(extent.identity, extent.high)
    feed = tails.open(topic, extent.high - 1, extent.identity)
    try:
        return cursor_at(extent.identity, *(await _some(feed))[0])
    finally:
        feed.close()


async def _some(feed: Feed) -> list[Entry]:
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await feed.take()
    except TimeoutError as error:
        raise BrokerUnavailable(f"Kafka did not deliver what is in {feed.topic} within {READ_SECONDS:.0f} s") from error


async def watch(tails: Tails, topics: Topics) -> None:
    """Tell those who read a topic which is gone, or another one of its name. Never ends."""
    gone: set[str] = set()
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        feeds = tails.feeds
        if not feeds:
            continue
        try:
            identities = await topics.identities({feed.topic for feed in feeds})
        except BrokerError as error:
            logger.debug("the topics that are read cannot be looked at: %s", error)
            continue
        # The broker that was asked may not have heard yet of one that is new: what it does not know is asked for again.
        missing = {topic for topic, identity in identities.items() if identity is None}
        for feed in feeds:
            if identities[feed.topic] != feed.identity and feed.topic not in missing - gone:
                feed.fail(ResetRequired("other-log"))
        gone = missing
