"""Whether a server really answers on a port: a few bytes of its own protocol, without its driver."""

import re
import socket
import struct

SECONDS = 2
"""How long a server may take to answer. One that needs longer counts as not there."""

AMQP_HELLO = b"AMQP\0\0\x09\x01"
"""The protocol header of AMQP 0-9-1, to which a server answers with Connection.Start."""

API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 7, -1)
"""Kafka's ApiVersions request: its length, key, version 0, a correlation id, and no client id."""


def rabbitmq_version(port: int, host: str = "127.0.0.1") -> str | None:
    """The version that the RabbitMQ on this port says it has, or None where none answers."""
    start = _ask(host, port, AMQP_HELLO)
    said = re.search(rb"\x07versionS\0\0\0.([\d.]+)", start, re.DOTALL)
    return said[1].decode() if said else None


def kafka_answers(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a Kafka on this port takes requests: it does so only once it can serve them."""
    return _ask(host, port, API_VERSIONS)[4:10] == struct.pack(">ih", 7, 0)


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Whether anything at all listens on this port."""
    try:
        with socket.create_connection((host, port), SECONDS):
            return True
    except OSError:
        return False


def _ask(host: str, port: int, question: bytes) -> bytes:
    """The first bytes of the answer; none where there is no answer."""
    try:
        with socket.create_connection((host, port), SECONDS) as connection:
            connection.sendall(question)
            connection.settimeout(SECONDS)
            return connection.recv(4096)
    except OSError:
        return b""
