"""A gateway without the code refuses by a worker's announced schema what the worker's handler would refuse."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pydantic
import pytest

from queuecast import InvalidInput
from queuecast.control import HandlerInfo
from queuecast.handler import Announced, Signature
from queuecast.schema import type_of


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int = 0
    beside: list["Point"] = field(default_factory=list)


class Page(pydantic.BaseModel):
    title: str
    parts: list["Page"] = []


class Cat(msgspec.Struct, tag="cat"):
    lives: int


class Dog(msgspec.Struct, tag="dog"):
    name: str


def flaws_of(check, body):
    try:
        check(body)
    except InvalidInput as error:
        return [(flaw.pointer, flaw.detail) for flaw in error.flaws]
    return []


def announced(annotation):
    def handler(a): ...

    handler.__annotations__ = {"a": annotation}
    signature = Signature(handler)
    # As it comes out of the control log.
    schema = msgspec.json.decode(msgspec.json.encode(signature.schema()))
    return signature, Announced(HandlerInfo("handler", schema))


@pytest.mark.parametrize(
    ("annotation", "values"),
    [
        (int, [1, 1.5, "1", None, True]),
        (float, [1, 1.5, "1"]),
        (bool, [True, 0]),
        (str, ["x", 1, None]),
        (None, [None, 0]),
        (Any, [1, None, {"x": []}]),
        (bytes, ["YQ==", "a", 1]),
        (Decimal, [1.5, 2]),
        (UUID, ["12345678-1234-5678-1234-567812345678", "1234"]),
        (date, ["2026-01-31", "2026-02-31"]),
        (timedelta, ["PT1S", "1s"]),
        (Annotated[datetime, msgspec.Meta(tz=True)], [datetime(2026, 1, 1, tzinfo=UTC), "yesterday"]),
        (Annotated[int, msgspec.Meta(ge=1, lt=5, multiple_of=2)], [2, 0, 3, 6]),
        (Annotated[str, msgspec.Meta(min_length=1, pattern="^a")], ["ab", "", "b"]),
        (Annotated[list[int], msgspec.Meta(max_length=1)], [[1], [1, 2]]),
        (int | None, [1, None, "x"]),
        (Literal["a", 2], ["a", 2, "b", 3]),
        (Colour, ["red", "blue"]),
        (list[int], [[], [1], [1, "x"], {}]),
        (set[int], [[1, 1], ["x"]]),
        (tuple[int, str], [[1, "x"], [1], ["x", 1]]),
        (tuple[int, ...], [[], [1, 2], ["x"]]),
        (dict[str, int], [{}, {"x": 1}, {"x": "y"}, []]),
        (Point, [{"x": 1}, {"x": 1, "y": "z"}, {}, {"x": 1, "z": 2}, {"x": 1, "beside": [{"y": 1}]}, 1]),
        (list[Point | None], [[None, {"x": 1}], [1]]),
        (Cat | Dog, [{"type": "cat", "lives": 9}]),
    ],
)
def test_it_refuses_what_the_handler_refuses_in_the_same_words(annotation, values):
    signature, without_code = announced(annotation)
    for value in values:
        body = msgspec.json.encode({"a": value})
        if "beside" in body.decode():  # what lies within itself is looked through once
            assert flaws_of(without_code.check, body) == []
            continue
        assert flaws_of(without_code.check, body) == flaws_of(signature.decode, body)


@pytest.mark.parametrize("body", [b"{}", b'{"b": 1}', b'{"a": 1, "b": 2}', b"[1]", b"1", b"\xff"])
def test_missing_and_extra_arguments(body):
    signature, without_code = announced(int)
    found = flaws_of(without_code.check, body)
    assert found
    assert found == flaws_of(signature.decode, body)


def test_of_a_pydantic_model_the_argument_is_named():
    _, without_code = announced(Page)
    assert flaws_of(without_code.check, b'{"a": {"title": "x", "parts": [{"title": "y"}]}}') == []
    assert flaws_of(without_code.check, b'{"a": {"parts": []}}') == [
        ("/args/a/title", "Object missing required field `title`")
    ]


def test_an_argument_may_have_the_name_of_anything():
    check = Announced(HandlerInfo("h", {"properties": {"class": {"type": "integer"}, "é-1": {}}})).check
    assert flaws_of(check, '{"class": 1, "é-1": 1}'.encode()) == []
    assert flaws_of(check, b'{"class": "x"}') == [("/args/class", "Expected `int`, got `str`")]


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "strange"},
        {"type": ["integer", "null"]},
        {"$ref": "#/$defs/none"},
        {"$ref": 7},
        {"anyOf": 7},
        {"anyOf": []},
        {"anyOf": [{"type": "object", "properties": {}}, {"type": "object", "properties": {}}]},
        {"enum": [[1]]},
        {"enum": []},
        {"type": "string", "pattern": "("},
        {"type": "integer", "minimum": "x"},
        {"type": "object", "properties": 7},
        {"type": "object", "properties": {"x": 7}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"$defs": 7},
    ],
    ids=str,
)
def test_what_has_no_type_is_any_json(schema):
    """Also where nobody of us wrote the schema."""
    assert msgspec.json.decode(b'{"x": [1]}', type=type_of(schema)) is not None
    check = Announced(HandlerInfo("h", {"properties": {"a": schema}})).check
    assert flaws_of(check, b'{"a": {"x": 1}}') == []


def test_a_schema_that_is_too_deep_is_checked_as_far_as_can_be():
    schema = {"type": "integer"}
    for _ in range(10_000):
        schema = {"type": "array", "items": schema}
    decode = msgspec.json.Decoder(type_of(schema)).decode
    assert decode(b"[[[]]]") == [[[]]]
    with pytest.raises(msgspec.ValidationError):
        decode(b"[[[1]]]")
