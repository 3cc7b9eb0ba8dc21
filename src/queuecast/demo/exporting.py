"""A CSV file, filtered and converted to JSON lines or a SQLite database, with the totals of its numeric columns."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Final, Literal, TypeAlias

Report = Callable[[float, float, str], None]
Format: TypeAlias = Literal["jsonl", "sqlite"]
Row: TypeAlias = list[str]
Write: TypeAlias = Callable[[Row], object]
Writer: TypeAlias = Callable[[Path, Row], AbstractContextManager[Write]]

ROWS_PER_REPORT: Final = 500


@dataclass(frozen=True)
class Filter:
    """Which rows to keep: those whose `column` contains the text, in any case. Without a column, all."""

    column: str = ""
    contains: str = ""

    def over(self, header: Row) -> Callable[[Row], bool]:
        """Raises `ValueError` for a column that the header does not name."""
        if not self.column:
            return lambda _row: True
        if self.column not in header:
            raise ValueError(f"there is no column {self.column!r}; there are {', '.join(header)}")
        index, wanted = header.index(self.column), self.contains.casefold()
        return lambda row: wanted in row[index].casefold()


@dataclass
class Export:
    """What was written. `totals` has the columns that hold numbers in every kept row, and a sum that is one."""

    source: str
    file: str
    rows: int = 0
    kept: int = 0
    bytes: int = 0
    totals: dict[str, float] = field(default_factory=dict)

    def add(self, header: Row, row: Row) -> None:
        """Keep a row: a column counts as numeric until a cell of it is no number."""
        if self.kept == 0:
            self.totals = dict.fromkeys(header, 0.0)
        self.kept += 1
        for name, cell in zip(header, row, strict=True):
            if name in self.totals:
                try:
                    self.totals[name] += float(cell)
                except ValueError:
                    del self.totals[name]


def export(source: Path, target: Path, to: Format, kept: Filter, report: Report) -> Export:
    """Convert the file. `target` appears when it is whole. Raises `ValueError` for what is no usable CSV."""
    done = Export(str(source), f"{target.parent.name}/{target.name}")
    total = _lines(source) - 1
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        with source.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = _rows(source, file)
            header = _header(source, rows)
            keeps = kept.over(header)
            with WRITERS[to](part, header) as write:
                for row in _counted(rows, done, total, report):
                    if keeps(row):
                        done.add(header, row)
                        write(row)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    done.bytes = target.stat().st_size
    # A CSV may say NaN and inf, which float() takes for numbers, and JSON does not.
    done.totals = {name: round(total, 2) for name, total in done.totals.items() if isfinite(total)}
    report(done.rows, done.rows, "rows")
    return done


def _counted(rows: Iterator[Row], done: Export, total: int, report: Report) -> Iterator[Row]:
    for row in rows:
        done.rows += 1
        if done.rows % ROWS_PER_REPORT == 0:
            report(done.rows, max(total, done.rows), "rows")
        yield row


def _lines(source: Path) -> int:
    """How many rows to expect; a line break inside quotes counts as one too."""
    if not source.is_file():
        raise ValueError(f"{source} is no file")
    with source.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _rows(source: Path, lines: Iterator[str]) -> Iterator[Row]:
    """All rows as long as the first one, which names the columns."""
    width = 0
    try:
        for row in csv.reader(lines):
            width = width or len(row)
            if row:
                yield row if len(row) == width else (row + [""] * width)[:width]
    except csv.Error as error:
        raise ValueError(f"{source} is no CSV: {error}") from error


def _header(source: Path, rows: Iterator[Row]) -> Row:
    header = [name.strip() for name in next(rows, [])]
    if not any(header):
        raise ValueError(f"{source} is empty: the first row must name the columns")
    if len({name.lower() for name in header}) < len(header):
        raise ValueError(f"{source} names a column twice: {', '.join(header)}")
    return header


@contextmanager
def _json_lines(target: Path, header: Row) -> Iterator[Write]:
    with target.open("w", encoding="utf-8") as file:
        yield lambda row: file.write(json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False) + "\n")


@contextmanager
def _sqlite(target: Path, header: Row) -> Iterator[Write]:
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in header)
    insert = f"INSERT INTO rows VALUES ({', '.join('?' * len(header))})"
    with closing(sqlite3.connect(target)) as database, database:
        # Nobody reads this file before it is whole, so it needs no journal.
        database.execute("PRAGMA journal_mode = OFF")
        database.execute(f"CREATE TABLE rows ({columns})")
        yield lambda row: database.execute(insert, row)


WRITERS: Final[dict[Format, Writer]] = {
    "jsonl": _json_lines,
    "sqlite": _sqlite,
}
