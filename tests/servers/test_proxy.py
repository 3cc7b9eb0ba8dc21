"""The proxy, before a server that answers with what it was sent, and before RabbitMQ."""

import socket
import threading

import pika
import pika.exceptions
import pytest

from .proxy import Proxy, Way

SECONDS = 20
"""A failure bound for each answer."""


@pytest.fixture
def echo():
    """The port of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=[server], daemon=True).start()
        yield server.getsockname()[1]
        # Closing alone would not wake who accepts.
        server.shutdown(socket.SHUT_RDWR)


def _serve(server):
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=[connection], daemon=True).start()


def _echo(connection):
    with connection:
        try:
            while data := connection.recv(1000):
                connection.sendall(data)
        except ConnectionError:
            return


@pytest.fixture
def proxy(echo):
    with Proxy(echo) as proxy:
        yield proxy


def connect(proxy):
    return socket.create_connection(("127.0.0.1", proxy.port), SECONDS)


def ask(client, words):
    client.sendall(words)
    return client.recv(1000)


def is_lost(client):
    try:
        return client.recv(1000) == b""
    except ConnectionError:
        return True


def test_it_passes_on(proxy):
    with connect(proxy) as one, connect(proxy) as other:
        assert ask(one, b"one") == b"one"
        assert ask(other, b"other") == b"other"
        one.shutdown(socket.SHUT_WR)
        assert one.recv(1000) == b"", "an end is passed on, too"


def test_a_cut_ends_connections_and_new_ones_pass(proxy):
    with connect(proxy) as client:
        assert ask(client, b"before") == b"before"
        proxy.cut()
        assert is_lost(client)
    with connect(proxy) as client:
        assert ask(client, b"after") == b"after"


@pytest.mark.parametrize("way", Way)
def test_what_is_held_back_comes_when_it_resumes(proxy, way):
    with connect(proxy) as client:
        assert ask(client, b"before") == b"before"
        proxy.stall(way)
        client.sendall(b"held")
        proxy.wait_held(way)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1000)
        client.settimeout(SECONDS)
        proxy.resume()
        assert client.recv(1000) == b"held"


def test_it_holds_back_what_has_certain_words_and_all_that_follows(proxy):
    with connect(proxy) as one, connect(proxy) as other:
        proxy.stall_at(Way.TO_SERVER, b"words")
        assert ask(one, b"before") == b"before"
        one.sendall(b"the words")
        proxy.wait_held(Way.TO_SERVER)
        other.sendall(b"after")
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1000)
        other.settimeout(SECONDS)
        proxy.pass_on(Way.TO_SERVER)
        assert (one.recv(1000), other.recv(1000)) == (b"the words", b"after")
        assert ask(one, b"words") == b"words", "once"


def test_what_is_held_back_is_lost_with_a_cut(proxy):
    with connect(proxy) as client:
        assert ask(client, b"before") == b"before"
        proxy.stall(Way.TO_CLIENT)
        client.sendall(b"held")
        proxy.wait_held(Way.TO_CLIENT)
        proxy.cut()
        assert is_lost(client)


def test_nobody_listens_while_it_refuses(proxy):
    with connect(proxy) as client:
        assert ask(client, b"before") == b"before"
        proxy.refuse()
        assert is_lost(client)
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
    proxy.resume()
    with connect(proxy) as client:
        assert ask(client, b"after") == b"after"


def test_a_connection_for_which_there_is_no_server_ends(proxy):
    with Proxy(proxy.port) as before, connect(before) as client:
        assert ask(client, b"before") == b"before"
        proxy.refuse()
        assert is_lost(client)
        try:
            late = connect(before)
        except ConnectionResetError:
            return  # it ended before the call came back
        with late:
            assert is_lost(late)


def test_a_message_is_published_although_its_confirm_was_lost(node):
    with Proxy(node.port) as proxy:
        connection = pika.BlockingConnection(
            pika.ConnectionParameters("127.0.0.1", proxy.port, blocked_connection_timeout=SECONDS)
        )
        channel = connection.channel()
        channel.queue_declare("lost-confirm")
        channel.confirm_delivery()
        proxy.stall(Way.TO_CLIENT)
        cutting = threading.Thread(target=lambda: (proxy.wait_held(Way.TO_CLIENT), proxy.cut()))
        cutting.start()
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            channel.basic_publish("", "lost-confirm", b"there")
        cutting.join(SECONDS)

        proxy.resume()
        with pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", proxy.port)) as again:
            channel = again.channel()
            assert channel.basic_get("lost-confirm", auto_ack=True)[2] == b"there"
            channel.queue_delete("lost-confirm")
