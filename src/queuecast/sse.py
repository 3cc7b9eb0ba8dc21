"""The wire format of Server-Sent Events: what a stream is made of, and how to read one.

Pure: bytes in, bytes or messages out; no sockets, no clock. The rules are those of the WHATWG HTML
standard, §9.2 "Server-sent events" (§9.2.5 parsing, §9.2.6 interpreting an event stream). The examples
in spec/cases/sse-*.json hold every client of this project to the same reading of them.

Writing: `frame`, `id_block`, `retry`, `comment`, `KEEPALIVE`. Reading: `Parser`, `Message`.
"""

from typing import Final

import msgspec

__all__ = [
    "KEEPALIVE",
    "MAX_MESSAGE_BYTES",
    "MAX_RETRY_MS",
    "Message",
    "MessageTooLong",
    "Parser",
    "comment",
    "frame",
    "id_block",
    "retry",
]

#: Holds an idle stream open. One LF only: some clients answer a blank line with an empty message.
KEEPALIVE: Final = b":\n"

#: Bytes (16 MiB) that a `Parser` holds of one message: its data so far and the line that is being read.
#: A stream that goes beyond is refused with `MessageTooLong`.
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024

#: Milliseconds. The largest integer that JavaScript holds exactly, so that all clients agree on it;
#: `retry` refuses more, `Parser` reads more as this.
MAX_RETRY_MS: Final = 2**53 - 1

_BOM: Final = b"\xef\xbb\xbf"
_LINE_ENDS: Final = (b"\n", b"\r")
# As integers, because `10 in data` is ten times faster than `b"\n" in data`.
_LF: Final = 10
_CR: Final = 13


def frame(data: bytes, id: str, event: str | None = None) -> bytes:
    """One message as it goes over the wire: its fields `id`, `event` and `data`, and a blank line.

    `data` is UTF-8, meant for compact JSON. CRLF, CR and LF within it each start another `data` line, which
    a client joins by LF again; so nothing in it can end the message or pose as a field. Without `event`
    (or with an empty one) the client fires its default event, `message`.

    Raises ValueError if `id` or `event` contains CR, LF or NUL, or is not encodable as UTF-8.
    """
    fields = _field("id", id) + _field("event", event) if event else _field("id", id)
    if _LF in data or _CR in data:
        data = _one_line_end(data).replace(b"\n", b"\ndata: ")
    return b"%bdata: %b\n\n" % (fields.encode(), data)


def id_block(id: str) -> bytes:
    """A block without data: it moves the client's last event ID to `id` and fires nothing.

    An empty `id` resets the client's. Raises ValueError as `frame` does.
    """
    return f"{_field('id', id)}\n".encode()


def retry(ms: int) -> bytes:
    """The line that tells a client to wait `ms` milliseconds before it reconnects.

    Like a comment it ends in one LF; write it between frames. It holds as soon as the client has read it.

    Raises ValueError unless 0 <= ms <= MAX_RETRY_MS.
    """
    if not 0 <= ms <= MAX_RETRY_MS:
        raise ValueError(f"retry takes 0 to {MAX_RETRY_MS} milliseconds, not {ms}")
    return b"retry: %d\n" % ms


def comment(text: str = "") -> bytes:
    """`text` as a comment, which clients skip; one comment line per line of it. Without text: `KEEPALIVE`.

    Write it between frames. Raises ValueError if `text` is not encodable as UTF-8.
    """
    if not text:
        return KEEPALIVE
    return b": %b\n" % _one_line_end(text.encode()).replace(b"\n", b"\n: ")


class Message(msgspec.Struct, frozen=True, gc=False):
    """What a client's listener gets: event type, data, and the last event ID as of this message.

    `id` is the cursor of a reader that has handled the message. It is the one of an earlier block if the
    message brought none, and empty if there was never one.
    """

    event: str
    data: str
    id: str


class MessageTooLong(ValueError):
    """A stream sent more bytes without ending the message than its `Parser` may hold."""


class Parser:
    """Reads one event stream, fed as it arrives, however it is cut.

    Every connection needs a parser of its own; pass the `last_event_id` of the one before, because a new
    stream need not repeat it. At the end of a stream just drop the parser: half a message is discarded.

    `last_event_id` is that of the last block ended by a blank line, message or not; `retry_ms` the last valid
    reconnection time in milliseconds, None until there is one. Both run ahead of a caller who has not yet
    handled every message returned: his place in the stream is the `id` of the last one he has.
    """

    __slots__ = (
        "_after_cr",
        "_at_start",
        "_data",
        "_event",
        "_id",
        "_limit",
        "_tail",
        "_too_long",
        "last_event_id",
        "retry_ms",
    )

    def __init__(self, last_event_id: str = "", *, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.last_event_id = last_event_id
        self.retry_ms: int | None = None
        self._id = last_event_id
        self._event = ""
        self._data = bytearray()
        self._tail = bytearray()
        self._at_start = True
        self._after_cr = False
        self._limit = max_message_bytes
        self._too_long = False

    def feed(self, chunk: bytes) -> list[Message]:
        """The messages that `chunk` completes, often none. Takes time linear in what is fed.

        Raises MessageTooLong when a message outgrows `max_message_bytes`, and on every call after that: the
        place of the next message is lost, so close the connection. Messages completed by the same chunk
        are returned first, and the error then meets the next call.
        """
        messages: list[Message] = []
        try:
            self._check_length(0)  # a parser that has failed keeps nothing more
            for line in self._lines(chunk):
                self._check_length(len(line))
                message = self._interpret(line)
                if message is not None:
                    messages.append(message)
            self._check_length(len(self._tail))
        except MessageTooLong:
            if not messages:
                raise
        return messages

    def _lines(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` ends; what follows the last of them waits in `_tail`."""
        rest = chunk[1:] if self._after_cr and chunk.startswith(b"\n") else chunk
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        # Of bytes, unlike of str, splitlines knows no line ends but CRLF, CR and LF.
        lines = rest.splitlines()
        unended = lines.pop() if lines and not rest.endswith(_LINE_ENDS) else b""
        if lines and self._tail:
            lines[0] = bytes(self._tail + lines[0])
            self._tail.clear()
        if lines and self._at_start:
            lines[0] = lines[0].removeprefix(_BOM)
            self._at_start = False
        self._tail += unended
        return lines

    def _check_length(self, line_bytes: int) -> None:
        if self._too_long or len(self._data) + line_bytes > self._limit:
            self._too_long = True
            raise MessageTooLong(f"message of more than {self._limit} bytes in an event stream")

    def _interpret(self, line: bytes) -> Message | None:
        """Takes in one line without its end. A comment is a field without a name, unknown like any other."""
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data += value
            self._data.append(_LF)
        elif name == b"id" and b"\0" not in value:
            self._id = _decode(value)
        elif name == b"event":
            self._event = _decode(value)
        elif name == b"retry" and value.isdigit():
            self.retry_ms = _bounded_int(value)
        return None

    def _dispatch(self) -> Message | None:
        """Ends a block. One without a data field has no message, but its id counts all the same."""
        self.last_event_id = self._id
        event, self._event = self._event, ""
        if not self._data:
            return None
        message = Message(event or "message", _decode(self._data[:-1]), self._id)
        self._data.clear()
        return message


def _field(name: str, value: str) -> str:
    """A field of one line. The space keeps a value that itself begins with one."""
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError(f"{name} must not contain CR, LF or NUL: {value!r}")
    return f"{name}: {value}\n"


def _one_line_end(text: bytes) -> bytes:
    """`text` with each CRLF and CR turned into LF."""
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _decode(value: bytes | bytearray) -> str:
    """As WHATWG's UTF-8 decoder. Line by line is enough: no line end is ever part of a longer character."""
    return value.decode("utf-8", "replace")


def _bounded_int(digits: bytes) -> int:
    """At most MAX_RETRY_MS, however many digits: int() refuses, and takes long over, thousands of them."""
    return min(int(digits.lstrip(b"0")[:17] or b"0"), MAX_RETRY_MS)
