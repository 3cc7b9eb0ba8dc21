"""The SSE format: the cases in spec/cases, any stream in any cut against a plain reading, and the bounds."""

import base64
import json
import re
import tracemalloc
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from queuecast import sse
from queuecast.sse import Message, MessageTooLong, Parser

CASES = Path(__file__).parents[1] / "spec" / "cases"

Outcome = tuple[list[Message], str, int | None]


def load(name: str) -> list[Any]:
    cases = json.loads((CASES / name).read_text(encoding="utf-8"))
    return [pytest.param(case, id=case["name"]) for case in cases]


PARSE_CASES = load("sse-parse.json")
ENCODE_CASES = load("sse-encode.json")


def feed_all(parser: Parser, chunks: Iterable[bytes]) -> list[Message]:
    return [message for chunk in chunks for message in parser.feed(chunk)]


def outcome(chunks: Iterable[bytes], last_event_id: str = "") -> Outcome:
    parser = Parser(last_event_id)
    messages = feed_all(parser, chunks)
    return messages, parser.last_event_id, parser.retry_ms


def pieces(stream: bytes, size: int) -> list[bytes]:
    return [stream[start : start + size] for start in range(0, len(stream), size)]


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    bounds = [0, *sorted(places), len(stream)]
    return [stream[a:b] for a, b in pairwise(bounds)]


# The cases


def stream_of(case: dict[str, Any]) -> bytes:
    return base64.b64decode(case["input_base64"]) if "input_base64" in case else case["input"].encode()


def expected_of(case: dict[str, Any]) -> Outcome:
    return [Message(**message) for message in case["messages"]], case["last_event_id"], case["retry_ms"]


@pytest.mark.parametrize("cases", [PARSE_CASES, ENCODE_CASES], ids=["parse", "encode"])
def test_case_names_are_unique(cases):
    names = [param.id for param in cases]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("case", PARSE_CASES)
@pytest.mark.parametrize("size", [1, 2, 3, 1_000_000])
def test_parse_case_in_pieces_of(size, case):
    start = case.get("initial_last_event_id", "")
    assert outcome(pieces(stream_of(case), size), start) == expected_of(case)


@pytest.mark.parametrize("case", PARSE_CASES)
def test_parse_case_split_at_every_position(case):
    stream, start = stream_of(case), case.get("initial_last_event_id", "")
    for place in range(len(stream) + 1):
        assert outcome(cut(stream, [place]), start) == expected_of(case), place


@pytest.mark.parametrize("case", [param for param in PARSE_CASES if "chunks" in param.values[0]])
def test_parse_case_in_its_own_chunks(case):
    assert "".join(case["chunks"]) == case["input"]
    assert outcome(chunk.encode() for chunk in case["chunks"]) == expected_of(case)


@pytest.mark.parametrize("case", PARSE_CASES)
def test_the_plain_reading_agrees_with_the_case(case):
    assert plain_reading(stream_of(case), case.get("initial_last_event_id", "")) == expected_of(case)


@pytest.mark.parametrize("case", ENCODE_CASES)
def test_encode_case(case):
    encode: Callable[..., bytes] = getattr(sse, case["call"])
    args = {name: value.encode() if name == "data" else value for name, value in case["args"].items()}
    if case["output"] is None:
        with pytest.raises(ValueError):
            encode(**args)
    else:
        assert encode(**args) == case["output"].encode()


@pytest.mark.parametrize("place", ["id", "event"])
def test_a_lone_surrogate_is_refused(place):
    with pytest.raises(ValueError):
        sse.frame(b"{}", **{"id": "1", place: "\ud800"})


# Any stream, any cut


def plain_reading(stream: bytes, last_event_id: str = "") -> Outcome:
    """The standard read as plainly as it can be, over a whole stream at once. Slow, and shares no code."""
    lines = re.split("\r\n|\r|\n", stream.decode("utf-8", "replace").removeprefix("\ufeff"))[:-1]
    messages: list[Message] = []
    data, event, id_buffer, retry_ms = "", "", last_event_id, None
    for line in lines:
        name, value = line.split(":", 1) if ":" in line else (line, "")
        value = value[1:] if value[:1] == " " else value
        if line == "":
            last_event_id = id_buffer
            if data != "":
                messages.append(Message(event or "message", data[:-1], last_event_id))
            data, event = "", ""
        elif name == "data":
            data += value + "\n"
        elif name == "event":
            event = value
        elif name == "id" and "\0" not in value:
            id_buffer = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            digits = value.lstrip("0") or "0"
            retry_ms = int(digits) if len(digits) < 16 else min(int(digits[:20]), sse.MAX_RETRY_MS)
    return messages, last_event_id, retry_ms


NAMES = [b"data", b"id", b"event", b"retry"]
MARKS = [b":", b": ", b" ", b"\n", b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\0", b"\xef\xbb\xbf"]
VALUES = [b"x", b"7", "\u00e9\u2028".encode(), b"\xff", b"\xe2\x80", b"\x85", b"\x0b", b"\x1c"]
lines_of_fields = st.tuples(
    st.sampled_from([b"data:", b"data: ", b"id:", b"id: ", b"event:", b"retry:", b":", b"\xef\xbb\xbfdata:"]),
    st.binary(max_size=4) | st.sampled_from(VALUES),
    st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r"]),
).map(b"".join)
streams = st.lists(st.sampled_from(NAMES + MARKS + VALUES) | lines_of_fields, max_size=30).map(b"".join)
cuts = st.lists(st.integers(min_value=0, max_value=400), max_size=20)


@given(stream=streams | st.binary(max_size=200), places=cuts, start=st.sampled_from(["", "41"]))
@example(stream=b"data:a\r\n\r\n", places=[7, 7, 9], start="")
@example(stream=b"\xef\xbb\xbfdata:a\n\n", places=[1, 2], start="")
def test_any_stream_in_any_cut_is_read_as_the_standard_says(stream, places, start):
    expected = plain_reading(stream, start)
    assert outcome(cut(stream, places), start) == expected
    assert outcome(pieces(stream, 1), start) == expected


texts = st.text(st.characters(codec="utf-8"), max_size=30)
broken_texts = st.lists(texts | st.sampled_from(["\r", "\n", "\r\n", "\n\ndata: x", "\rid: 9"])).map("".join)
one_liners = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=20)
blocks = st.one_of(
    st.tuples(st.just("frame"), broken_texts, one_liners, st.none() | one_liners),
    st.tuples(st.just("id_block"), one_liners),
    st.tuples(st.just("retry"), st.integers(min_value=0, max_value=sse.MAX_RETRY_MS)),
    st.tuples(st.just("comment"), broken_texts),
)


@given(written=st.lists(blocks, max_size=8), places=cuts)
def test_what_is_written_is_read(written, places):
    messages, last_event_id, retry_ms, wire = [], "", None, b""
    for block in written:
        match block:
            case ("frame", data, id, event):
                wire += sse.frame(data.encode(), id, event)
                messages.append(Message(event or "message", re.sub("\r\n|\r", "\n", data), id))
                last_event_id = id
            case ("id_block", id):
                wire += sse.id_block(id)
                last_event_id = id
            case ("retry", ms):
                wire += sse.retry(ms)
                retry_ms = ms
            case ("comment", text):
                wire += sse.comment(text)
    assert outcome(cut(wire, places)) == (messages, last_event_id, retry_ms)
    assert b"\r" not in wire


@given(data=st.binary(max_size=60))
def test_no_bytes_of_data_reach_beyond_their_message(data):
    wire = sse.frame(data, "1") + sse.frame(b"end", "2")
    text = re.sub(rb"\r\n|\r", b"\n", data).decode("utf-8", "replace")
    assert outcome([wire])[0] == [Message("message", text, "1"), Message("message", "end", "2")]


# Bounds

LIMIT = 40


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"data: %b\n\n" % (b"x" * (LIMIT - 6)), id="one data line"),
        pytest.param(b"data:%b\ndata:%b\n\n" % (b"x" * 10, b"y" * (LIMIT - 16)), id="two data lines"),
        pytest.param(b":%b\n\n" % (b"x" * (LIMIT - 1)), id="comment"),
        pytest.param(b"id:%b\n\n" % (b"x" * (LIMIT - 3)), id="id"),
        pytest.param(b"data\n" * (LIMIT - 3) + b"\n", id="empty data lines"),
    ],
)
def test_a_message_may_fill_the_limit_and_not_exceed_it(block, size):
    feed_all(Parser(max_message_bytes=LIMIT), pieces(block * 3, size))
    with pytest.raises(MessageTooLong):
        feed_all(Parser(max_message_bytes=LIMIT - 1), pieces(block * 3, size))


def test_the_default_limit():
    line = b"data:" + b"x" * (sse.MAX_MESSAGE_BYTES - 5)
    assert len(Parser().feed(line + b"\n\n")) == 1
    with pytest.raises(MessageTooLong):
        Parser().feed(line + b"x")


def test_a_limit_of_nothing_lets_blank_lines_pass():
    parser = Parser(max_message_bytes=0)
    assert parser.feed(b"\n\r\n\r") == []
    with pytest.raises(MessageTooLong):
        parser.feed(b":")


@given(places=cuts)
def test_the_error_never_swallows_messages_that_were_complete(places):
    wire = sse.frame(b"a", "1") + sse.frame(b"b", "2") + sse.frame(b"x" * 100, "3") + sse.frame(b"c", "4")
    parser, messages, errors = Parser(max_message_bytes=LIMIT), [], 0
    for chunk in [*cut(wire, places), b"", b"data: d\n\n"]:
        try:
            messages += parser.feed(chunk)
        except MessageTooLong:
            errors += 1
    assert [message.data for message in messages] == ["a", "b"]
    assert errors >= 2
    assert parser.last_event_id == "2"


def test_a_parser_that_has_failed_keeps_nothing_more():
    parser, errors = Parser(max_message_bytes=LIMIT), 0
    tracemalloc.start()
    try:
        for _ in range(100):
            try:
                parser.feed(b"x" * 1000)
            except MessageTooLong:
                errors += 1
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert errors == 100
    assert held < 50_000


def bytes_allocated(chunks: list[bytes]) -> int:
    """By the parser, summed over all feeds. Copying what was fed before shows here as quadratic growth."""
    parser, total = Parser(), 0
    tracemalloc.start()
    try:
        for chunk in chunks:
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            parser.feed(chunk)
            total += tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    return total


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(lambda n: [b"data:", *[b"x"] * n, b"\n\n"], id="a long line byte by byte"),
        pytest.param(lambda n: [b"data:", *[b"xy"] * n, b"\n\n"], id="a long line in twos"),
        pytest.param(lambda n: [b"data:x\n"] * n + [b"\n"], id="many data lines"),
        pytest.param(lambda n: [b"data:x\n" * n + b"\n"], id="many data lines at once"),
        pytest.param(lambda n: [b"data:x\n\n" * n], id="many messages at once"),
        pytest.param(lambda n: [b"id:7\n"] * n, id="many fields in one block"),
    ],
)
def test_the_work_grows_with_the_stream_and_not_with_its_square(stream):
    small, large = bytes_allocated(stream(3000)), bytes_allocated(stream(4 * 3000))
    assert large < 8 * small
