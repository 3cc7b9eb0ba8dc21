"""The demo's queues and handlers: a program as you would write your own.

Try it by hand: `queuecast run queuecast.demo.app:qc`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Final

from msgspec import Meta

from queuecast import Context, Queuecast

from . import exporting, thumbnails, wordcount
from .folder import files, folder, given, new_file

MAX_SPOKEN_CHARS: Final = 100_000
"""Characters of a file that `stream.speak` reads; the rest is left out."""

qc = Queuecast(f"sqlite:///{folder() / 'queuecast.db'}")

words = qc.queue("words")
thumbs = qc.queue("thumbs")
exports = qc.queue("exports")
stream = qc.queue("stream")
mail = qc.queue("mail")


@words.task(timeout=3600)
def count(ctx: Context, path: str, top: Annotated[int, Meta(ge=1, le=100)] = 12) -> wordcount.Statistics:
    """A plain function: it runs in a thread, and each report of progress tells it whether it was cancelled."""
    return wordcount.count(given(path), top, ctx.progress)


@thumbs.task(process=True, timeout=3600)
def shrink(ctx: Context, path: str, size: Annotated[int, Meta(ge=16, le=1024)] = 160) -> Iterator[thumbnails.Thumbnail]:
    """A generator in a process of its own: each thumbnail is shown as it is made, and cancelling kills the process."""
    yield from thumbnails.shrink(given(path), new_file("thumbs", ctx.id), size, ctx.progress)


@exports.task(timeout=3600)
def convert(
    ctx: Context, path: str, to: exporting.Format = "jsonl", column: str = "", contains: str = ""
) -> exporting.Export:
    """A file at the end: a second run writes the same file, so that running it again does no harm."""
    kept = exporting.Filter(column.strip(), contains.strip())
    target = new_file("exports", f"{ctx.id}.{to}")
    return exporting.export(given(path), target, to, kept, ctx.progress)


@stream.task(timeout=3600)
async def speak(text: str = "", path: str = "", pause: Annotated[float, Meta(ge=0, le=5)] = 0.05) -> AsyncIterator[str]:
    """An async generator, as a language model's answer would be: piece by piece, resumed after a reload."""
    if not text.strip():
        source = given(path)
        if not source.is_file():  # a pipe would hold up the whole worker, a folder is no text
            raise ValueError(f"{source} is no file")
        with source.open(encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_SPOKEN_CHARS)
    for piece in text.split(" "):
        yield f"{piece} "
        await asyncio.sleep(pause)


@mail.task(retries=4)
def send(ctx: Context, to: str, message: str, down_for: Annotated[int, Meta(ge=0)] = 2) -> dict[str, str]:
    """Fails while the "mail server" is down: retried with growing delays, and after four retries given up."""
    if ctx.attempt <= down_for:
        raise ConnectionError(f"the mail server refused attempt {ctx.attempt} (it is down for {down_for})")
    letter = new_file("outbox", f"{ctx.id}.txt")
    letter.write_text(f"To: {to}\n\n{message}\n", encoding="utf-8")
    return {"to": to, "file": str(letter.relative_to(files()))}
