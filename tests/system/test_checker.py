"""The judge has teeth: it says nothing of a good history, and finds every defect that is planted in it."""

import asyncio

import pytest

from .checker import flaws_of_log, flaws_of_stream, flaws_of_task, flaws_of_witness
from .client import Gateways, Work


def event(type, run=None, seq=None, **rest):
    return {"type": type, "id": "t", "queue": "reports", "attempt": 1, "run": run, "seq": seq, **rest}


def state(state, run=None, seq=None):
    return event("task", run, seq, task={"id": "t", "state": state})


QUEUED = state("queued")
BEGUN = state("running", "a", 1)
PROGRESS = state("running", "a", 2)
OUTPUTS = [event("output", "a", 3, output=7, index=0), event("output", "a", 4, output=8, index=1)]
RESULT = event("result", "a", 5, state="succeeded", result=7)
GOOD = [QUEUED, BEGUN, PROGRESS, *OUTPUTS, RESULT]

AGAIN = state("running", "b", 1)
RESULT_OF_B = event("result", "b", 2, state="succeeded", result=7)
RUN_AGAIN = [QUEUED, BEGUN, PROGRESS, AGAIN, RESULT_OF_B]

WORK = Work("reports", "awaited", 7)


@pytest.mark.parametrize(
    "events",
    [
        GOOD,
        RUN_AGAIN,
        [QUEUED, BEGUN, AGAIN, event("result", "a", 9, state="succeeded", result=7)],
        [QUEUED, event("result", None, None, state="cancelled")],
    ],
)
def test_a_good_task_has_no_flaw(events):
    assert flaws_of_task(events) == []


@pytest.mark.parametrize(
    ("events", "flaw"),
    [
        (GOOD[:-1], "has no result"),
        ([*GOOD, RESULT], "goes on after its result"),
        ([*GOOD, state("running", "b", 1)], "goes on after its result"),
        ([QUEUED, BEGUN, *OUTPUTS, RESULT], "seq 3 after 1"),
        ([QUEUED, BEGUN, PROGRESS, PROGRESS, *OUTPUTS, RESULT], "seq 2 after 2"),
        ([QUEUED, PROGRESS, *OUTPUTS, RESULT], "seq 2 after 0"),
        ([QUEUED, OUTPUTS[0], RESULT], "begins in the middle"),
        ([QUEUED, BEGUN, AGAIN, PROGRESS, RESULT_OF_B], "superseded run"),
        ([QUEUED, BEGUN, PROGRESS, {**OUTPUTS[0], "index": 1}, OUTPUTS[1], RESULT], "output 1 where 0"),
    ],
)
def test_a_bad_task_is_found_out(events, flaw):
    assert flaw in flaws_of_task(events)[0]


def test_a_good_log_has_no_flaw():
    assert flaws_of_log(GOOD, {"t": WORK}) == []


@pytest.mark.parametrize(
    ("accepted", "flaw"),
    [
        ({}, "never submitted"),
        ({"t": WORK, "u": WORK}, "u was accepted and is not in the log"),
        ({"t": Work("reports", "awaited", 8)}, "not what was asked for"),
        ({"t": Work("tokens", "awaited", 7)}, "not what was asked for"),
        ({"t": Work("reports", "refusing", 7)}, "not what was asked for"),
        ({"t": Work("reports", "streaming", 7)}, "not what was asked for"),
    ],
)
def test_a_log_of_other_work_is_found_out(accepted, flaw):
    assert any(flaw in found for found in flaws_of_log(GOOD, accepted))


@pytest.mark.parametrize(
    ("seen", "flaw"),
    [
        (GOOD[:2] + GOOD[3:], "event 2 is left out"),
        (GOOD[:3] + GOOD[2:], "event 3 is repeated"),
        ([GOOD[1], GOOD[0], *GOOD[2:]], "event 0 is left out"),
        (GOOD[:-1], "1 events are missing at the end"),
        ([], "6 events are missing at the end"),
        ([*GOOD[:2], {**PROGRESS, "seq": 9}, *GOOD[3:]], "event 2 is from nowhere"),
    ],
)
def test_a_stream_that_is_not_the_log_is_found_out(seen, flaw):
    assert flaw in flaws_of_stream(seen, GOOD)[0]


def test_who_left_early_or_came_late_has_seen_a_part_of_the_log():
    assert flaws_of_stream(GOOD[:3], GOOD, part="head") == []
    assert flaws_of_stream(GOOD[3:], GOOD, part="tail") == []
    assert flaws_of_stream(GOOD[1:3], GOOD, part="head") != []
    assert flaws_of_stream(GOOD[1:3], GOOD, part="tail") != []


@pytest.mark.parametrize(
    ("begun", "flaw"),
    [
        ([], "attempt 1 was never begun"),
        ([("t", 1)] * 3, "begun 3 times with 1 kills"),
        ([("t", 1), ("t", 2)], "used up an attempt"),
    ],
)
def test_a_witness_against_the_log_is_heard(begun, flaw):
    assert flaw in flaws_of_witness(begun, {"t": WORK}, kills=1)[0]


def test_a_second_run_after_a_kill_is_none_of_these():
    assert flaws_of_witness([("t", 1), ("t", 1)], {"t": WORK}, kills=1) == []


async def test_a_gateway_that_is_gone_before_its_client_wakes_is_waited_for_again():
    gateways = Gateways()
    waiting = asyncio.ensure_future(gateways.any())
    await asyncio.sleep(0)
    gateways.up(1)
    gateways.down(1)
    await asyncio.sleep(0)
    gateways.up(2)
    assert await waiting == 2
