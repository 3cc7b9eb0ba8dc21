"""The URL of a RabbitMQ: `amqp://user:password@host:5672/vhost`, `amqps://` for TLS, several hosts with commas."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pika import URLParameters

from ...errors import ConfigurationError

HEARTBEAT_SECONDS: Final = 20
"""Seconds of silence after which the server gives a connection up at the latest at twice as many, and we after 25."""

CONNECT_SECONDS: Final = 5
"""Seconds for a host to take the TCP connection; then the next one is tried."""

HANDSHAKE_SECONDS: Final = 8
"""Seconds until a connection is ready to use, with TCP and TLS."""

QUEUE_TYPES: Final = ("classic", "quorum")


class Address(NamedTuple):
    hosts: list[URLParameters]
    queue_type: str | None
    """To declare new queues with; None leaves it to the virtual host."""


def parse(url: str) -> Address:
    """Raises `ConfigurationError` for a URL that names no server, or has a parameter that means nothing here."""
    parts = urlsplit(url)
    settings = dict(parse_qsl(parts.query, keep_blank_values=True))
    queue_type = settings.pop("type", None)
    if queue_type is not None and queue_type not in QUEUE_TYPES:
        raise ConfigurationError(f"type={queue_type}: a queue's type is {' or '.join(QUEUE_TYPES)}")
    settings.setdefault("heartbeat", str(HEARTBEAT_SECONDS))
    who, at, hosts = parts.netloc.rpartition("@")
    found = []
    for host in hosts.split(","):
        one = urlunsplit((parts.scheme, f"{who}{at}{host}", parts.path, urlencode(settings), ""))
        try:
            parameters = URLParameters(one)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                f"the RabbitMQ URL cannot be understood ({error}): write amqp://user:password@host:5672/vhost"
            ) from error
        parameters.socket_timeout = CONNECT_SECONDS
        parameters.stack_timeout = HANDSHAKE_SECONDS
        parameters.connection_attempts = 1
        parameters.blocked_connection_timeout = None
        found.append(parameters)
    return Address(found, queue_type)


def spoken(parameters: URLParameters) -> str:
    """The server as messages name it: without the password."""
    return f"RabbitMQ at {parameters.host}:{parameters.port}"
