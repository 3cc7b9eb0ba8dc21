"""Backends behind one contract. `open_broker` picks one by its URL and imports only that one."""

from __future__ import annotations

from math import inf

from ..errors import ConfigurationError
from .base import CONTROL, Broker, Delivery, Projected, Retention

__all__ = ["CONTROL", "Broker", "Delivery", "Projected", "Retention", "make_broker"]


def make_broker(url: str) -> Broker:
    """The broker that a URL names, not opened yet. Raises `ConfigurationError` for a URL that names none.

    `sqlite:///work.db` (a path relative to the working directory; four slashes for an absolute one), `memory://`.
    Query parameters: `retain_days`, `retain_mb` for every backend, `sync=full|normal` for SQLite.
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
        return SQLiteBroker(url, retention, path=_path(url, parts.path, parts.netloc), sync=sync)
    raise ConfigurationError(f"no broker for {url!r}: use sqlite:///work.db or memory://")


def _path(url: str, path: str, netloc: str) -> str:
    if netloc or len(path) < 2:
        raise ConfigurationError(f"{url!r} names no file: write sqlite:///work.db, or sqlite:////var/lib/work.db")
    return path[1:]


def _retention(settings: dict[str, str]) -> Retention:
    kept = Retention()
    try:
        age = float(settings.pop("retain_days", kept.age / 86_400)) * 86_400
        size = float(settings.pop("retain_mb", kept.size / 1_000_000)) * 1_000_000
    except ValueError as error:
        raise ConfigurationError(f"retain_days and retain_mb are numbers: {error}") from error
    if not (0 < age < inf and 0 < size < inf):
        raise ConfigurationError("retain_days and retain_mb must be over 0, and finite")
    return Retention(age, int(size))


def _refuse_unknown(url: str, settings: dict[str, str]) -> None:
    if settings:
        raise ConfigurationError(f"{url!r}: unknown parameter {', '.join(sorted(settings))}")
