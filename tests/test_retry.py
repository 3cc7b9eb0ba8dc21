"""How long a failed task waits for its next attempt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuecast.retry import FIRST_DELAY, MAX_RETRY_DELAY, retries_left, retry_delay

ATTEMPTS = st.integers(1, 10_000)
LUCK = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("attempt", "shortest"),
    [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (10, 256.0), (11, 300.0), (1_000, 300.0)],
)
def test_each_wait_doubles_up_to_ten_minutes_and_half_of_it_is_certain(attempt, shortest):
    assert retry_delay(attempt, 0.0) == shortest
    assert retry_delay(attempt, 0.5) == shortest * 1.5


@given(ATTEMPTS, LUCK)
def test_a_retry_never_comes_at_once_and_never_after_the_longest_wait(attempt, random):
    assert FIRST_DELAY / 2 <= retry_delay(attempt, random) <= MAX_RETRY_DELAY


@given(ATTEMPTS, LUCK)
def test_a_later_attempt_never_waits_less(attempt, random):
    assert retry_delay(attempt + 1, random) >= retry_delay(attempt, random)


@given(ATTEMPTS, LUCK, LUCK)
def test_tasks_that_failed_together_come_back_apart(attempt, one, other):
    assert (retry_delay(attempt, one) < retry_delay(attempt, other)) == (1 + one < 1 + other)


@pytest.mark.parametrize(
    ("attempt", "retries", "left"),
    [(1, 0, False), (1, 1, True), (2, 1, False), (3, 3, True), (4, 3, False)],
)
def test_a_task_is_tried_once_and_then_as_often_as_it_may_be_retried(attempt, retries, left):
    assert retries_left(attempt, retries) is left
