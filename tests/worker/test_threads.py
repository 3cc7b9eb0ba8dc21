"""Threads for `def` handlers."""

import asyncio
import subprocess
import sys
import threading

import pytest

from queuecast.worker.threads import Threads


@pytest.fixture
def threads(cleanup):
    threads = Threads()
    cleanup.callback(threads.close)
    return threads


async def test_a_function_gives_what_it_returns(threads):
    assert await threads.run(lambda x, y: x + y, 1, 2) == 3


async def test_a_function_raises_what_it_raises(threads):
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 / 0)


async def test_one_after_the_other_run_in_one_thread(threads):
    used = {await threads.run(threading.get_ident) for _ in range(50)}
    assert len(used) == 1


async def test_as_many_run_as_are_asked_for(threads):
    together = threading.Barrier(30, timeout=10)
    await asyncio.gather(*(threads.run(together.wait) for _ in range(30)))


async def test_a_thread_that_is_left_behind_is_used_again_once_it_is_free(threads):
    go_on = threading.Event()
    waiting = asyncio.create_task(threads.run(go_on.wait, 10))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    other = await threads.run(threading.get_ident)
    go_on.set()
    while threads._idle < 2:
        await asyncio.sleep(0.001)
    together = threading.Barrier(2, timeout=10)

    def meet():
        together.wait()
        return threading.get_ident()

    assert other in await asyncio.gather(threads.run(meet), threads.run(meet))
    assert threads._count == 2


def test_a_function_that_never_ends_does_not_keep_the_process_alive():
    program = """
import asyncio, threading
from queuecast.worker.threads import Threads

async def main():
    asyncio.create_task(Threads().run(threading.Event().wait))
    await asyncio.sleep(0.05)

asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=10, check=False).returncode == 0
