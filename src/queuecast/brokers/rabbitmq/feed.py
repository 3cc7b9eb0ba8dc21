"""What a stream delivers from some place on."""

from __future__ import annotations

import asyncio
from typing import Final

from ...errors import BrokerUnavailable
from ..folded.wire import Message
from . import frames
from .adoption import not_permitted
from .entry import Piece
from .faults import Refused
from .line import Channel
from .link import Link

CREDIT: Final = 100
"""Entries that are delivered before the first of them must be taken."""

OFFSET: Final = "x-stream-offset"


class Feed:
    """Entries as they arrive. What is not taken holds up no more than this feed."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._arrived: list[Piece] = []
        self._tag = 0
        self._ended: BrokerUnavailable | None = None
        self._waiting: asyncio.Future[None] | None = None
        channel.closed.add_done_callback(lambda closed: self._end(closed.result()))

    @classmethod
    async def open(cls, link: Link, stream: str, start: int | str) -> Feed:
        """From an entry's offset on, inclusive, or from "first", "last", "next".

        Raises `ConfigurationError` where it may not be read, `BrokerUnavailable`.
        """
        line = await link.line()
        channel = await line.channel()
        feed = cls(channel)
        raw = channel.raw
        raw.add_on_cancel_callback(lambda _: feed._end(BrokerUnavailable(f"{stream} is gone: it was deleted")))
        try:
            await channel.ask(raw.basic_qos, prefetch_count=CREDIT)
            await channel.consume(stream, feed._arrive, arguments={OFFSET: start})
        except Refused as refusal:
            if "no_local_stream_replica" in refusal.text:
                # Only 3.10: this node has no copy of the stream. Another one has.
                link.move_on(line, refusal)
            raise not_permitted(refusal) from None
        except BaseException:
            await feed.close()
            raise
        return feed

    async def take(self, seconds: float | None = None) -> list[Piece]:
        """What has arrived, once there is something; nothing after so many seconds. Raises `BrokerUnavailable`."""
        if not self._arrived:
            await self._wait(seconds)
        arrived, self._arrived = self._arrived, []
        if arrived:
            self._channel.send(frames.ack(self._channel.number, self._tag, multiple=True))
        elif self._ended:
            raise self._ended
        return arrived

    async def close(self) -> None:
        await self._channel.close()

    async def _wait(self, seconds: float | None) -> None:
        if self._ended:
            return
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            if seconds is None:
                await self._waiting
            else:
                await asyncio.wait([self._waiting], timeout=seconds)
        finally:
            self._waiting = None

    def _arrive(self, tag: int, again: bool, message: Message) -> None:
        headers = message.headers
        self._arrived.append(Piece(int(headers[OFFSET]), headers, message.body))
        self._tag = tag
        self._wake()

    def _end(self, reason: BrokerUnavailable) -> None:
        self._ended = self._ended or reason
        self._wake()

    def _wake(self) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)
