"""What a commit tells of the finished records of a partition: pure, without a Kafka."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuecast.brokers.kafka.finished import MAX_RUNS, MAX_SPAN, Finished, read

METADATA_BYTES = 4_096
"""The most that a broker keeps with an offset, unless it was told otherwise (offset.metadata.max.bytes)."""


def told_of(before, offsets):
    finished = Finished(before)
    for offset in offsets:
        finished.add(offset)
    return finished


@given(st.integers(0, 1_000), st.lists(st.integers(0, 60)))
def test_it_is_the_set_of_what_was_added(before, offsets):
    finished = told_of(before, [before + offset for offset in offsets])
    done = {before + offset for offset in offsets}
    assert [offset in finished for offset in range(before, before + 62)] == [
        offset in done for offset in range(before, before + 62)
    ]
    assert finished.before == next(offset for offset in range(before, before + 62) if offset not in done)


@given(st.integers(0, 1_000), st.lists(st.integers(0, 60)), st.integers(0, 100))
def test_a_commit_is_read_as_it_was_told(before, offsets, reach):
    finished = told_of(before, [before + offset for offset in offsets])
    again, reached = read(finished.before, finished.told(finished.before + reach))
    assert reached == finished.before + reach
    assert [offset in again for offset in range(before, before + 62)] == [
        offset in finished for offset in range(before, before + 62)
    ]


@given(st.lists(st.integers(0, 60)), st.integers(0, 80))
def test_what_the_partition_has_lost_counts_as_finished(offsets, low):
    finished = told_of(0, offsets)
    finished.begin_at(low)
    done = {*offsets, *range(low)}
    assert [offset in finished for offset in range(82)] == [offset in done for offset in range(82)]
    assert finished.before == next(offset for offset in range(162) if offset not in done)


@pytest.mark.parametrize("text", [None, "", "somebody else's", "1.x"])
def test_a_text_that_is_not_ours_says_that_anything_may_have_been_handed_out(text):
    finished, reach = read(7, text)
    assert reach is None
    assert 6 in finished
    assert 7 not in finished


@pytest.mark.parametrize("seed", range(5))
def test_a_commit_never_grows_beyond_what_kafka_keeps(seed):
    """However many are held, and in whatever order they end."""
    chance = random.Random(seed)
    finished, held, offset = Finished(0), [], 0
    longest = 0
    for step in range(20_000):
        if finished.may_hand_out(offset, len(held)) and chance.random() < 0.6:
            held.append(offset)
            offset += chance.choice([1, 1, 1, 900])
        elif held:
            # The first one is the long one.
            finished.add(held.pop(chance.randrange(1 if len(held) > 1 else 0, len(held))))
        if step % 20 == 0:
            longest = max(longest, len(finished.told(offset + 1_000)))
    assert METADATA_BYTES // 8 < longest <= METADATA_BYTES
    assert offset - finished.before <= MAX_SPAN + 901
    assert MAX_RUNS * 12 + 10 <= METADATA_BYTES
