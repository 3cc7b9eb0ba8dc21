"""Single events out of a log: from the ring, else from the server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from typing import Final

from ...cursor import beginning
from ...errors import BrokerUnavailable, ResetRequired
from .driver import Driver
from .ring import Ring

GAP: Final = 16_384
"""Offsets that are read through on the way to the next event; over a wider gap another read begins."""

READERS: Final = 4
"""Reads of one log at once. Others wait for their turn."""

READ_SECONDS: Final = 10.0
"""How long one read may take; then it is `BrokerUnavailable`."""


class Bodies:
    def __init__(self, driver: Driver, queue: str) -> None:
        self._driver = driver
        self._queue = queue
        self._gate = asyncio.Semaphore(READERS)

    async def at(self, offsets: Iterable[int], ring: Ring, identity: str | None) -> dict[int, bytes]:
        """The events at these offsets, without those that the server has trimmed. Raises `BrokerUnavailable`."""
        found: dict[int, bytes] = {}
        missing = []
        for offset in sorted(offsets):
            body = ring.body(offset)
            if body is None:
                missing.append(offset)
            else:
                found[offset] = body
        reads = [self._read(group, identity) for group in _neighbours(missing)]
        for more in await asyncio.gather(*reads):
            found |= more
        return found

    async def _read(self, offsets: list[int], identity: str | None) -> dict[int, bytes]:
        try:
            async with self._gate, asyncio.timeout(READ_SECONDS):
                while offsets:
                    try:
                        return await self._read_from(offsets, identity)
                    except ResetRequired as reset:
                        if reset.reason != "trimmed":
                            break
                        offsets = offsets[1:]
        except TimeoutError as error:
            raise BrokerUnavailable(f"the log of {self._queue} cannot be read for now") from error
        return {}

    async def _read_from(self, offsets: list[int], identity: str | None) -> dict[int, bytes]:
        wanted, found = set(offsets), {}
        async with aclosing(self._driver.read(self._queue, beginning(identity, offsets[0] - 1))) as pages:
            async for page in pages:
                found.update({entry.offset: entry.body for entry in page.entries if entry.offset in wanted})
                if page.entries and page.entries[-1].offset >= offsets[-1]:
                    break
        return found


def _neighbours(offsets: list[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    for offset in offsets:
        if groups and offset - groups[-1][-1] <= GAP:
            groups[-1].append(offset)
        else:
            groups.append([offset])
    return groups
