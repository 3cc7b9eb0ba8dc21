"""The frames that are sent for every message, as bytes (AMQP 0-9-1, sections 2.3 and 4.2).

pika makes an object of each frame and checks every argument: half of what a publish costs. It also cannot send a float.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from struct import pack
from typing import Final

from ...errors import InvalidInput
from ..folded.wire import Header

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
END: Final = b"\xce"
FRAME_OVERHEAD: Final = 8
"""Bytes of a frame that are not its payload."""

KEPT: Final = 1_024
"""Pieces of frames that are kept, since thousands of messages have the same. The one not used for longest goes."""

_BASIC: Final = 60
_PUBLISH: Final = 40
_ACK: Final = 80
_NACK: Final = 120

_CONTENT_TYPE: Final = 1 << 15
_HEADERS: Final = 1 << 13
_DELIVERY_MODE: Final = 1 << 12
_CORRELATION_ID: Final = 1 << 10
_REPLY_TO: Final = 1 << 9
_MESSAGE_ID: Final = 1 << 7
_TIMESTAMP: Final = 1 << 6
_TYPE: Final = 1 << 5

_PERSISTENT: Final = b"\x02"


@lru_cache(maxsize=KEPT)
def publish(channel: int, exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
    payload = pack(">HHH", _BASIC, _PUBLISH, 0) + _short(exchange) + _short(routing_key) + pack("B", mandatory)
    return pack(">BHL", METHOD, channel, len(payload)) + payload + END


def content(channel: int, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """A message's header and its body, in as many frames as the server's limit makes of it."""
    size = len(body)
    header = pack(">BHLHHQ", HEADER, channel, 12 + len(properties), _BASIC, 0, size)
    room = frame_max - FRAME_OVERHEAD
    pieces = [header, properties, END]
    if size <= room:
        if size:
            pieces += (pack(">BHL", BODY, channel, size), body, END)
        return b"".join(pieces)
    for start in range(0, size, room):
        piece = body[start : start + room]
        pieces += (pack(">BHL", BODY, channel, len(piece)), piece, END)
    return b"".join(pieces)


def properties(
    *,
    content_type: str | None = None,
    headers: Mapping[str, Header] | None = None,
    correlation_id: str | None = None,
    reply_to: str | None = None,
    id: str | None = None,
    timestamp: int,
    name: str | None = None,
) -> bytes:
    """Of a persistent message. Raises `InvalidInput` for what does not fit."""
    flags = _DELIVERY_MODE | _TIMESTAMP
    pieces = [b""]
    if content_type is not None:
        flags |= _CONTENT_TYPE
        pieces.append(_kept(content_type))
    if headers:
        flags |= _HEADERS
        pieces.append(table(headers))
    pieces.append(_PERSISTENT)
    if correlation_id is not None:
        flags |= _CORRELATION_ID
        pieces.append(_short(correlation_id))
    if reply_to is not None:
        flags |= _REPLY_TO
        pieces.append(_kept(reply_to))
    if id is not None:
        flags |= _MESSAGE_ID
        pieces.append(_short(id))
    pieces.append(pack(">Q", timestamp))
    if name is not None:
        flags |= _TYPE
        pieces.append(_kept(name))
    pieces[0] = pack(">H", flags)
    return b"".join(pieces)


def table(headers: Mapping[str, Header]) -> bytes:
    """A float goes as its text: few clients can read AMQP's own, and pika cuts off what is behind the point."""
    pieces = []
    for key, value in headers.items():
        if isinstance(value, int):
            pieces.append(_whole(key, value))
        else:
            text = (value if isinstance(value, str) else repr(value)).encode()
            pieces += (_kept(key), b"S", pack(">L", len(text)), text)
    payload = b"".join(pieces)
    return pack(">L", len(payload)) + payload


@lru_cache(maxsize=KEPT, typed=True)
def _whole(key: str, value: int) -> bytes:
    if isinstance(value, bool):
        return _kept(key) + (b"t\x01" if value else b"t\x00")
    if not -(1 << 63) <= value < 1 << 63:
        raise InvalidInput(f"the header {key} is {value}: AMQP allows 64 bits")
    return _kept(key) + pack(">cq", b"l", value)


def ack(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    return pack(">BHLHHQB", METHOD, channel, 13, _BASIC, _ACK, tag, multiple) + END


def nack(channel: int, tag: int) -> bytes:
    """To be handed out again."""
    return pack(">BHLHHQB", METHOD, channel, 13, _BASIC, _NACK, tag, 2) + END


@lru_cache(maxsize=KEPT)
def _kept(text: str) -> bytes:
    return _short(text)


def _short(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > 255:
        raise InvalidInput(f"{text[:40]}… takes {len(encoded)} bytes; AMQP allows 255")
    return bytes((len(encoded),)) + encoded
