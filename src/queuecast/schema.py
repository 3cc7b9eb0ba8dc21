"""From a JSON Schema that a worker announces to a type that refuses what its handler would, in the same words.

What has no such type is taken as any JSON: the worker looks again, and a schema from elsewhere must stop nobody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from functools import reduce
from operator import or_
from typing import Annotated, Any, Final, Literal, TypeAlias
from uuid import UUID

import msgspec

Schema: TypeAlias = Mapping[str, Any]

_FORMATS: Final[Mapping[str, Any]] = {
    "date-time": datetime,
    "date": date,
    "time": time,
    "duration": timedelta,
    "uuid": UUID,
    "decimal": Any,  # numbers are taken, too
}

_BOUNDS: Final[Mapping[str, str]] = {
    "minimum": "ge",
    "exclusiveMinimum": "gt",
    "maximum": "le",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
    "pattern": "pattern",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_length",
    "maxItems": "max_length",
}
"""What JSON Schema calls a bound, and what msgspec does."""

_UNUSABLE: Final = (TypeError, ValueError, KeyError, AttributeError, RecursionError, re.error)
"""What a schema that nobody of us wrote may come to."""


def type_of(schema: Schema) -> Any:
    """The type of the JSON that this schema (2020-12) describes; `Any` where none can be told."""
    definitions = schema.get("$defs")
    return _Reader(definitions if isinstance(definitions, Mapping) else {}).type_of(schema)


class _Reader:
    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions
        self._known: dict[str, Any] = {}
        """The types of those that were read. One that contains itself is any JSON there."""

    def type_of(self, schema: Schema) -> Any:
        try:
            found = self._read(schema)
            msgspec.json.Decoder(found)
        except _UNUSABLE:
            return Any
        return found

    def _read(self, schema: Schema) -> Any:
        if "$ref" in schema:
            return self._referred(schema["$ref"].removeprefix("#/$defs/"))
        if "enum" in schema:
            return Literal[tuple(schema["enum"])]
        if "const" in schema:
            return Literal[schema["const"]]
        if "anyOf" in schema:
            return reduce(or_, map(self.type_of, schema["anyOf"]))
        read = _KINDS.get(schema.get("type", ""))
        return read(self, schema) if read else Any

    def _referred(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = Any
            self._known[name] = self.type_of(self._definitions[name])
        return self._known[name]

    def _string(self, schema: Schema) -> Any:
        if schema.get("contentEncoding") == "base64":
            return _bounded(bytes, schema)
        return _bounded(_FORMATS.get(schema.get("format", ""), str), schema)

    def _array(self, schema: Schema) -> Any:
        places = schema.get("prefixItems")
        if places and schema.get("minItems") == schema.get("maxItems") == len(places):
            return tuple[tuple(map(self.type_of, places))]  # type: ignore[misc]
        items = schema.get("items")
        return _bounded(list[self.type_of(items)] if isinstance(items, Mapping) else list, schema)  # type: ignore[misc]

    def _object(self, schema: Schema) -> Any:
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        if not properties and more is not False:
            return dict[str, self.type_of(more)] if isinstance(more, Mapping) else dict  # type: ignore[misc]
        # A property may have any name, a field may not.
        names = {f"field_{number}": name for number, name in enumerate(properties)}
        required = schema.get("required", ())
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        for field, name in names.items():
            kind = self.type_of(properties[name])
            fields.append((field, kind) if name in required else (field, kind, msgspec.UNSET))
        return msgspec.defstruct("object", fields, kw_only=True, rename=names, forbid_unknown_fields=more is False)


def _bounded(kind: Any, schema: Schema) -> Any:
    bounds = {ours: schema[theirs] for theirs, ours in _BOUNDS.items() if theirs in schema}
    return Annotated[kind, msgspec.Meta(**bounds)] if bounds else kind


_KINDS: Final[Mapping[str, Callable[[_Reader, Schema], Any]]] = {
    "null": lambda _, __: None,
    "boolean": lambda _, __: bool,
    "integer": lambda _, schema: _bounded(int, schema),
    "number": lambda _, schema: _bounded(float, schema),
    "string": _Reader._string,
    "array": _Reader._array,
    "object": _Reader._object,
}
