"""The gateway as the data commands see it: JSON in and out, and streams that resume by themselves."""

from __future__ import annotations

import http.client
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Struct

from .. import sse
from ..errors import ConfigurationError, QueuecastError
from .display import plain
from .exits import CommandError, Exit

SILENCE_SECONDS: Final = 45.0
"""Seconds without a byte, three keepalives of a stream long. Then the connection counts as lost."""

RETRY_SECONDS: Final = 1.0
"""Seconds before a stream that broke is opened again, unless the gateway named a time; doubled with each failure."""

MAX_RETRY_SECONDS: Final = 15.0
"""Seconds that the doubling ends at."""


MAX_DOUBLINGS: Final = 10
"""How often it is doubled at most: by then any wait is as long as it gets."""

ADVICE: Final = "is the gateway running (`queuecast run module:qc`)? Another address is given by --url or QUEUECAST_URL"


class Flawed(Struct):
    pointer: str = ""
    detail: str = ""


class Problem(Struct):
    """A refusal as the gateway words it (RFC 9457)."""

    title: str = ""
    detail: str = ""
    errors: list[Flawed] = []


class Refused(CommandError):
    """The gateway answered with a problem."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(_in_words(status, body), _exit_of(status))
        self.status = status


class RemoteGateway:
    """One gateway by its URL, which may have a path where it is mounted. Each request is a connection of its own."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            self._host, self._port, self._root = parts.hostname or "", parts.port, parts.path.rstrip("/")
        except ValueError as error:
            raise ConfigurationError(f"{url!r} is no gateway: {error}") from error
        if parts.scheme not in {"http", "https"} or not self._host:
            raise ConfigurationError(f"{url!r} is no gateway: write http://127.0.0.1:8765, or with https")
        self.url = url
        self._connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    def get(self, *path: str, **query: str | None) -> Any:
        return self._exchange("GET", path, query)

    def post(self, *path: str, body: Any = None) -> Any:
        return self._exchange("POST", path, {}, b"" if body is None else msgspec.json.encode(body))

    def stream(self, *path: str, after: str | None = None, notice: Callable[[str], None]) -> Iterator[sse.Message]:
        """The stream's messages, each once and in order, across every lost connection; ends when the gateway says so.

        `notice` is told what happens to the connection. Raises `CommandError` when the first attempt fails.
        """
        stream = Stream(lambda last_id: self._open(path, after, last_id), notice)
        return stream.messages()

    def _open(self, path: tuple[str, ...], after: str | None, last_id: str) -> http.client.HTTPResponse:
        headers = {"accept": "text/event-stream", "connection": "close"}
        if last_id:
            headers["last-event-id"] = last_id
        return self._request("GET", path, {"after": after}, b"", headers)

    def _exchange(self, method: str, path: tuple[str, ...], query: dict[str, str | None], body: bytes = b"") -> Any:
        headers = {"accept": "application/json", "content-type": "application/json", "connection": "close"}
        response = self._request(method, path, query, body, headers)
        try:
            return msgspec.json.decode(response.read())
        except (OSError, http.client.HTTPException) as error:
            raise self._broke(error) from error
        except msgspec.DecodeError as error:
            raise CommandError(f"{self.url} does not answer as a queuecast gateway does", Exit.UNREACHABLE) from error

    def _request(
        self,
        method: str,
        path: tuple[str, ...],
        query: Mapping[str, str | None],
        body: bytes,
        headers: Mapping[str, str],
    ) -> http.client.HTTPResponse:
        """The answer, its body not read yet. Raises `Refused` for a problem, `CommandError` when there is none."""
        target = self._root + "".join("/" + quote(part, safe="") for part in path)
        given = {name: value for name, value in query.items() if value is not None}
        connection = self._connection(self._host, self._port, timeout=SILENCE_SECONDS)
        try:
            connection.connect()
        except (OSError, UnicodeError) as error:
            raise CommandError(f"{self.url} cannot be reached ({error}): {ADVICE}", Exit.UNREACHABLE) from error
        try:
            connection.request(method, f"{target}?{urlencode(given)}" if given else target, body or None, headers)
            response = connection.getresponse()
            if response.status >= 300:
                raise Refused(response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            raise self._broke(error) from error
        return response

    def _broke(self, error: Exception) -> CommandError:
        detail = f"{self.url} broke off before it answered ({error!r}): what was asked for may have been done or not"
        return CommandError(detail, Exit.UNREACHABLE)


class Stream:
    """One stream over as many connections as it takes."""

    def __init__(self, open: Callable[[str], http.client.HTTPResponse], notice: Callable[[str], None]) -> None:
        self._open = open
        self._notice = notice
        self._last_id = ""
        self._failures = 0
        self._retry_seconds = RETRY_SECONDS

    def messages(self) -> Iterator[sse.Message]:
        response = self._open("")
        while response.status != http.client.NO_CONTENT:
            yield from self._read(response)
            response = self._reopened()

    def _read(self, response: http.client.HTTPResponse) -> Iterator[sse.Message]:
        """What this connection brings. All messages of a chunk are handled before the next one is read, so the place
        that the parser has reached is the reader's own when the connection is lost."""
        parser = sse.Parser(self._last_id)
        with response:
            while chunk := self._chunk(response):
                yield from parser.feed(chunk)
                self._last_id = parser.last_event_id
                if parser.retry_ms is not None:
                    self._retry_seconds = parser.retry_ms / 1000

    def _chunk(self, response: http.client.HTTPResponse) -> bytes:
        """Empty at the end of the connection, whichever way it ended."""
        try:
            return response.read1(65_536)
        except (OSError, http.client.HTTPException):
            return b""

    def _reopened(self) -> http.client.HTTPResponse:
        while True:
            self._wait()
            try:
                response = self._open(self._last_id)
            except Refused as refused:
                if refused.status < 500:
                    raise
                self._failed(refused)
            except CommandError as error:
                self._failed(error)
            else:
                if self._failures:
                    self._notice("connected again")
                self._failures = 0
                return response

    def _wait(self) -> None:
        """Spread at random, so that the clients of one gateway do not all come back together."""
        doubled = self._retry_seconds * 2 ** min(self._failures, MAX_DOUBLINGS)
        seconds = min(doubled, max(MAX_RETRY_SECONDS, self._retry_seconds))
        time.sleep(seconds * random.uniform(0.5, 1.0))

    def _failed(self, error: QueuecastError) -> None:
        if not self._failures:
            self._notice(f"the stream is interrupted, trying again: {error}")
        self._failures += 1


def _in_words(status: int, body: bytes) -> str:
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except msgspec.MsgspecError:
        return f"the gateway answered {status} {http.client.responses.get(status, '')}".rstrip()
    detail = problem.detail or problem.title
    return plain("\n".join([detail, *(_flaw(flaw) for flaw in problem.errors if flaw.detail not in detail)]))


def _flaw(flaw: Flawed) -> str:
    return f"  {flaw.pointer}: {flaw.detail}" if flaw.pointer else f"  {flaw.detail}"


def _exit_of(status: int) -> Exit:
    if status == 404:
        return Exit.NOT_FOUND
    return Exit.UNREACHABLE if status >= 500 else Exit.USAGE
