"""Nothing outlives the process that has it on a leash."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .leash import Leash
from .waiting import wait_until

TESTS = Path(__file__).parents[1]

SECONDS = 20
"""A failure bound for an end that takes milliseconds."""

TWO_SLEEPERS = ("sh", "-c", "sleep 1000 & echo $!; exec sleep 1000")
"""A command with a child of its own, whose number it says."""

HOLDER = f"""
import pathlib, signal, sys, time
from servers.leash import Leash
# A run of the tests in the background of a shell has it ignored, and hands that down.
signal.signal(signal.SIGINT, signal.default_int_handler)
log = pathlib.Path(sys.argv[1])
leash = Leash({TWO_SLEEPERS!r}, environment=None, log=log)
print(leash.pid, flush=True)
time.sleep(1000)
"""


def runs(pid):
    """Whether there is such a process, and it is not only waiting to be buried."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(shown.strip()) and not shown.startswith("Z")


def child_of(log):
    return int(wait_until(lambda: log.exists() and log.read_text().strip(), "the child's number", seconds=SECONDS))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_command_ends_with_the_process_that_started_it(tmp_path, number):
    log = tmp_path / "log"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(log)],
        cwd=TESTS,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        pids = [int(holder.stdout.readline()), child_of(log)]
        assert all(map(runs, pids))
        holder.send_signal(number)
        holder.wait(SECONDS)
        wait_until(lambda: not any(map(runs, pids)), "the end", seconds=SECONDS)
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.parametrize("way", ["stop", "end"])
def test_it_ends_with_its_children(tmp_path, way):
    log = tmp_path / "log"
    leash = Leash(TWO_SLEEPERS, environment=None, log=log)
    pids = [leash.pid, child_of(log)]
    assert all(map(runs, pids))
    getattr(leash, way)()
    assert not leash.runs()
    wait_until(lambda: not any(map(runs, pids)), "the end", seconds=SECONDS)


def test_a_command_that_ends_by_itself_is_noticed(tmp_path):
    leash = Leash(["true"], environment=os.environ, log=tmp_path / "log")
    wait_until(lambda: not leash.runs(), "the end", seconds=SECONDS)
    leash.end()
