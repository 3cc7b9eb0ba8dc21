"""Word statistics over a text file, or over every text file in a folder."""

from __future__ import annotations

import codecs
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

Report = Callable[[float, float, str], None]

MAX_FILES: Final = 50_000
"""Files of one folder. For a larger one the count is refused, because listing it would take all the time."""

BLOCK: Final = 1 << 18
"""Bytes read at once, and between two reports of progress."""

MAX_WORD_CHARS: Final = 200
"""A longer run of letters is no word; it is cut where a block ends."""

SKIPPED: Final = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})
"""Folders that are passed over, like hidden ones."""

WORD: Final = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
UNFINISHED: Final = re.compile(r"[\w'’-]*\Z")


@dataclass
class Statistics:
    """What was counted. `skipped` files were binary or not readable."""

    path: str
    files: int = 0
    skipped: int = 0
    bytes: int = 0
    lines: int = 0
    words: int = 0
    distinct: int = 0
    top: list[tuple[str, int]] = field(default_factory=list)


def count(path: Path, top: int, report: Report) -> Statistics:
    """Count, reporting bytes done and the file at hand. Raises `ValueError` for what cannot be counted."""
    found = Statistics(str(path))
    counter: Counter[str] = Counter()
    paths = _text_files(path)
    total = sum(size for _, size in paths)
    done = 0
    for file, size in paths:
        report(done, total, file.name)
        end = done + size
        try:
            for bytes_read, text in _texts(file):
                found.lines += text.count("\n")
                found.bytes += bytes_read
                counter.update(word.lower() for word in WORD.findall(text))
                done += bytes_read
                report(min(done, end), total, file.name)
            found.files += 1
        except (OSError, _Binary):
            found.skipped += 1
        done = end
    found.words, found.distinct, found.top = counter.total(), len(counter), counter.most_common(top)
    return found


def _text_files(path: Path) -> list[tuple[Path, int]]:
    """The files to read, with their sizes."""
    if path.is_file():
        return [(path, path.stat().st_size)]
    if not path.is_dir():
        raise ValueError(f"{path} is neither a file nor a folder")
    found: list[tuple[Path, int]] = []
    for file in _walk(path):
        with suppress(OSError):
            if file.is_file():
                found.append((file, file.stat().st_size))
        if len(found) > MAX_FILES:
            raise ValueError(f"{path} holds more than {MAX_FILES} files: name a smaller folder")
    if not found:
        raise ValueError(f"{path} holds no files")
    return found


def _walk(path: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name not in SKIPPED and not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names))


class _Binary(Exception):
    """A file that holds a NUL byte, as no text does."""


def _texts(file: Path) -> Iterator[tuple[int, str]]:
    """The file in pieces that end between two words, each with the bytes that were read for it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    with file.open("rb") as opened:
        while block := opened.read(BLOCK):
            if b"\0" in block:
                raise _Binary
            text = rest + decoder.decode(block)
            cut = UNFINISHED.search(text)
            start = cut.start() if cut else len(text)
            rest = text[start:] if len(text) - start <= MAX_WORD_CHARS else ""
            yield len(block), text[: len(text) - len(rest)]
    yield 0, rest
