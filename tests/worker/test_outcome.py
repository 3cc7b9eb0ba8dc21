"""What a run's end means."""

import pytest
from msgspec import Raw

from queuecast.errors import TaskFailed
from queuecast.event import ErrorInfo
from queuecast.worker.outcome import (
    MAX_MESSAGE_CHARS,
    MAX_VALUE_BYTES,
    Abandoned,
    Cancelled,
    Died,
    Failed,
    HandlerRaised,
    Interrupted,
    ProcessDied,
    Retrying,
    Succeeded,
    Unsendable,
    describe,
    judge,
    sendable,
)

RESULT = Raw(b"7")
ERROR = ValueError("no such report")
WORDS = ErrorInfo("ValueError", "no such report")
TIMEOUT = ErrorInfo("timeout", "the attempt took longer than its timeout")
UNSENDABLE = Unsendable("result-too-large", "too much")
DEATH = ProcessDied("signal SIGSEGV")


@pytest.mark.parametrize(
    ("ending", "stopped", "attempt", "expected"),
    [
        (RESULT, None, 1, Succeeded(RESULT)),
        (RESULT, "cancelled", 1, Succeeded(RESULT)),
        (RESULT, "interrupted", 1, Succeeded(RESULT)),
        (RESULT, "lost", 1, Abandoned()),
        (RESULT, "timeout", 1, Retrying(TIMEOUT, 0.5)),
        (RESULT, "timeout", 2, Failed(TIMEOUT)),
        (ERROR, None, 1, Retrying(WORDS, 0.5)),
        (ERROR, None, 2, Failed(WORDS)),
        (ERROR, "cancelled", 1, Cancelled()),
        (ERROR, "interrupted", 1, Interrupted()),
        (ERROR, "lost", 1, Abandoned()),
        (ERROR, "timeout", 1, Retrying(TIMEOUT, 0.5)),
        (UNSENDABLE, None, 1, Failed(ErrorInfo("result-too-large", "too much"))),
        (DEATH, None, 1, Died(ErrorInfo("ProcessDied", "signal SIGSEGV"))),
        (DEATH, "cancelled", 1, Cancelled()),
        (DEATH, "interrupted", 1, Interrupted()),
        (DEATH, "timeout", 1, Retrying(TIMEOUT, 0.5)),
        (DEATH, "lost", 1, Abandoned()),
    ],
)
def test_a_run_with_one_retry_ends_so(ending, stopped, attempt, expected):
    assert judge(ending, stopped, attempt=attempt, retries=1, random=0.0) == expected


class Unreadable(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ERROR, WORDS),
        (Unreadable(), ErrorInfo("Unreadable", "its message cannot be read")),
        (OSError("\udcff.csv"), ErrorInfo("OSError", "?.csv")),
        (ValueError("x" * 1_000_000), ErrorInfo("ValueError", "x" * MAX_MESSAGE_CHARS)),
        (HandlerRaised(WORDS), WORDS),
        (TaskFailed("ValueError", "inside"), ErrorInfo("TaskFailed", "ValueError: inside")),
    ],
)
def test_an_error_is_told_by_its_class_and_its_words(error, expected):
    assert describe(error) == expected


@pytest.mark.parametrize(("value", "what"), [({1}, "[1]"), ("x" * (MAX_VALUE_BYTES - 2), None), (None, "null")])
def test_a_value_that_fits_is_sent(value, what):
    body = bytes(sendable(value, "output"))
    assert what is None or body == what.encode()


@pytest.mark.parametrize(
    ("value", "type"),
    [
        (object(), "output-not-json"),
        ("\udcff", "output-not-json"),
        ({(1, 2): 3}, "output-not-json"),
        ("x" * (MAX_VALUE_BYTES - 1), "output-too-large"),
        ("\u2028" * (MAX_VALUE_BYTES // 4), "output-too-large"),
        ("\u0085" * (MAX_VALUE_BYTES // 4), "output-too-large"),
    ],
)
def test_a_value_that_no_event_can_carry_is_refused(value, type):
    with pytest.raises(Unsendable) as raised:
        sendable(value, "output")
    assert raised.value.info.type == type
