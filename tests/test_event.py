"""The shapes of events, as every client sees them: design §4, to the byte."""

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from queuecast.codec import decode_event, encode_event
from queuecast.event import (
    ErrorInfo,
    OutputEvent,
    Progress,
    ResultEvent,
    TaskEvent,
    TaskInfo,
    ended,
    submitted,
)
from queuecast.task import Task

NOW = 1_767_225_600.0

IN_RUN = {"id": "0199", "queue": "reports", "attempt": 1, "run": "k3f9", "time": "2026-01-01T00:00:00.000Z"}


def task_event(seq: int, **info) -> TaskEvent:
    return TaskEvent(**IN_RUN, seq=seq, task=TaskInfo(id="0199", name="render", attempt=1, **info))


SHAPES = {
    "running": (
        task_event(1, state="running"),
        b'{"type":"task","id":"0199","queue":"reports","attempt":1,"run":"k3f9","seq":1,'
        b'"time":"2026-01-01T00:00:00.000Z","task":{"id":"0199","name":"render","state":"running","attempt":1}}',
    ),
    "running alone": (
        task_event(1, state="running", alone=True),
        b'{"type":"task","id":"0199","queue":"reports","attempt":1,"run":"k3f9","seq":1,'
        b'"time":"2026-01-01T00:00:00.000Z",'
        b'"task":{"id":"0199","name":"render","state":"running","attempt":1,"alone":true}}',
    ),
    "progress": (
        task_event(2, state="running", progress=Progress(3, 9, "rows")),
        b'{"type":"task","id":"0199","queue":"reports","attempt":1,"run":"k3f9","seq":2,'
        b'"time":"2026-01-01T00:00:00.000Z","task":{"id":"0199","name":"render","state":"running","attempt":1,'
        b'"progress":{"current":3,"total":9,"note":"rows"}}}',
    ),
    "progress without a total": (
        task_event(2, state="running", progress=Progress(3)),
        b'{"type":"task","id":"0199","queue":"reports","attempt":1,"run":"k3f9","seq":2,'
        b'"time":"2026-01-01T00:00:00.000Z","task":{"id":"0199","name":"render","state":"running","attempt":1,'
        b'"progress":{"current":3}}}',
    ),
    "retrying": (
        task_event(3, state="retrying", error=ErrorInfo("ValueError", "busy"), delay=1.5),
        b'{"type":"task","id":"0199","queue":"reports","attempt":1,"run":"k3f9","seq":3,'
        b'"time":"2026-01-01T00:00:00.000Z","task":{"id":"0199","name":"render","state":"retrying","attempt":1,'
        b'"error":{"type":"ValueError","message":"busy"},"delay":1.5}}',
    ),
    "output": (
        OutputEvent(**IN_RUN, seq=2, output="piece", index=0),
        b'{"type":"output","id":"0199","queue":"reports","attempt":1,"run":"k3f9","seq":2,'
        b'"time":"2026-01-01T00:00:00.000Z","output":"piece","index":0}',
    ),
    "output of nothing": (
        OutputEvent(**IN_RUN, seq=2, output=None, index=1),
        b'{"type":"output","id":"0199","queue":"reports","attempt":1,"run":"k3f9","seq":2,'
        b'"time":"2026-01-01T00:00:00.000Z","output":null,"index":1}',
    ),
    "succeeded": (
        ResultEvent(**IN_RUN, seq=4, state="succeeded", result={"pages": 3}),
        b'{"type":"result","id":"0199","queue":"reports","attempt":1,"run":"k3f9","seq":4,'
        b'"time":"2026-01-01T00:00:00.000Z","state":"succeeded","result":{"pages":3}}',
    ),
    "succeeded with nothing": (
        ResultEvent(**IN_RUN, seq=4, state="succeeded", result=None),
        b'{"type":"result","id":"0199","queue":"reports","attempt":1,"run":"k3f9","seq":4,'
        b'"time":"2026-01-01T00:00:00.000Z","state":"succeeded","result":null}',
    ),
    "failed": (
        ResultEvent(**IN_RUN, seq=4, state="failed", error=ErrorInfo("ValueError", "no such report")),
        b'{"type":"result","id":"0199","queue":"reports","attempt":1,"run":"k3f9","seq":4,'
        b'"time":"2026-01-01T00:00:00.000Z","state":"failed",'
        b'"error":{"type":"ValueError","message":"no such report"}}',
    ),
}


@pytest.mark.parametrize(("event", "json"), SHAPES.values(), ids=SHAPES)
def test_an_event_is_written_as(event, json):
    assert encode_event(event) == json


@pytest.mark.parametrize(("event", "json"), SHAPES.values(), ids=SHAPES)
def test_an_event_is_read_as_it_was_written(event, json):
    if event.type == "result" and event.result is UNSET:
        event = replace(event, result=None)
    assert decode_event(json) == event


@pytest.mark.parametrize(("event", "json"), SHAPES.values(), ids=SHAPES)
def test_the_payload_stands_under_the_key_that_the_type_names(event, json):
    assert f'"{event.type}":'.encode() in json or event.state == "failed"


def a_task(**options) -> Task:
    options = {"id": "0199", "queue": "reports", "name": "render", "args": b"{}", "submitted_at": NOW} | options
    return Task(**options)


def test_a_task_that_is_submitted_is_queued():
    assert encode_event(submitted(a_task(owner="ann"))) == (
        b'{"type":"task","id":"0199","queue":"reports","attempt":1,"time":"2026-01-01T00:00:00.000Z","owner":"ann",'
        b'"task":{"id":"0199","name":"render","state":"queued","attempt":1}}'
    )


@pytest.mark.parametrize(
    ("not_before", "state"), [(NOW + 1, "scheduled"), (NOW, "queued"), (NOW - 1, "queued"), (None, "queued")]
)
def test_a_task_that_is_submitted_for_later_is_scheduled(not_before, state):
    assert submitted(a_task(not_before=not_before)).task.state == state


def test_a_task_may_end_without_a_run():
    assert encode_event(ended(a_task(owner="ann"), "cancelled", NOW + 1)) == (
        b'{"type":"result","id":"0199","queue":"reports","attempt":1,"time":"2026-01-01T00:00:01.000Z","owner":"ann",'
        b'"state":"cancelled"}'
    )
    expired = ended(a_task(), "failed", NOW, attempt=2, error=ErrorInfo("expired", "too late"))
    assert encode_event(expired) == (
        b'{"type":"result","id":"0199","queue":"reports","attempt":2,"time":"2026-01-01T00:00:00.000Z",'
        b'"state":"failed","error":{"type":"expired","message":"too late"}}'
    )
