"""How tests find a server, and what becomes of them where there is none."""

import socket
import threading

import pytest

from . import answers
from .found import need_kafka, need_rabbitmq, need_rabbitmq_4
from .ports import free_port

NEEDS = [
    (need_rabbitmq, "QUEUECAST_TEST_AMQP", "amqp://me:secret@127.0.0.1:{}/", "`make brokers` starts one"),
    (need_rabbitmq_4, "QUEUECAST_TEST_AMQP_4", "amqp://me:secret@127.0.0.1:{}/", "`make brokers-4` starts one"),
    (need_kafka, "QUEUECAST_TEST_KAFKA", "127.0.0.1:{}", "`make brokers` starts one"),
]


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
@pytest.mark.parametrize("kind", NEEDS)
def test_where_there_is_none_a_test_is_skipped_and_in_ci_fails(monkeypatch, kind, ci, outcome):
    need, variable, address, advice = kind
    monkeypatch.setenv(variable, address.format(free_port()))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome) as told:
        need()
    assert advice in str(told.value)
    assert variable in str(told.value)
    assert "secret" not in str(told.value)


def test_the_url_is_the_one_of_the_environment(monkeypatch, node):
    monkeypatch.setenv("QUEUECAST_TEST_AMQP", node.url)
    assert need_rabbitmq() == node.url


def test_a_server_says_which_version_it_is(node):
    assert answers.rabbitmq_version(node.port) in node.ctl("version")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"AMQP\0\1\0\0", b""])
def test_another_server_on_the_port_is_not_taken_for_one(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_answer_twice, args=[server, answer], daemon=True).start()
        port = server.getsockname()[1]
        assert answers.rabbitmq_version(port) is None
        assert not answers.kafka_answers(port)


def _answer_twice(server, answer):
    for _ in range(2):
        connection, _ = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(answer)
