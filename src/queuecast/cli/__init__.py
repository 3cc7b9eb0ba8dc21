"""The command line. `main` is what `queuecast` and `python -m queuecast` call."""

from __future__ import annotations

import sys

from ..errors import BrokerUnavailable, ConfigurationError, QueuecastError


def main() -> None:
    """Run the command that the arguments name, and end with its exit code; a mistake is told without a traceback."""
    from .commands import commands
    from .display import say
    from .exits import exit_of

    try:
        _refuse_undecodable(sys.argv[1:])
        commands(prog_name="queuecast")
    except QueuecastError as error:
        say(f"error: {error}")
        if isinstance(error, BrokerUnavailable):
            say("Is the broker running? Start it, or choose another with --broker or QUEUECAST_BROKER.")
        sys.exit(exit_of(error))


def _refuse_undecodable(arguments: list[str]) -> None:
    """Python keeps bytes that are no text as lone surrogates, which neither JSON nor a URL can carry."""
    for argument in arguments:
        if not argument.isascii() and argument != argument.encode("utf-8", "replace").decode():
            raise ConfigurationError(f"{argument!r} is not UTF-8")
