"""The command line that all scripts share."""

import argparse
from collections.abc import Sequence
from typing import Protocol, TypeVar

from lib import proc


class Named(Protocol):
    @property
    def name(self) -> str: ...


AnyNamed = TypeVar("AnyNamed", bound=Named)


def parser(description: str | None, rounds: int = 3) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--only", default="", help="subjects to run, comma-separated; all without")
    return made


def chosen(subjects: Sequence[AnyNamed], options: argparse.Namespace) -> list[AnyNamed]:
    """The subjects to run. From here on this process is part of the load."""
    proc.pin(proc.LOAD_CPU)
    proc.allow_open_files()
    only = set(filter(None, options.only.split(",")))
    unknown = only - {subject.name for subject in subjects}
    if unknown:
        raise SystemExit(f"unknown subjects: {', '.join(sorted(unknown))}")
    return [subject for subject in subjects if not only or subject.name in only]
