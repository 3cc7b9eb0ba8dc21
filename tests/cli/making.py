"""Real processes of the command line, and how to wait for what they say."""

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

SECONDS = 30
"""A failure bound: whoever waits longer waits for something that will not happen."""

SHOP = "shop:qc"


def environment(**variables):
    """Ours, without the settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUEUECAST_")}
    return {**kept, "PYTHONPATH": str(Path(__file__).parent), "COLUMNS": "120", **variables}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(*arguments):
    return [sys.executable, "-m", "queuecast", *map(str, arguments)]


def cli(*arguments, folder, given=None, **variables):
    """Run a command to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(**variables),
        input=given,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


class Program:
    """A command that goes on, and the lines of its stderr as they come."""

    def __init__(self, process):
        self.process = process
        self.heard = []
        self._lines = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put("")

    def until(self, pattern):
        """The next line that matches."""
        while line := self._lines.get(timeout=SECONDS):
            self.heard.append(line)
            if re.search(pattern, line):
                return line
        raise AssertionError(f"ended without {pattern!r}: {''.join(self.heard)}")

    def rest(self):
        """What comes until everybody who holds its stderr, its children as well, is gone."""
        lines = []
        while line := self._lines.get(timeout=SECONDS):
            lines.append(line)
        return "".join(lines)

    def send(self, number):
        self.process.send_signal(number)

    def wait(self):
        return self.process.wait(SECONDS)

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self._reader.join()
        self.process.stderr.close()
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def started(*arguments, folder, argv=None, **variables):
    program = Program(
        subprocess.Popen(
            argv or command(*arguments),
            cwd=folder,
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    try:
        yield program
    finally:
        program.close()


@contextmanager
def shop_running(folder, port, *options):
    """`queuecast run` of the shop, with its worker ready."""
    with started("run", SHOP, "--port", port, *options, folder=folder) as program:
        program.until("is ready")
        yield program


def url_of(port):
    return f"http://127.0.0.1:{port}"
