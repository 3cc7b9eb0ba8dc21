"""Cursors: what every client sends back, in whatever state."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuecast.cursor import (
    MAX_CURSOR_CHARS,
    MAX_STREAM_QUEUES,
    Cursor,
    beginning,
    cursor_at,
    digest,
    format_vector,
    parse_cursor,
    parse_vector,
    text_at,
)
from queuecast.errors import ResetRequired

IDENTITIES = st.none() | st.from_regex(r"[A-Za-z0-9]{1,16}", fullmatch=True).filter(lambda identity: identity != "0")
CURSORS = st.builds(
    Cursor, IDENTITIES, st.integers(0, 10**18 - 1), st.just("0") | st.from_regex(r"[0-9a-f]{8}", fullmatch=True)
)
QUEUES = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?", fullmatch=True)
LONGEST = Cursor("Z" * 16, 10**18 - 1, "f" * 8)

HERE = Cursor("ab12", 7, "00c0ffee")


def outcome(parse, *arguments) -> str:
    try:
        parse(*arguments)
    except ResetRequired as refused:
        return refused.reason
    return "parsed"


# One log


@given(CURSORS)
def test_a_cursor_comes_back_as_it_was(cursor):
    assert parse_cursor(str(cursor)) == cursor


@given(CURSORS)
def test_a_cursor_holds_only_what_browsers_send_across_origins_without_asking(cursor):
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", str(cursor))


@pytest.mark.parametrize(
    ("cursor", "text"),
    [
        (HERE, "ab12.7.00c0ffee"),
        (Cursor(None, 7, "00c0ffee"), "0.7.00c0ffee"),
        (beginning("ab12"), "ab12.0.0"),
        (beginning("ab12", 41), "ab12.41.0"),
        (beginning(None), "0.0.0"),
        (cursor_at("ab12", 7, b"123456789"), "ab12.7.cbf43926"),
    ],
)
def test_a_cursor_is_written_as(cursor, text):
    assert str(cursor) == text


@pytest.mark.parametrize("place", [("ab12", 7, b"123456789"), (None, 1, b""), ("f", 10**18 - 1, b"{}")])
def test_the_text_of_a_place_is_that_of_its_cursor(place):
    assert text_at(*place) == str(cursor_at(*place))


def test_a_digest_tells_events_apart():
    assert digest(b"123456789") == "cbf43926"
    assert digest(b"") == "00000000"
    assert digest(b'{"a":1}') != digest(b'{"a":2}')


def test_no_event_has_the_digest_of_a_place_without_one():
    assert beginning(None).digest != digest(b"")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "ab12",
        "ab12.7",
        "ab12.7.",
        ".7.00c0ffee",
        "ab12..00c0ffee",
        "ab12.7.00c0ffee.1",
        "ab12.-7.00c0ffee",
        "ab12.+7.00c0ffee",
        "ab12.7.0.00c0ffee",
        "ab12.seven.00c0ffee",
        "ab12.٣.00c0ffee",
        "ab12.7.00C0FFEE",
        "ab12.7.coffee",
        "ab12.7.000c0ffee",
        "ab_2.7.00c0ffee",
        "bücher.7.00c0ffee",
        "Z" * 17 + ".7.00c0ffee",
        "ab12." + "9" * 19 + ".00c0ffee",
        " ab12.7.00c0ffee",
        "ab12.7.00c0ffee\n",
        "ab12.7.00c0ffee\x00",
        "ab12.7.00c0ffee,cd34.8.00c0ffee",
        "v1-ab12.7.00c0ffee",
        "first",
        "9" * 1_000_000,
    ],
    ids=lambda text: repr(text)[:30],
)
def test_a_malformed_cursor_is_refused(text):
    assert outcome(parse_cursor, text) == "malformed"


# Several logs


@given(st.dictionaries(QUEUES, CURSORS, min_size=1, max_size=MAX_STREAM_QUEUES))
def test_a_vector_comes_back_as_it_was(cursors):
    text = format_vector(cursors)
    assert parse_vector(text, frozenset(cursors)) == cursors
    assert re.fullmatch(r"[A-Za-z0-9._-]+", text)


def test_the_order_in_which_queues_are_asked_for_does_not_matter():
    there = Cursor("cd34", 9, "0")
    assert format_vector({"a": HERE, "b": there}) == format_vector({"b": there, "a": HERE})


def test_as_many_queues_as_are_allowed_fit_into_a_cursor():
    cursors = {f"{number:02}" + "q" * 62: LONGEST for number in range(MAX_STREAM_QUEUES)}
    text = format_vector(cursors)
    assert len(text) <= MAX_CURSOR_CHARS
    assert parse_vector(text, frozenset(cursors)) == cursors


@pytest.mark.parametrize(
    "queues",
    [{"a"}, {"a", "c"}, {"a", "b", "c"}, {"b", "c"}, {"ab"}, set()],
    ids=lambda queues: ",".join(sorted(queues)) or "none",
)
def test_a_vector_belongs_to_its_set_of_queues(queues):
    text = format_vector({"a": HERE, "b": HERE})
    assert outcome(parse_vector, text, frozenset(queues)) == "other-log"


TWO = format_vector({"a": HERE, "b": HERE})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v",
        "v-",
        str(HERE),
        TWO[1:],
        TWO + "-",
        TWO + "\n",
        " " + TWO,
        TWO.replace("v", "w", 1),
        TWO.replace("-", "_"),
        TWO.replace("-", "--", 1),
        TWO.replace(".7.", ".x.", 1),
        TWO.replace("ab12", "", 1),
        TWO.replace("ab12", "Z" * 17, 1),
        TWO.replace("ab12", "Z" * 1_000, 1),
        format_vector({f"q{number}": HERE for number in range(MAX_STREAM_QUEUES + 1)}),
        "v" + "0" * 8 + "-a" * 1_000_000,
    ],
    ids=lambda text: repr(text)[:40],
)
def test_a_malformed_vector_is_refused(text):
    assert outcome(parse_vector, text, frozenset({"a", "b"})) == "malformed"


def test_a_vector_with_a_cursor_too_few_is_refused():
    assert outcome(parse_vector, TWO.rpartition("-")[0], frozenset({"a", "b"})) == "other-log"


@given(st.text())
def test_whatever_comes_is_a_cursor_or_is_refused(text):
    assert outcome(parse_cursor, text) in ("parsed", "malformed")
    assert outcome(parse_vector, text, frozenset({"a"})) in ("parsed", "malformed", "other-log")
