"""Private nodes: what they keep when they are killed, and that nothing of them is left."""

from contextlib import ExitStack, contextmanager, suppress

import pika
import pika.exceptions
import pytest

from .answers import listens, rabbitmq_version
from .found import need_rabbitmq_programs
from .rabbitmq import RabbitNode
from .waiting import NotThere, wait_until

DURABLE = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)


SECONDS = 30
"""A failure bound: what a server has not done by then it will not."""


@contextmanager
def channel_of(node):
    with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel


def publish(node, body, queue="work", **declaration):
    with channel_of(node) as channel:
        channel.queue_declare(queue, durable=True, **declaration)
        channel.basic_publish("", queue, body, DURABLE, mandatory=True)


def get(node, queue="work"):
    """The oldest message, which goes back to its place."""
    with channel_of(node) as channel:
        _, _, body = channel.basic_get(queue)
        return body


def first_entry(node, stream="log"):
    with channel_of(node) as channel:
        channel.basic_qos(prefetch_count=1)
        entries = channel.consume(stream, arguments={"x-stream-offset": "first"}, inactivity_timeout=SECONDS)
        _, _, body = next(entries)
        return body


def after_election(read, node):
    """What it reads once there is a leader again. Until then the node refuses, in one way or another: 541 for a quorum
    queue, 406 or 506 for a stream."""

    def attempt():
        with suppress(pika.exceptions.ConnectionClosedByBroker, pika.exceptions.ChannelClosedByBroker):
            return read(node)

    return wait_until(attempt, "nothing is read", seconds=SECONDS)


def test_a_confirmed_message_outlives_its_node_and_nothing_else_does(tmp_path):
    with RabbitNode(tmp_path, release=need_rabbitmq_programs()) as node:
        assert all(map(listens, node.ports))
        publish(node, b"kept")
        node.kill_9()
        assert rabbitmq_version(node.port) is None
        node.start()
        assert get(node) == b"kept"
        node.stop()
        assert rabbitmq_version(node.port) is None
        node.start()
        assert get(node) == b"kept"
    wait_until(lambda: not any(map(listens, node.ports)), "its ports stay open", seconds=SECONDS)


def test_a_node_ends_when_its_test_fails(tmp_path):
    node = RabbitNode(tmp_path, release=need_rabbitmq_programs())
    with pytest.raises(ZeroDivisionError), node:
        raise ZeroDivisionError
    wait_until(lambda: not any(map(listens, node.ports)), "its ports stay open", seconds=SECONDS)


def test_a_setting_that_it_refuses_is_in_the_error(tmp_path):
    node = RabbitNode(tmp_path, release=need_rabbitmq_programs(), config="no_such_setting = 1\n")
    with pytest.raises(NotThere, match="no_such_setting"), node:
        pass
    assert not listens(node.ports.epmd)


def test_its_files_are_in_its_folder(node):
    assert str(node.folder / "data") in node.ctl("status")


def test_ctl_says_what_went_wrong(node):
    with pytest.raises(AssertionError, match="no_such_command"):
        node.ctl("no_such_command")


def test_a_frozen_node_keeps_its_connections_and_does_not_answer(node):
    with channel_of(node) as channel:
        node.freeze()
        try:
            assert listens(node.port)
            assert rabbitmq_version(node.port) is None
        finally:
            node.thaw()
        node.ready()
        assert channel.queue_declare("", exclusive=True).method.queue


def test_a_cluster_of_three_goes_on_without_the_node_that_was_killed(tmp_path):
    release = need_rabbitmq_programs()
    with ExitStack() as nodes:
        first = nodes.enter_context(RabbitNode(tmp_path / "1", release=release))
        second, third = (nodes.enter_context(RabbitNode(tmp_path / name, beside=first)) for name in "23")
        second.join(first)
        third.join(first)
        publish(first, b"kept", arguments={"x-queue-type": "quorum"})
        publish(first, b"logged", "log", arguments={"x-queue-type": "stream"})
        first.kill_9()
        assert after_election(get, second) == b"kept"
        assert after_election(first_entry, third) == b"logged"
        first.start()
        assert after_election(get, first) == b"kept"
