"""The table tells of exactly what was saved in it."""

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from queuecast.brokers.base import Entry, Retention
from queuecast.brokers.folded.fold import Checkpoint, Fold
from queuecast.brokers.folded.table import SAVED_AT_ONCE, Table
from queuecast.codec import encode_event
from queuecast.cursor import beginning
from queuecast.event import submitted
from queuecast.task import STATES

from ..making import new_task

OFFSETS = count(1)


@pytest.fixture
def kept(tmp_path):
    made = Table(tmp_path / "reports.db")
    made.open()
    yield made
    made.close()


def new_fold() -> Fold:
    return Fold(Checkpoint(beginning("log"), 0, 0, {}), Retention())


def fold_tasks(fold: Fold, *ids: str) -> None:
    tasks = [replace(new_task(), id=id) for id in ids]
    fold.take([Entry(next(OFFSETS), encode_event(submitted(task))) for task in tasks], lambda _: (), 0.0)


def save(kept: Table, fold: Fold, *ids: str) -> None:
    fold_tasks(fold, *ids)
    kept.save(fold)
    fold.saved()


in_order = st.integers(0, 40).map(lambda number: f"01a22203-{number:04x}-7fc5-b51e-88c4c3238148")
any_ids = st.one_of(in_order, st.integers(0, 9).map(lambda number: f"task {number}"), st.uuids().map(str))


@settings(max_examples=40, deadline=None)
@given(saved=st.lists(any_ids, max_size=12, unique=True), asked=st.lists(any_ids, max_size=12), parts=st.integers(1, 4))
def test_exactly_what_was_saved_is_known(saved, asked, parts):
    kept, fold = Table(None), new_fold()
    kept.open()
    for start in range(parts):
        if some := saved[start::parts]:
            save(kept, fold, *some)
    assert kept.known({*asked, *saved[::2]}) == {*asked, *saved[::2]} & set(saved)
    kept.close()


def test_a_table_that_is_opened_again_knows_all(kept, tmp_path):
    ids = [new_task().id for _ in range(3)]
    fold = new_fold()
    fold_tasks(fold, *ids)
    kept.save(fold)
    kept.commit()
    kept.close()
    again = Table(tmp_path / "reports.db")
    assert {row.id for row in again.open().live} == set(ids)
    assert again.known({*ids, "another"}) == set(ids)
    again.close()


@pytest.mark.parametrize("number", [1, SAVED_AT_ONCE - 1, SAVED_AT_ONCE, 2 * SAVED_AT_ONCE + 1])
def test_all_of_many_are_saved_and_saved_again(kept, number):
    ids = [new_task().id for _ in range(number)]
    fold = new_fold()
    fold_tasks(fold, *ids)
    for _ in range(2):
        kept.save(fold)
        fold.new_marks.clear()
    rows = kept.page(state=None, owner=None, before=None, limit=1_000)
    assert [row.id for row in reversed(rows)] == ids
    assert [row.last for row in rows] == [row.first for row in rows]


@pytest.mark.parametrize("state", STATES)
def test_a_page_of_one_state_is_found_by_an_index_that_lies_in_its_order(kept, state):
    ran = []
    kept._db.set_trace_callback(ran.append)
    kept.page(state=state, owner=None, before=None, limit=5)
    kept._db.set_trace_callback(None)
    (plan,) = [detail for *_, detail in kept._db.execute(f"EXPLAIN QUERY PLAN {ran[-1]}")]
    assert "task_state (state=? AND rowid<?" in plan
