"""The command line that all scripts share."""

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lib import proc


class Named(Protocol):
    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class Name:
    """A subject that is nothing but its name."""

    name: str


AnyNamed = TypeVar("AnyNamed", bound=Named)


def parser(description: str | None, rounds: int = 3) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--only", default="", help="subjects to run, comma-separated; all without")
    return made


def chosen(subjects: Sequence[AnyNamed], options: argparse.Namespace, pin: bool = True) -> list[AnyNamed]:
    """The subjects to run. From here on this process is part of the load, on the load's CPU."""
    if sys.platform != "linux":
        raise SystemExit("the benchmarks use epoll and read /proc: they run on Linux only")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave all blocks: servers are stopped there
    if pin:
        proc.pin(proc.LOAD_CPU)
    proc.allow_open_files()
    only = set(filter(None, options.only.split(",")))
    unknown = only - {subject.name for subject in subjects}
    if unknown:
        raise SystemExit(f"unknown subjects: {', '.join(sorted(unknown))}")
    return [subject for subject in subjects if not only or subject.name in only]
