"""Which frames a window holds, and where in it a stream goes on."""

import json

import pytest

from queuecast.brokers.base import Entry
from queuecast.cursor import beginning, cursor_at, parse_cursor, parse_vector
from queuecast.hub import window as module
from queuecast.hub.window import CHUNK_BYTES, Window
from queuecast.sse import Parser


def entry(offset, text="x", type="task"):
    return Entry(offset, json.dumps({"type": type, "id": f"t{offset}", "text": text}).encode())


def window_of(*offsets, queue="a"):
    window = Window({queue: beginning("log", 0)})
    window.extend(queue, [entry(offset) for offset in offsets])
    return window


def test_encodes_each_entry_once_with_the_cursor_of_its_log():
    window = window_of(3, 7)
    chunk, end = window.chunk(0, window.end)
    messages = Parser().feed(chunk)
    assert end == 2
    assert [json.loads(message.data)["id"] for message in messages] == ["t3", "t7"]
    assert [message.id for message in messages] == [
        str(cursor_at("log", offset, entry(offset).body)) for offset in (3, 7)
    ]
    assert {message.event for message in messages} == {"message"}


def test_named_frames_carry_their_type():
    window = Window({"a": beginning("log")}, named=True)
    window.extend("a", [entry(1), entry(2, type="result")])
    assert [message.event for message in Parser().feed(window.chunk(0, 2)[0])] == ["task", "result"]


def test_who_stands_at_the_same_index_shares_the_same_bytes():
    window = window_of(1, 2, 3)
    assert window.chunk(1, 3)[0] is window.chunk(1, 3)[0]


def test_a_chunk_is_bounded_but_holds_at_least_one_frame():
    window = Window({"a": beginning("log")})
    window.extend("a", [entry(n, "x" * (CHUNK_BYTES + 1)) for n in (1, 2)])
    assert window.chunk(0, 2)[1] == 1
    assert window.chunk(1, 2)[1] == 2
    assert window.chunk(2, 2) == (b"", 2)


def test_an_entry_that_is_no_event_moves_the_cursor_and_shows_nothing():
    window = Window({"a": beginning("log")})
    window.extend("a", [Entry(1, b"\xff not json"), entry(2)])
    assert len(Parser().feed(window.chunk(0, 2)[0])) == 1
    assert parse_cursor(window.cursor(1)).offset == 1


@pytest.mark.parametrize(("offset", "index"), [(0, 0), (2, 0), (3, 1), (5, 1), (7, 2)])
def test_finds_the_index_after_an_offset(offset, index):
    assert window_of(3, 7).find({"a": beginning("log", offset)}) == index


def test_does_not_find_what_lies_ahead_or_is_of_another_log():
    window = window_of(3, 7)
    assert window.find({"a": beginning("log", 8)}) is None
    assert window.find({"a": beginning("other", 3)}) is None


def test_lets_the_oldest_go_by_number(monkeypatch):
    monkeypatch.setattr(module, "MAX_FRAMES", 3)
    monkeypatch.setattr(module, "SLACK_FRAMES", 1)
    window = window_of(1, 2, 3, 4)
    assert window.surplus() == 0
    window.extend("a", [entry(5)])
    assert window.surplus() == 2
    window.drop(2)
    assert (window.base, window.end) == (2, 5)
    assert window.find({"a": beginning("log", 1)}) is None
    assert window.find({"a": beginning("log", 2)}) == 2
    assert parse_cursor(window.cursor(2)).offset == 2


def test_lets_the_oldest_go_by_bytes(monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 10_000)
    window = Window({"a": beginning("log")})
    window.extend("a", [entry(n, "x" * 4_000) for n in (1, 2, 3)])
    assert window.surplus() == 1


def test_holds_only_exactly_what_it_has_read():
    window = window_of(3, 7)
    assert window.holds("a", cursor_at("log", 3, entry(3).body))
    assert not window.holds("a", cursor_at("log", 3, b"another event"))
    assert not window.holds("a", beginning("log", 5))


def test_several_queues_have_one_line_of_their_vectors():
    window = Window({"a": beginning("la"), "b": beginning("lb")})
    window.extend("a", [entry(1)])
    window.extend("b", [entry(5)])
    window.extend("a", [entry(2)])
    for index in range(window.end + 1):
        place = {"a": beginning("la"), "b": beginning("lb")}
        if index:
            place = parse_vector(window.cursor(index), frozenset("ab"))
        assert window.find(place) == index
    # Seen all of `a` and nothing of `b`: no index of this window's.
    assert window.find({"a": beginning("la", 2), "b": beginning("lb", 0)}) is None


def test_after_a_restart_nothing_of_the_old_log_is_found():
    window = window_of(3, 7)
    window.restart("a", "other-log", beginning("new", 4))
    assert window.find({"a": beginning("log", 3)}) is None
    assert window.find({"a": beginning("new", 4)}) == 3
    assert window.find({"a": beginning("new", 3)}) is None
    [message] = Parser().feed(window.chunk(2, 3)[0])
    assert message.event == "reset"
    assert json.loads(message.data)["reason"] == "other-log"
    assert message.id == str(beginning("new", 4))
