"""The URL of a Kafka: `kafka://host:9092,host:9092`, with a user and password before an `@` where it asks for them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from ...errors import ConfigurationError

PORT: Final = 9092

PARTITIONS: Final = 12
"""Of a task topic that is made here: at most so many workers share a queue."""

SESSION_SECONDS: Final = 6.0
"""Seconds of silence after which a worker's tasks go to others. The least that a broker allows by default."""

PROTOCOLS: Final = ("classic", "consumer", "share")


class Address(NamedTuple):
    settings: dict[str, Any]
    """Of every client, in librdkafka's words."""
    partitions: int
    replicas: int
    """Of topics that are made here; -1 leaves it to the broker."""
    session: float
    protocol: str
    """`consumer` is the group protocol of KIP-848, whose session the broker decides, and `share` that of KIP-932."""


def parse(url: str) -> Address:
    """Raises `ConfigurationError` for a URL that names no server, or has a parameter that means nothing here.

    A parameter with a dot in its name is a setting of librdkafka (`security.protocol`, `ssl.ca.location`).
    """
    parts = urlsplit(url)
    who, _, hosts = parts.netloc.rpartition("@")
    if not all(host.rpartition(":")[0] or host for host in hosts.split(",")) or parts.path.strip("/"):
        raise ConfigurationError("the Kafka URL cannot be understood: write kafka://host:9092,otherhost:9092")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    settings: dict[str, Any] = {"bootstrap.servers": ",".join(_with_port(host) for host in hosts.split(","))}
    if who:
        user, _, password = who.partition(":")
        settings |= {"security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN"}
        settings |= {"sasl.username": unquote(user), "sasl.password": unquote(password)}
    settings |= {name: given.pop(name) for name in tuple(given) if "." in name}
    address = Address(
        settings,
        partitions=int(_number(given, "partitions", PARTITIONS)),
        replicas=int(_number(given, "replicas", -1)),
        session=_number(given, "session", SESSION_SECONDS),
        protocol=given.pop("protocol", "classic"),
    )
    if address.protocol not in PROTOCOLS:
        raise ConfigurationError(f"protocol={address.protocol}: a group's protocol is one of {', '.join(PROTOCOLS)}")
    if given:
        raise ConfigurationError(f"unknown parameter in the Kafka URL: {', '.join(sorted(given))}")
    return address


def _with_port(host: str) -> str:
    return host if host.rpartition(":")[2].isdecimal() else f"{host}:{PORT}"


def _number(given: dict[str, str], name: str, default: float) -> float:
    text = given.pop(name, None)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < 1_000_000:
        raise ConfigurationError(f"{name}={text}: it must be a number over 0")
    return number
