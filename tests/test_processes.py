import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest

from queuecast.processes import Process

IN_UVLOOP = """
import asyncio, os, sys
import uvloop
from queuecast.processes import Process

async def main():
    return await Process([sys.executable, "-c", "raise SystemExit(7)"], []).exit

os.register_at_fork(after_in_child=os.abort)
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    print(runner.run(main()))
"""


def test_nothing_of_this_program_runs_in_the_one_that_is_started():
    """What uvloop's own processes did: see the module."""
    done = subprocess.run([sys.executable, "-c", IN_UVLOOP], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["7"]


async def test_it_leads_a_session_and_inherits_what_it_was_given():
    reading, writing = os.pipe()
    script = "import os, sys; os.write(int(sys.argv[1]), str(os.getsid(0) == os.getpid()).encode())"
    process = Process([sys.executable, "-c", script, str(writing)], [writing], {**os.environ, "PYTHONPATH": ""})
    os.close(writing)
    assert await process.exit == 0
    with os.fdopen(reading) as told:
        assert told.read() == "True"


async def test_a_signal_ends_it_and_one_after_that_does_nothing():
    process = Process([sys.executable, "-c", "import time; time.sleep(60)"], [])
    process.signal(signal.SIGKILL)
    assert await process.exit == -signal.SIGKILL
    process.signal(signal.SIGKILL)


async def test_a_program_that_is_not_there():
    with pytest.raises(FileNotFoundError):
        Process(["/nowhere/at/all"], [])


def test_it_may_live_longer_than_the_event_loop():
    reading, writing = os.pipe()

    async def start():
        return Process([sys.executable, "-c", f"import os; os.read({reading}, 1)"], [reading])

    process = asyncio.run(start())
    os.close(reading)
    os.close(writing)
    for thread in threading.enumerate():
        if str(process.pid) in thread.name:
            thread.join()  # and has raised nothing
    assert not process.exit.done()
