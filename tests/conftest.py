"""How every test runs: a coroutine gets an event loop of its own, and nothing in it may fail unseen."""

import asyncio
import inspect
import signal
from contextlib import AsyncExitStack

import pytest

SECONDS = 20
"""A failure bound: a test that waits longer waits for something that will not happen."""


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's script begins what it does not wait for deaf to Ctrl-C, and all the processes of the tests with it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "bound(seconds): how long this test may take before it counts as failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """A handler may log what is no Unicode; what was caught of it has to reach the process that reports."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if not inspect.iscoroutinefunction(pyfuncitem.function):
        return None
    marker = pyfuncitem.get_closest_marker("bound")
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    cleanup = pyfuncitem.funcargs.get("cleanup", AsyncExitStack())
    asyncio.run(_run(pyfuncitem.obj(**arguments), cleanup, marker.args[0] if marker else SECONDS))
    return True


async def _run(test, cleanup, seconds):
    unseen = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    try:
        async with asyncio.timeout(seconds):
            await test
    finally:
        async with asyncio.timeout(SECONDS):
            await cleanup.aclose()
    assert not unseen, f"failed unseen: {unseen}"


@pytest.fixture
def cleanup():
    """What a fixture puts here is undone after the test, while its event loop still runs."""
    return AsyncExitStack()


SHARED_SERVERS = {
    "TestRabbitMQ4::": "rabbitmq-4",
    "[rabbitmq-4": "rabbitmq-4",
    "TestRabbitMQ::": "rabbitmq",
    "[rabbitmq": "rabbitmq",
}
"""What the name of a test that has a server to itself contains, and the server."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests that share a server run one after the other, each server's in a process of their own.

    By their names: with pytest 9.2 the groups of pytest-xdist 3.8 have no effect.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByServer(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return next((server for part, server in SHARED_SERVERS.items() if part in nodeid), nodeid)

    return ByServer(config, log)
