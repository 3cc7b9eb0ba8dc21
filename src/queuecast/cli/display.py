"""What people see: text that cannot steer their terminal, columns, and a task's progress as a bar or as lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec

from ..event import Event, OutputEvent, Progress, TaskEvent
from .exits import CommandError, Exit

CONTROL_CHARACTERS: Final = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
"""All but TAB and LF, as escapes: a task's text must not move the cursor or set the clipboard of who looks at it."""


EXACT: Final = 1e15
"""A number below this is shown with all its digits; beyond it, a float does not know them all itself."""

_AS_JSON: Final = {code: f"\\u{code:04x}" for code in range(127, 160)}


def plain(text: str) -> str:
    return text.translate(CONTROL_CHARACTERS)


def safe_json(text: str) -> str:
    """The same JSON, with those control characters escaped that JSON itself lets through."""
    return text.translate(_AS_JSON)


def say(text: str) -> None:
    """To people: stdout is for data."""
    print(plain(text), file=sys.stderr, flush=True)


def emit(text: str) -> None:
    """One line of data, at once. Raises `CommandError` where it cannot be written; a closed pipe just ends it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        # Or else the interpreter tries again when it ends, and has the last word.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CommandError(f"what was asked for cannot be written: {error.strerror}", Exit.USAGE) from error


def as_json(value: Any) -> str:
    return safe_json(msgspec.json.encode(value).decode())


def as_text(value: Any) -> str:
    """Text as it is, everything else as JSON. Into a pipe or a file it goes untouched."""
    if not isinstance(value, str):
        return as_json(value)
    return plain(value) if sys.stdout.isatty() else value


def columns(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    """Lines of aligned columns; numbers to the right."""
    table = [tuple(head), *(tuple(plain(str(cell)) for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    to_right = [
        bool(rows) and all(isinstance(cell, int | float) for cell in column) for column in zip(*rows, strict=True)
    ]
    for line in table:
        cells = zip(line, widths, to_right or [False] * len(head), strict=True)
        yield "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells).rstrip()


def in_words(event: Event) -> str:
    """An event of a queue as one line."""
    clock = datetime.fromisoformat(event.time).astimezone().strftime("%H:%M:%S")
    return plain(f"{clock}  {event.id}  {_fact(event)}").replace("\n", "\\n")


def _fact(event: Event) -> str:
    if isinstance(event, TaskEvent):
        return f"{event.task.name} {state_in_words(event)}"
    if isinstance(event, OutputEvent):
        return f"output {event.index}: {as_json(event.output)}"
    return ending_in_words(msgspec.to_builtins(event))


def ending_in_words(ending: Mapping[str, Any]) -> str:
    """A result event, or the status of a task that has ended."""
    if ending["state"] == "succeeded":
        return f"succeeded: {as_json(ending.get('result'))}"
    error = ending.get("error") or {}
    return ": ".join(part for part in (ending["state"], error.get("type"), error.get("message")) if part)


def state_in_words(event: TaskEvent) -> str:
    task = event.task
    words: list[str] = [task.state]
    if task.attempt > 1:
        words.append(f"(attempt {task.attempt})")
    if task.progress is not None:
        words.append(progress_in_words(task.progress))
    if task.error is not None:
        words.append(f"in {task.delay or 0:.1f} s after {task.error.type}: {task.error.message}")
    return " ".join(words)


def progress_in_words(progress: Progress) -> str:
    share = "/".join(_number(part) for part in (progress.current, progress.total) if part is not None)
    return f"{share} {progress.note}".rstrip()


def _number(value: float) -> str:
    """What is counted, such as bytes, with all its digits."""
    return f"{value:.0f}" if abs(value) < EXACT and value == int(value) else f"{value:g}"


class Show(Protocol):
    """Shows where one task is."""

    def __call__(self, event: TaskEvent) -> None: ...


@contextmanager
def progress_shown() -> Iterator[Show]:
    """On stderr: a bar on a terminal, else a line for each change."""
    if sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield lambda event: say(state_in_words(event))


@contextmanager
def _bar() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    text = TextColumn("{task.description}", markup=False)
    bars = Bars(
        *(text, BarColumn(), TaskProgressColumn(), TimeElapsedColumn()),
        console=Console(stderr=True),
        transient=True,
        # Outputs go through the bar only where both are on the terminal; a pipe gets them untouched.
        redirect_stdout=sys.stdout.isatty(),
    )
    with bars:
        bar = bars.add_task("", total=None)

        def show(event: TaskEvent) -> None:
            progress = event.task.progress
            note = progress.note if progress is not None else ""
            bars.update(
                bar,
                description=plain(f"{event.task.name} {event.task.state} {note}".rstrip()),
                total=progress.total if progress is not None else None,
                completed=progress.current if progress is not None else 0,
            )

        yield show
