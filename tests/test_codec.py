"""Tasks, events and users' values to and from JSON."""

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from queuecast.codec import decode_event, decode_task, encode_event, encode_task, encode_value, read_head
from queuecast.errors import TooLarge
from queuecast.event import MAX_EVENT_BYTES, OutputEvent, ResultEvent
from queuecast.task import MAX_DEPTH, Task

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=15,
)

BREAKS_LINES = ["\n", "\r", "\u0085", "\u2028", "\u2029", "\v", "\f", "\x1c", "\x1d", "\x1e"]
"""Where `str.splitlines` cuts, and with it many a client of Server-Sent Events."""


def output(value: object) -> OutputEvent:
    return OutputEvent(id="t1", queue="reports", attempt=1, run="k3f9", seq=2, time="", output=value, index=0)


def result(value: object) -> ResultEvent:
    return ResultEvent(id="t1", queue="reports", attempt=1, run="k3f9", seq=2, time="", state="succeeded", result=value)


# Tasks


def test_a_task_comes_back_as_it_was():
    task = Task(
        id="t1",
        queue="reports",
        name="render",
        args=Raw('{"title":"Übersicht","rows":[1,2.5,null]}'.encode()),
        submitted_at=1_767_225_600.123_456,
        not_before=1_767_225_700.5,
        expires_at=1_767_225_800.25,
        timeout=0.1,
        retries=3,
        owner="ann",
        reply_to="amq.gen-1",
        correlation_id="c1",
        traceparent="00-1-2-03",
        requeued_from="t0",
    )
    assert decode_task(encode_task(task)) == task


@pytest.mark.parametrize("body", [b"", b"nope", b"[]", b"{}", b'{"id":7}', b"\xff"])
def test_what_is_no_task_is_not_decoded(body):
    with pytest.raises(msgspec.DecodeError):
        decode_task(body)


# Events


@given(JSON)
def test_any_value_comes_back_as_it_was(value):
    assert decode_event(encode_event(output(encode_value(value)))).output == value
    assert decode_event(encode_event(result(encode_value(value)))).result == value


@given(JSON)
def test_an_event_is_one_line_whoever_cuts_it(value):
    body = encode_event(output(encode_value(value)))
    assert len(body.decode().splitlines()) == 1
    assert json.loads(body)["output"] == value


@pytest.mark.parametrize("char", BREAKS_LINES, ids=repr)
def test_a_character_that_breaks_lines_is_escaped(char):
    value = {f"key{char}": f"left{char}right", "again": [char, char + char]}
    for event in (output(value), output(encode_value(value))):
        body = encode_event(event)
        assert char.encode() not in body
        assert decode_event(body).output == value


def test_other_characters_stay_as_they_are():
    assert "naïve 漢字 😀 \u2027\u202a".encode() in encode_event(output("naïve 漢字 😀 \u2027\u202a"))


def test_an_event_carries_its_cursor_only_once_it_is_read():
    event = decode_event(encode_event(result("done")), cursor="ab12.7.00c0ffee")
    assert event.cursor == "ab12.7.00c0ffee"
    assert decode_event(encode_event(result("done"))).cursor == ""


def test_a_result_that_has_none_is_read_as_none():
    failed = ResultEvent(id="t1", queue="reports", attempt=1, time="", state="failed")
    assert b'"result":' not in encode_event(failed)
    assert decode_event(encode_event(failed)).result is None


@pytest.mark.parametrize("body", [b"", b"nope", b"[]", b'{"type":"task"}', b'{"type":"log","id":"t1"}', b"\xff"])
def test_what_is_no_event_is_not_decoded(body):
    with pytest.raises(msgspec.DecodeError):
        decode_event(body)


def test_an_event_at_the_limit_is_encoded():
    wrapping = len(encode_event(output("")))
    assert len(encode_event(output("x" * (MAX_EVENT_BYTES - wrapping)))) == MAX_EVENT_BYTES


def test_an_event_over_the_limit_is_refused():
    wrapping = len(encode_event(output("")))
    with pytest.raises(TooLarge, match=f"{MAX_EVENT_BYTES + 1} bytes; the limit is {MAX_EVENT_BYTES}"):
        encode_event(output("x" * (MAX_EVENT_BYTES + 1 - wrapping)))


def test_what_counts_is_the_size_after_escaping():
    wrapping = len(encode_event(output("")))
    with pytest.raises(TooLarge):
        encode_event(output("\u2028" * ((MAX_EVENT_BYTES - wrapping) // 6 + 1)))


# Values


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int | None = None


class Size(msgspec.Struct):
    width: int


class Page(pydantic.BaseModel):
    number: int
    printed: datetime | None = None


@pytest.mark.parametrize(
    ("value", "json"),
    [
        (None, b"null"),
        (True, b"true"),
        (7, b"7"),
        (2**70, b"1180591620717411303424"),
        (1.5, b"1.5"),
        ("naïve", '"naïve"'.encode()),
        ([1, [2]], b"[1,[2]]"),
        ((1, 2), b"[1,2]"),
        ({"a": 1}, b'{"a":1}'),
        ({1: "a"}, b'{"1":"a"}'),
        (datetime(2026, 1, 1, tzinfo=UTC), b'"2026-01-01T00:00:00Z"'),
        (date(2026, 1, 1), b'"2026-01-01"'),
        (UUID(int=7), b'"00000000-0000-0000-0000-000000000007"'),
        (Decimal("1.10"), b'"1.10"'),
        (Colour.RED, b'"red"'),
        (b"raw", b'"cmF3"'),
        (Point(1, 2), b'{"x":1,"y":2}'),
        (Size(3), b'{"width":3}'),
        (Page(number=3), b'{"number":3,"printed":null}'),
        (Page(number=3, printed=datetime(2026, 1, 1, tzinfo=UTC)), b'{"number":3,"printed":"2026-01-01T00:00:00Z"}'),
        ({"pages": [Page(number=3)], "at": Point(1)}, b'{"pages":[{"number":3,"printed":null}],"at":{"x":1,"y":null}}'),
    ],
    ids=repr,
)
def test_a_value_is_written_as(value, json):
    assert bytes(encode_value(value)) == json


class Opaque:
    pass


class Unprintable(pydantic.BaseModel):
    inside: object


def endless() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


def nested(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Opaque(), "cannot carry this Opaque: objects of type Opaque are not JSON"),
        ([Opaque()], "cannot carry this list: objects of type Opaque are not JSON"),
        ({"at": {"deep": Opaque()}}, "cannot carry this dict: objects of type Opaque are not JSON"),
        (Opaque, "cannot carry this type"),
        (Page, "cannot carry this"),
        (len, "cannot carry this builtin_function_or_method"),
        (1j, "cannot carry this complex"),
        ((number for number in [1]), "cannot carry this generator"),
        ({(1, 2): 3}, "cannot carry this dict"),
        ("\ud800", "cannot carry this str"),
        ({"\udfff": 1}, "cannot carry this dict"),
        (Unprintable(inside=Opaque()), "cannot carry this Unprintable"),
        (endless(), f"this list is nested more than {MAX_DEPTH} levels deep"),
        (nested(50_000), f"this list is nested more than {MAX_DEPTH} levels deep"),
        ([None, nested(50_000)], f"this list is nested more than {MAX_DEPTH} levels deep"),
        (nested(MAX_DEPTH + 1), f"this list is nested more than {MAX_DEPTH} levels deep"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_carry_is_refused_with_the_reason(value, reason):
    with pytest.raises(ValueError) as caught:
        encode_value(value)
    assert reason in str(caught.value)


def read_from_deep_in_the_stack(body: bytes, frames: int) -> object:
    return decode_event(body).output if frames == 0 else read_from_deep_in_the_stack(body, frames - 1)


def test_what_one_process_writes_every_reader_can_read_however_deep_its_own_stack():
    value = nested(MAX_DEPTH)
    body = encode_event(output(encode_value(value)))
    assert read_from_deep_in_the_stack(body, 500) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("-inf")], {"a": {"b": float("nan")}}])
def test_what_is_no_number_is_refused_and_not_made_null(value):
    with pytest.raises(ValueError, match="NaN"):
        encode_value(value)


def test_a_null_is_a_value():
    assert bytes(encode_value({"a": None, "b": "null"})) == b'{"a":null,"b":"null"}'


# Heads


def test_a_head_tells_what_the_event_tells():
    event = output({"a": 1})
    head = read_head(encode_event(event))
    assert (head.type, head.id, head.run, head.seq, head.time) == ("output", event.id, event.run, event.seq, event.time)


def test_an_event_as_large_and_as_deep_as_may_be_has_a_head():
    assert read_head(encode_event(output(encode_value(nested(MAX_DEPTH))))) is not None
    rest = len(encode_event(output("")))
    assert read_head(encode_event(output("x" * (MAX_EVENT_BYTES - rest)))) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b"{}",
        encode_event(output("x")).replace(b",", b",\n", 1),
        encode_event(output("x")).replace(b",", b",\r", 1),
        encode_event(output("x")).replace(b'"x"', '"\u2028"'.encode()),
        encode_event(output("x")).replace(b'"x"', b'"\xff"'),
        encode_event(output("x")).replace(b'"x"', b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1)),
        encode_event(output("x")).replace(b'"x"', b"[" * 50_000),
        encode_event(output("x")).replace(b'"x"', b'"' + b"x" * MAX_EVENT_BYTES + b'"'),
    ],
    ids=lambda body: str(body[:12]),
)
def test_what_is_no_event_as_we_write_them_has_no_head(body):
    assert read_head(body) is None


@given(st.data())
def test_whatever_has_a_head_can_be_decoded(data):
    body = bytearray(encode_event(output({"a": [1, 2.5, None, "\u00fc\\"], "b": {"c": "x"}})))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b'"', b"\\", b"{", b"]", b",", b":", b"0", b"e", b"\x00", b"\x1f", b"\x80", b"\xc3", b" "])
        )
    if read_head(bytes(body)) is not None:
        decode_event(bytes(body))
