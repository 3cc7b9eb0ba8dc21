"""What arrives for every message, read without pika: deliveries, with what is in them, and confirms (AMQP 0-9-1, 2.3).

pika makes an object of each of a delivery's three frames, and of every number in it: a third of what a task costs a
worker. All other frames are handed on to it as they came.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from struct import Struct
from struct import error as StructError
from typing import Final, TypeAlias

from ..folded.wire import Header, Message
from .frames import BODY, END, FRAME_OVERHEAD, HEADER, METHOD

OnMessage: TypeAlias = Callable[[int, bool, Message], None]
"""A delivery's tag, whether it was handed out before, and what was handed out."""

OnAck: TypeAlias = Callable[[int, bool], None]
"""A confirm's tag, and whether it stands for all before it as well."""

SLICE_BYTES: Final = 16_384
"""Bytes given to pika at once. It cuts each frame from the front of what it has, which a large buffer makes slow."""

_DELIVER: Final = (60 << 16) + 60
_ACK: Final = (60 << 16) + 80

_FRAME: Final = Struct(">BHL")
_LONG: Final = Struct(">L")
_TAG: Final = Struct(">QB")
_SIZE: Final = Struct(">Q")
_END: Final = END[0]

_WHOLE: Final = {
    kind: Struct(form)
    for kind, form in zip(b"bBUsuIilL", (">b", ">B", ">h", ">h", ">H", ">i", ">I", ">q", ">q"), strict=True)
}
"""The integers that RabbitMQ's tables hold (the errata's letters, not those of the specification)."""
_REAL: Final = {kind: Struct(form) for kind, form in zip(b"fd", (">f", ">d"), strict=True)}
_SKIPPED: Final = {ord("D"): 5, ord("T"): 8, ord("V"): 0}
"""Bytes of values that we have no use for."""
_SIZED: Final = b"SxAF"
_TEXT: Final = ord("S")
_BOOL: Final = ord("t")


class Receiver:
    """What is read of one channel."""

    def __init__(self, on_message: OnMessage | None = None, on_ack: OnAck | None = None) -> None:
        self._on_message = on_message
        self._on_ack = on_ack
        self._tag = 0
        """Of the delivery that is being read; 0 between two."""
        self._again = False
        self._head = b""
        self._missing = 0
        self._pieces: list[bytes] = []

    def takes(self, kind: int, data: bytes, start: int, end: int) -> bool:
        """Whether this frame, with its payload from `start` to `end`, was for us."""
        if kind == METHOD:
            return self._takes_method(data, start)
        if not self._tag:
            return False  # of a message that pika was told of
        if kind == HEADER:
            (self._missing,) = _SIZE.unpack_from(data, start + 4)
            self._head = data[start + 12 : end]
            self._pieces.clear()
        else:
            self._pieces.append(data[start:end])
            self._missing -= end - start
        if self._missing <= 0:
            self._hand_over()
        return True

    def _takes_method(self, data: bytes, start: int) -> bool:
        (method,) = _LONG.unpack_from(data, start)
        if method == _DELIVER and self._on_message:
            self._tag, again = _TAG.unpack_from(data, start + 5 + data[start + 4])  # behind the consumer's tag
            self._again = bool(again & 1)
            return True
        if method == _ACK and self._on_ack:
            tag, multiple = _TAG.unpack_from(data, start + 4)
            self._on_ack(tag, bool(multiple))
            return True
        return False

    def _hand_over(self) -> None:
        assert self._on_message
        tag, self._tag = self._tag, 0
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._on_message(tag, self._again, message(self._head, body))


class Incoming:
    """Cuts what arrives into frames, and hands on to pika what nobody here takes."""

    def __init__(self, rest: Callable[[bytes], object]) -> None:
        self.receivers: dict[int, Receiver] = {}
        """By their channel's number."""
        self.on_taken: Callable[[int], object] = lambda _: None
        """Is told how many bytes were kept from pika."""
        self._rest = rest
        self._left = b""

    def feed(self, data: bytes) -> None:
        if self._left:
            data = self._left + data
        size = len(data)
        start = passed = taken = 0
        receivers = self.receivers
        while size - start >= FRAME_OVERHEAD:
            kind, channel, length = _FRAME.unpack_from(data, start)
            if kind > 8:
                start = size  # no frame: a server that speaks another protocol
                break
            end = start + FRAME_OVERHEAD + length
            if end > size:
                break
            receiver = receivers.get(channel)
            if receiver and kind <= BODY and data[end - 1] == _END:
                if passed < start:
                    self._pass_on(data, passed, start)
                    passed = start
                if receiver.takes(kind, data, start + 7, end - 1):
                    taken += end - start
                    passed = end
            start = end
        if passed < start:
            self._pass_on(data, passed, start)
        self._left = data[start:]
        if taken:
            self.on_taken(taken)

    def _pass_on(self, data: bytes, start: int, end: int) -> None:
        for place in range(start, end, SLICE_BYTES):
            self._rest(data[place : min(place + SLICE_BYTES, end)])


def message(head: bytes, body: bytes) -> Message:
    """Of a content header from its flags on. What is no text, or among the headers no scalar, is left out.

    RabbitMQ hands on what it has not looked at. Where that is broken, there is nothing but the body.
    """
    try:
        return _message(head, body)
    except (IndexError, StructError):
        return Message(body=body)


def _message(head: bytes, body: bytes) -> Message:
    flags = (head[0] << 8) + head[1]
    place = 2
    while head[place - 1] & 1:
        place += 2  # more flags, of which there are none
    content_type = correlation_id = reply_to = id = name = None
    headers: dict[str, Header] = {}
    if flags & 0x8000:
        content_type, place = _short(head, place)
    if flags & 0x4000:
        place += 1 + head[place]
    if flags & 0x2000:
        (length,) = _LONG.unpack_from(head, place)
        place += 4
        headers = table(head, place, place + length)
        place += length
    place += (flags >> 12 & 1) + (flags >> 11 & 1)  # the delivery mode and the priority
    if flags & 0x0400:
        correlation_id, place = _short(head, place)
    if flags & 0x0200:
        reply_to, place = _short(head, place)
    if flags & 0x0100:
        place += 1 + head[place]
    if flags & 0x0080:
        id, place = _short(head, place)
    if flags & 0x0040:
        place += 8
    if flags & 0x0020:
        name, place = _short(head, place)
    return Message(
        body=body,
        id=id,
        name=name,
        content_type=content_type,
        reply_to=reply_to,
        correlation_id=correlation_id,
        headers=headers,
    )


def _short(data: bytes, place: int) -> tuple[str | None, int]:
    end = place + 1 + data[place]
    try:
        return data[place + 1 : end].decode(), end
    except UnicodeDecodeError:
        return None, end


def table(data: bytes, place: int, end: int) -> dict[str, Header]:
    """The scalars of a table whose fields lie between these places."""
    found: dict[str, Header] = {}
    while place < end:
        key, place = _short(data, place)
        kind = data[place]
        value: Header | None = None
        place += 1
        if kind in _SIZED:
            begin = place + 4
            place = begin + _LONG.unpack_from(data, place)[0]
            if kind == _TEXT:
                with suppress(UnicodeDecodeError):
                    value = data[begin:place].decode()
        elif form := _WHOLE.get(kind) or _REAL.get(kind):
            (value,) = form.unpack_from(data, place)
            place += form.size
        elif kind == _BOOL:
            value = bool(data[place])
            place += 1
        elif kind in _SKIPPED:
            place += _SKIPPED[kind]
        else:
            break  # nobody knows where the next one begins
        if key is not None and value is not None:
            found[key] = value
    return found
