"""Waiting for a server, with an end to it."""

import time

PAUSE = 0.05
"""Seconds between two looks."""


LINES = 60
"""Of a log. Erlang explains its end at length, and the reason stands well before."""


class NotThere(Exception):
    """A server that is not to be had, or did not come. The text says why, and what to do or how its log ends."""


def wait_until(fact, what, *, seconds, log=lambda: "", alive=lambda: True):
    """Look until `fact()` gives something true, which is returned. Raises NotThere after so many seconds, or at once
    when `alive()` says that it can no longer come; `log()` is the text whose end tells more."""
    end = time.monotonic() + seconds
    while not (answer := fact()):
        if not alive():
            raise NotThere(f"{what}: its process has ended{end_of(log())}")
        if time.monotonic() > end:
            raise NotThere(f"{what}: not within {seconds} s{end_of(log())}")
        time.sleep(PAUSE)
    return answer


def end_of(log):
    """The last lines of a log, to be put behind a sentence."""
    return "\n".join([":", *(f"  {line}" for line in log.splitlines()[-LINES:])])
