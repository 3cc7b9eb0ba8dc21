"""The command line. `main` is what `queuecast` and `python -m queuecast` call."""

from __future__ import annotations

import sys

from ..errors import QueuecastError


def main() -> None:
    """Run the command that the arguments name, and end with its exit code; a mistake is told without a traceback."""
    from .commands import commands
    from .display import say
    from .exits import exit_of

    try:
        commands(prog_name="queuecast")
    except QueuecastError as error:
        say(f"error: {error}")
        sys.exit(exit_of(error))
