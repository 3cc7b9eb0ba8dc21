"""Settings of the command line: flag before environment before file before default, and nothing unknown."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from .errors import ConfigurationError

FILE: Final = "queuecast.toml"
"""Looked for in the working directory; without it `[tool.queuecast]` of its pyproject.toml counts."""

PREFIX: Final = "QUEUECAST_"

INTERNAL: Final = frozenset({"QUEUECAST_DEMO_FOLDER"})
"""Variables that programs of ours hand to their own. They are no settings, and no mistake either."""


class Settings(Struct, frozen=True, kw_only=True):
    """Each field is a flag (`--log-level`), a variable (`QUEUECAST_LOG_LEVEL`) and a key of the file (`log_level`)."""

    broker: str | None = None
    """None leaves it to the program, and a program that names none to a SQLite file in the working directory."""
    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65_535)] = 8765
    insecure: bool = False
    workers: Annotated[int, Meta(ge=1)] = 1
    """Gateway processes that share the port."""
    queue: tuple[str, ...] = ()
    """The queues a worker serves; none means all. As a variable: names with commas in between."""
    concurrency: Annotated[int, Meta(ge=1)] | None = None
    url: str = "http://127.0.0.1:8765"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


def load_settings(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ, folder: Path = Path()) -> Settings:
    """What holds here and now; a flag that is None, or an empty list, was not given.

    Raises `ConfigurationError` naming the flag, variable or key that is unknown or has no usable value.
    """
    values: dict[str, Any] = {}
    for origin, key, value in (*_from_file(folder), *_from_environment(environ), *_from_flags(flags)):
        values[key] = _checked(origin, key, value)
    return Settings(**values)


def _from_file(folder: Path) -> Iterator[tuple[str, str, Any]]:
    path, table = _file(folder)
    for key, value in table.items():
        if key not in Settings.__struct_fields__:
            raise _unknown(f"{path}: {key}", key, {name: name for name in Settings.__struct_fields__})
        yield f"{path}: {key}", key, value


def _file(folder: Path) -> tuple[Path, dict[str, Any]]:
    own, project = folder / FILE, folder / "pyproject.toml"
    if own.is_file():
        return own, _read(own)
    if project.is_file():
        table: Any = _read(project)
        for key in ("tool", "queuecast"):
            table = table.get(key, {})
            if not isinstance(table, dict):
                raise ConfigurationError(f"{project}: [tool.queuecast] is no table: write keys and values under it")
        return project, table
    return own, {}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    known = {PREFIX + name.upper(): name for name in Settings.__struct_fields__}
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in INTERNAL:
            if variable not in known:
                raise _unknown(variable, variable, known)
            value = environ[variable]
            yield variable, known[variable], value.split(",") if variable == "QUEUECAST_QUEUE" else value


def _from_flags(flags: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for name, value in flags.items():
        if value is not None and value != []:
            yield f"--{name.replace('_', '-')}", name, value


def _checked(origin: str, key: str, value: Any) -> Any:
    """The value in its field's type; text is read as a number or a truth value where that is wanted."""
    try:
        return getattr(msgspec.convert({key: value}, Settings, strict=False), key)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{origin} = {value!r}: {str(error).partition(' - at ')[0]}") from error


def _unknown(place: str, given: str, known: Mapping[str, str]) -> ConfigurationError:
    close = difflib.get_close_matches(given, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    return ConfigurationError(f"{place} is no setting: {hint}")
