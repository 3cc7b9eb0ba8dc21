"""Processes that cannot outlive the test run, however it ends."""

import os
import signal
import subprocess
from contextlib import suppress

SECONDS = 60
"""A failure bound: a process that was told to stop and has not by then is killed."""

LEASH = 'exec 3<&0 </dev/null; (read -r _ <&3; kill -KILL 0) & exec 3<&-; exec "$@"'
"""Kills the whole process group once the pipe that is its standard input ends, as it does when we are killed."""


class Leash:
    """A command in a process group of its own, which ends when `end()` is called or this process dies."""

    def __init__(self, command, *, environment, log):
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                ["sh", "-c", LEASH, "leash", *map(str, command)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    @property
    def pid(self):
        """Of the command, and of its process group."""
        return self._popen.pid

    def runs(self):
        return self._popen.poll() is None

    def signal_all(self, number):
        """To every process of the group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def stop(self):
        """As a supervisor does it."""
        self._popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(SECONDS)
        self.end()

    def end(self):
        """Kill whatever is left of the group."""
        self.signal_all(signal.SIGKILL)
        self._popen.stdin.close()
        self._popen.wait(SECONDS)
