"""What reaches a terminal: aligned, and unable to steer it."""

import json

import pytest

from queuecast.cli.display import as_json, columns, in_words, plain, progress_in_words
from queuecast.event import ErrorInfo, OutputEvent, Progress, ResultEvent, TaskEvent, TaskInfo


def test_control_characters_are_shown_and_not_obeyed():
    assert plain("a\x1b[2Jb\x9bc\x7f\ttab\nline\r") == "a\\x1b[2Jb\\x9bc\\x7f\ttab\nline\\x0d"


def test_json_stays_json():
    text = "\x1b[31m\x9b\x7f é\n"
    assert json.loads(as_json(text)) == text
    assert "\x9b" not in as_json(text)
    assert "\x7f" not in as_json(text)


def test_columns_are_aligned_and_numbers_stand_to_the_right():
    assert list(columns(["NAME", "N"], [["a", 5], ["long", 12]])) == ["NAME   N", "a      5", "long  12"]
    assert list(columns(["NAME"], [])) == ["NAME"]


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (Progress(119_853_001, 119_853_442, "bytes"), "119853001/119853442 bytes"),
        (Progress(2.5, 9), "2.5/9"),
        (Progress(0.1 + 0.2), "0.3"),
        (Progress(1e300), "1e+300"),
    ],
)
def test_progress_has_all_its_digits(progress, words):
    assert progress_in_words(progress) == words


def test_each_kind_of_event_is_one_line():
    common = {"id": "t1", "queue": "q", "attempt": 2, "time": "2026-11-23T10:00:00.000Z"}
    task = {"id": "t1", "name": "render", "attempt": 2}
    error = ErrorInfo("ValueError", "two\nlines")
    running = TaskInfo(**task, state="running", progress=Progress(3, 9, "rows"))
    retrying = TaskInfo(**task, state="retrying", error=error, delay=4)
    events = {
        TaskEvent(**common, task=running): "render running (attempt 2) 3/9 rows",
        TaskEvent(**common, task=retrying): "render retrying (attempt 2) in 4.0 s after ValueError: two\\nlines",
        OutputEvent(**common, output="x", index=0): 'output 0: "x"',
        ResultEvent(**common, state="succeeded", result=7): "succeeded: 7",
        ResultEvent(**common, state="failed", error=error): "failed: ValueError: two\\nlines",
        ResultEvent(**common, state="cancelled"): "cancelled",
    }
    for event, words in events.items():
        _, id, fact = in_words(event).split("  ", 2)
        assert (id, fact) == ("t1", words)
