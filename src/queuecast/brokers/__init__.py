"""Backends behind one contract. `make_broker` picks one by its URL and imports only that one."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from ..errors import ConfigurationError
from .base import CONTROL, Broker, Consumer, Delivery, External, Retention

if TYPE_CHECKING:
    from .folded.driver import Driver

MOST_BYTES: Final = 1e18
"""What no log ever takes, and backends can still count. More is refused as if it were infinite."""

__all__ = ["CONTROL", "Broker", "Consumer", "Delivery", "External", "Retention", "make_broker"]


def make_broker(url: str) -> Broker:
    """The broker that a URL names, not opened yet. Raises `ConfigurationError` for a URL that names none.

    `sqlite:///work.db` (a path relative to the working directory; four slashes for an absolute one), `memory://`,
    `amqp://` and `kafka://`. Query parameters: `retain_days`, `retain_mb` for every backend, `sync=full|normal` for
    SQLite, `state=` for the servers' and what their guides name.
    """
    from urllib.parse import parse_qsl, urlsplit

    parts = urlsplit(url)
    settings = dict(parse_qsl(parts.query, keep_blank_values=True))
    retention = _retention(settings)
    if parts.scheme == "memory":
        from .memory import MemoryBroker

        _refuse_unknown(url, settings)
        return MemoryBroker(url, retention)
    if parts.scheme == "sqlite":
        from .sqlite import SQLiteBroker

        sync = settings.pop("sync", "full")
        _refuse_unknown(url, settings)
        return SQLiteBroker(url, retention, path=_path(url), sync=sync)
    if parts.scheme in ("amqp", "amqps"):
        try:
            from .rabbitmq import RabbitDriver
        except ModuleNotFoundError as error:
            raise ConfigurationError("RabbitMQ needs pika: pip install 'queuecast[rabbitmq]'") from error
        return _folded(url, settings, retention, RabbitDriver)
    if parts.scheme == "kafka":
        try:
            from .kafka import KafkaDriver
        except ModuleNotFoundError as error:
            raise ConfigurationError("Kafka needs confluent-kafka: pip install 'queuecast[kafka]'") from error
        return _folded(url, settings, retention, KafkaDriver)
    raise ConfigurationError(f"no broker for {url!r}: use sqlite:///work.db, amqp://host, kafka://host or memory://")


def _folded(
    url: str, settings: dict[str, str], retention: Retention, driver: Callable[[str, Retention], Driver]
) -> Broker:
    from urllib.parse import urlencode, urlsplit, urlunsplit

    from .folded.broker import FoldedBroker

    state = settings.pop("state", None)
    own = urlunsplit(urlsplit(url)._replace(query=urlencode(settings)))
    return FoldedBroker(url, retention, driver(own, retention), state)


def _path(url: str) -> str:
    """As it stands there: nothing in it is escaped, and only a question mark ends it."""
    before, slashes, path = url.partition("?")[0].partition(":///")
    if ":" in before or not slashes or not path.strip("/") or "\0" in path:
        raise ConfigurationError(f"{url!r} names no file: write sqlite:///work.db, or sqlite:////var/lib/work.db")
    if path == ":memory:":
        raise ConfigurationError(f"{url!r} would be a file of that name: write memory://")
    return path


def _retention(settings: dict[str, str]) -> Retention:
    kept = Retention()
    try:
        age = float(settings.pop("retain_days", kept.age / 86_400)) * 86_400
        size = float(settings.pop("retain_mb", kept.size / 1_000_000)) * 1_000_000
    except ValueError as error:
        raise ConfigurationError(f"retain_days and retain_mb are numbers: {error}") from error
    if not (0 < age < inf and 0 < size < MOST_BYTES):
        raise ConfigurationError("retain_days and retain_mb must be over 0, and finite")
    return Retention(age, int(size))


def _refuse_unknown(url: str, settings: dict[str, str]) -> None:
    if settings:
        raise ConfigurationError(f"{url!r}: unknown parameter {', '.join(sorted(settings))}")
