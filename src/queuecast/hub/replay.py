"""The replay: reads the log for one client whose place is not in the window, and takes it there.

It reads on until the window holds its place; from there on the client goes on like all others. Since a place is one
offset per queue, and both sides give the same entry the same offset, nothing is left out or repeated where they meet.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

from ..brokers.base import Entry, verify
from ..codec import encode_value
from ..cursor import Cursor, beginning, cursor_at
from ..errors import BrokerError, ResetRequired
from .frame import event_frame, reset_frame
from .place import Place, text_of
from .window import CHUNK_BYTES

if TYPE_CHECKING:
    from .fanout import Fanout
    from .subscription import Subscription

logger = logging.getLogger(__name__)


class Replay:
    """A task for as long as one client is behind the window. Begins after `place`."""

    __slots__ = ("_fanout", "_mark", "_pieces", "_place", "_size", "_sub", "_task", "_verified", "_writable")

    def __init__(self, fanout: Fanout, sub: Subscription, place: Place, verified: bool) -> None:
        self._fanout = fanout
        self._sub = sub
        self._place = dict(place)
        self._verified = verified
        self._writable = asyncio.Event()
        self._mark = b"" if sub.task is None else bytes(encode_value(sub.task))
        """Bytes that every event of the followed task contains."""
        self._pieces: list[bytes] = []
        self._size = 0
        self._task = asyncio.create_task(self._run(), name=f"queuecast replay {text_of(place)}")

    def wake(self) -> None:
        """The client takes more."""
        self._writable.set()

    def stop(self) -> None:
        if self._task is not asyncio.current_task():
            self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._go()
        except BrokerError as error:
            logger.warning("a stream cannot be replayed: %s", error)
            self._sub.close("broker")
        except Exception:
            logger.exception("a replay failed")
            self._sub.abort("failed")

    async def _go(self) -> None:
        while not self._sub.closed:
            try:
                if not self._verified or self._is_of_another_log():
                    await self._verify()
                if self._join():
                    return
                await self._fanout.reached(self._place)
                for queue, end in dict(self._fanout.window.at).items():
                    await self._read(queue, end.offset)
            except ResetRequired as reset:
                await self._reset(reset.reason)
            await self._until_writable()

    def _is_of_another_log(self) -> bool:
        at = self._fanout.window.at
        return any(cursor.identity != at[queue].identity for queue, cursor in self._place.items())

    def _join(self) -> bool:
        index = self._fanout.window.find(self._place)
        if index is None:
            return False
        self._fanout.go_on(self._sub, index)
        return True

    async def _until_writable(self) -> None:
        """Holding no page and no reader meanwhile: a slow client costs its socket's buffer and this task."""
        while not self._sub.ready:
            self._writable.clear()
            await self._writable.wait()
            self._verified = False

    async def _verify(self) -> None:
        """The log may have changed since: it is compared with what was last read of it."""
        for queue, cursor in self._place.items():
            if cursor != beginning(cursor.identity, cursor.offset) and not self._fanout.window.holds(queue, cursor):
                async with self._fanout.gate:
                    await verify(self._fanout.broker, queue, cursor)
        self._verified = True

    async def _read(self, queue: str, until: int) -> None:
        """Write what lies in the log up to this offset; stop where the client does not take more."""
        if self._sub.closed or not self._sub.ready or self._place[queue].offset >= until:
            return
        async with self._fanout.gate, aclosing(self._fanout.broker.read(queue, self._place[queue].offset)) as pages:
            async for page in pages:
                await self._write_page(queue, page, until)
                if self._sub.closed or not self._sub.ready or self._place[queue].offset >= until:
                    return

    async def _write_page(self, queue: str, page: list[Entry], until: int) -> None:
        for entry in page:
            if entry.offset > until:
                break
            self._take(queue, entry)
            if self._size >= CHUNK_BYTES:
                await self._flush()
            if self._sub.closed or not self._sub.ready:
                return
        await self._flush()

    def _take(self, queue: str, entry: Entry) -> None:
        sub = self._sub
        cursor = self._place[queue] = cursor_at(self._place[queue].identity, entry.offset, entry.body)
        if self._mark not in entry.body:
            return
        frame = event_frame(queue, entry.body, str(cursor), text_of(self._place), self._fanout.window.named)
        if not frame.concerns(sub.task, sub.owner):
            return
        self._pieces.append(frame.data)
        self._size += len(frame.data)
        if frame.final and sub.task is not None:
            self._write()
            sub.close("finished")

    async def _flush(self) -> None:
        self._write()
        # The transport takes it when the loop comes round, and then says whether it takes more.
        await asyncio.sleep(0)

    def _write(self) -> None:
        self._sub.cursor = text_of(self._place)
        if self._pieces and not self._sub.closed:
            self._sub.wrote_at = asyncio.get_running_loop().time()
            self._sub.write(b"".join(self._pieces))
        self._pieces.clear()
        self._size = 0

    async def _reset(self, reason: str) -> None:
        """Tell the client what it missed the log for, and go on."""
        self._write()
        asked = text_of(self._place)
        self._place = {queue: await self._going_on(queue, cursor) for queue, cursor in self._place.items()}
        self._verified = True
        self._sub.cursor = text_of(self._place)
        self._sub.write(reset_frame(reason, asked, self._sub.cursor))

    async def _going_on(self, queue: str, cursor: Cursor) -> Cursor:
        try:
            await verify(self._fanout.broker, queue, cursor)
        except ResetRequired as reset:
            return await going_on(self._fanout, queue, reset.reason)
        return cursor


async def going_on(fanout: Fanout, queue: str, reason: str) -> Cursor:
    """Where a stream goes on after a reset: at the oldest event that is left where its own were trimmed, so that it
    misses no more than it must; else at the end, since nothing before it is known to be new to the client."""
    if reason != "trimmed":
        return fanout.window.at[queue]
    bounds = await fanout.broker.bounds(queue)
    return beginning(bounds.identity, bounds.first - 1)
