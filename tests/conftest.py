"""How every test runs: a coroutine gets an event loop of its own, and nothing in it may fail unseen."""

import asyncio
import inspect
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from servers.found import alone_on, need_rabbitmq, need_rabbitmq_4

pytest.register_assert_rewrite("system.verdict", "system.client", "system.processes")
"""Helpers whose assertions are to say what they saw; here, because others import them as well."""

TESTS = Path(__file__).parent

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


@pytest.fixture(params=[pytest.param(need_rabbitmq, id="rabbitmq"), pytest.param(need_rabbitmq_4, id="rabbitmq-4")])
def rabbitmq(request):
    """The URL of a RabbitMQ, one of each version, which this test has to itself."""
    url = request.param()
    with alone_on(url):
        yield url


ONE_NODE = {
    "brokers/test_kafka.py": "kafka",
    "brokers/test_kafka_groups.py": "kafka-groups",
    "brokers/kafka/test_access.py": "kafka-access",
    "brokers/kafka/": "kafka-driver",
}
"""Tests that use one Kafka one after the other, and so in one process: the one of `make brokers`, or their own."""

WANT_SERVERS = {
    "rabbitmq": (
        "brokers/rabbitmq/",
        "brokers/test_rabbitmq.py",
        "servers/",
        "system/test_classic",
        "system/test_long_tasks.py",
        "system/test_server_faults.py",
    ),
    "kafka": (*ONE_NODE, "servers/test_kafka_node.py", "system/test_kafka_faults.py"),
}
"""Where the tests are that want servers: `make test-rabbitmq`, `make test-kafka`."""


def pytest_collection_modifyitems(items):
    for item in items:
        place = item.path.relative_to(TESTS).as_posix()
        for marker, places in WANT_SERVERS.items():
            if place.startswith(places):
                item.add_marker(marker)
        if group := next((name for start, name in ONE_NODE.items() if place.startswith(start)), None):
            item.add_marker(pytest.mark.xdist_group(group))
