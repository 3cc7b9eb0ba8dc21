"""Tasks: their ids, the names of queues, and what may be asked for."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from queuecast.codec import encode_task
from queuecast.errors import InvalidInput, TooLarge
from queuecast.task import (
    FINAL_STATES,
    MAX_DEPTH,
    MAX_NAME_CHARS,
    MAX_RETRIES,
    MAX_TASK_BYTES,
    STATES,
    Options,
    Task,
    is_queue_name,
    is_too_deep,
    keyed_task_id,
    make_task,
    new_task_id,
    options_from,
    same_work,
    timestamp,
)

NOW = 1_767_225_600.0
"""2026-01-01T00:00:00Z"""

DAY = 86_400.0

LATER = datetime(2026, 1, 1, 12, tzinfo=UTC)


def make(args: bytes = b"{}", *, name: str = "render", queue: str = "reports", **options) -> Task:
    return make_task(queue, name, Raw(args), Options(**options), now=NOW, horizon=DAY)


# Ids


@given(st.floats(0, 2**38))
def test_a_task_id_is_a_uuid_of_version_7_that_tells_its_millisecond(now):
    id = new_task_id(now)
    uuid = UUID(id)
    assert str(uuid) == id
    assert (uuid.version, uuid.variant) == (7, RFC_4122)
    assert uuid.int >> 80 == int(now * 1_000)


@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=10, unique=True))
def test_task_ids_sort_by_time(millis):
    ids = {each: new_task_id(each / 1_000 + 0.000_1) for each in millis}
    assert sorted(ids.values()) == [ids[each] for each in sorted(millis)]


def test_task_ids_of_one_millisecond_differ():
    assert len({new_task_id(NOW) for _ in range(1_000)}) == 1_000


@given(owner=st.none() | st.text(), queue=st.text(), key=st.text())
def test_a_keyed_id_is_a_uuid_of_version_8_that_anyone_computes(owner, queue, key):
    id = keyed_task_id(owner, queue, key)
    uuid = UUID(id)
    assert str(uuid) == id
    assert (uuid.version, uuid.variant) == (8, RFC_4122)
    assert keyed_task_id(owner, queue, key) == id


def test_a_keyed_id_stays_what_it_is_from_release_to_release():
    assert keyed_task_id("ann", "reports", "july") == "235b8c8d-5044-858d-8755-f88dcff02f65"


@pytest.mark.parametrize(
    "other",
    [("bob", "reports", "july"), (None, "reports", "july"), ("ann", "mail", "july"), ("ann", "reports", "june")],
)
def test_a_keyed_id_belongs_to_one_owner_queue_and_key(other):
    assert keyed_task_id(*other) != keyed_task_id("ann", "reports", "july")


def test_the_parts_of_a_keyed_id_do_not_run_into_each_other():
    assert keyed_task_id("a", "bc", "d") != keyed_task_id("ab", "c", "d")
    assert keyed_task_id(None, "reports", "july") != keyed_task_id("null", "reports", "july")


# Queue names


@pytest.mark.parametrize("name", ["a", "7", "reports", "a-b", "a_b", "a--b", "2026-reports", "a" * 64])
def test_a_queue_may_be_named(name):
    assert is_queue_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 65,
        "Reports",
        "a.b",
        "a b",
        "a/b",
        "-a",
        "a-",
        "_a",
        "a_",
        "_qc.control",
        "reports\n",
        "\nreports",
        "reports\x00",
        "bücher",
        "re\u0301sume\u0301",
        "٣",
        "ａ",
        "..",
    ],
)
def test_a_queue_may_not_be_named(name):
    assert not is_queue_name(name)


# Options


def test_a_task_is_what_was_asked_for():
    task = make(b'{"report":7}', retries=3, timeout=60, owner="ann", correlation_id="c1", expires_at=LATER)
    assert (task.queue, task.name, bytes(task.args), task.submitted_at) == ("reports", "render", b'{"report":7}', NOW)
    assert (task.retries, task.timeout, task.owner, task.correlation_id) == (3, 60, "ann", "c1")
    assert task.expires_at == LATER.timestamp()
    assert UUID(task.id).version == 7


def test_a_task_asks_for_nothing_by_default():
    task = make()
    assert (task.retries, task.timeout, task.not_before, task.expires_at, task.owner) == (0, None, None, None, None)


def test_a_task_with_a_key_is_known_by_it():
    assert make(idempotency_key="july", owner="ann").id == keyed_task_id("ann", "reports", "july")


@pytest.mark.parametrize(
    ("options", "not_before"),
    [
        ({"delay": 10}, NOW + 10),
        ({"delay": DAY}, NOW + DAY),
        ({"delay": 0}, None),
        ({"not_before": LATER}, NOW + 12 * 3_600),
        ({"not_before": LATER.astimezone(timezone(timedelta(hours=-5)))}, NOW + 12 * 3_600),
        ({"not_before": datetime(2020, 1, 1, tzinfo=UTC)}, datetime(2020, 1, 1, tzinfo=UTC).timestamp()),
    ],
)
def test_a_task_waits_for_its_time(options, not_before):
    assert make(**options).not_before == not_before


@pytest.mark.parametrize(
    ("options", "pointers"),
    [
        ({"delay": -1}, ["/delay"]),
        ({"delay": DAY + 1}, ["/delay"]),
        ({"delay": float("nan")}, ["/delay"]),
        ({"delay": float("inf")}, ["/delay"]),
        ({"delay": 1, "not_before": LATER}, ["/delay"]),
        ({"not_before": LATER.replace(tzinfo=None)}, ["/not_before"]),
        ({"not_before": datetime.min}, ["/not_before"]),
        ({"not_before": datetime.max.replace(tzinfo=UTC)}, ["/not_before"]),
        ({"not_before": LATER + timedelta(days=1)}, ["/not_before"]),
        ({"expires_at": LATER.replace(tzinfo=None)}, ["/expires_at"]),
        ({"expires_at": datetime.min}, ["/expires_at"]),
        ({"expires_at": datetime.fromtimestamp(NOW, UTC)}, ["/expires_at"]),
        ({"timeout": 0}, ["/timeout"]),
        ({"timeout": -1}, ["/timeout"]),
        ({"timeout": DAY + 1}, ["/timeout"]),
        ({"timeout": float("nan")}, ["/timeout"]),
        ({"retries": -1}, ["/retries"]),
        ({"retries": MAX_RETRIES + 1}, ["/retries"]),
        ({"name": ""}, ["/name"]),
        ({"name": "a\nb"}, ["/name"]),
        ({"name": "a" * (MAX_NAME_CHARS + 1)}, ["/name"]),
        ({"owner": ""}, ["/owner"]),
        ({"owner": "ann\x00"}, ["/owner"]),
        ({"owner": "\ud800"}, ["/owner"]),
        ({"idempotency_key": ""}, ["/idempotency_key"]),
        ({"idempotency_key": "k" * (MAX_NAME_CHARS + 1)}, ["/idempotency_key"]),
        ({"correlation_id": "\u2028"}, ["/correlation_id"]),
        ({"traceparent": "\r\n"}, ["/traceparent"]),
        ({"delay": -1, "timeout": 0, "retries": -1, "owner": ""}, ["/delay", "/timeout", "/retries", "/owner"]),
    ],
)
def test_a_bad_option_is_refused_by_its_name(options, pointers):
    with pytest.raises(InvalidInput) as caught:
        make(**options)
    assert [flaw.pointer for flaw in caught.value.flaws] == pointers
    assert all(flaw.detail for flaw in caught.value.flaws)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": DAY},
        {"retries": MAX_RETRIES},
        {"name": "a" * MAX_NAME_CHARS},
        {"owner": "Zoë O'Hara"},
        {"idempotency_key": "k" * MAX_NAME_CHARS},
        {"expires_at": datetime.fromtimestamp(NOW + 0.001, UTC)},
        {"expires_at": datetime.max.replace(tzinfo=UTC)},
    ],
)
def test_an_option_at_its_limit_is_taken(options):
    assert make(**options)


def test_options_come_by_their_names():
    assert options_from({"delay": 3, "retries": 2, "not_before": "2026-01-01T12:00:00Z"}) == Options(
        delay=3, retries=2, not_before=LATER
    )


@pytest.mark.parametrize(
    ("values", "pointer"),
    [
        ({"retry": 3}, "/retry"),
        ({"delay": "3"}, "/delay"),
        ({"retries": 1.5}, "/retries"),
        ({"retries": True}, "/retries"),
        ({"not_before": "tomorrow"}, "/not_before"),
        ({"not_before": 1_767_225_600}, "/not_before"),
        ({"owner": 7}, "/owner"),
    ],
)
def test_an_option_that_does_not_exist_or_is_of_another_type_is_refused_by_its_name(values, pointer):
    with pytest.raises(InvalidInput) as caught:
        options_from(values)
    assert [flaw.pointer for flaw in caught.value.flaws] == [pointer]


# Size


def of_size(size: int, wrapping: int = 0) -> bytes:
    """Arguments such that they and what is wrapped around them take so many bytes."""
    return b'{"text":"%s"}' % (b"x" * (size - wrapping - len('{"text":""}')))


def test_arguments_at_the_limit_are_taken():
    assert make(of_size(MAX_TASK_BYTES))


def test_arguments_over_the_limit_are_refused():
    with pytest.raises(TooLarge, match=f"{MAX_TASK_BYTES + 1} bytes; the limit is {MAX_TASK_BYTES}"):
        make(of_size(MAX_TASK_BYTES + 1))


def test_a_task_at_the_limit_is_encoded():
    wrapping = len(encode_task(make(b"")))
    assert len(encode_task(make(of_size(MAX_TASK_BYTES, wrapping)))) == MAX_TASK_BYTES


def test_a_task_over_the_limit_is_refused():
    wrapping = len(encode_task(make(b"")))
    with pytest.raises(TooLarge, match=f"{MAX_TASK_BYTES + 1} bytes"):
        encode_task(make(of_size(MAX_TASK_BYTES + 1, wrapping)))


# Depth


def nested(levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * levels + closing * levels


@pytest.mark.parametrize(
    ("json", "too_deep"),
    [
        (nested(MAX_DEPTH), False),
        (nested(MAX_DEPTH + 1), True),
        (nested(100_000), True),
        (b"[" + b",".join([nested(MAX_DEPTH - 1)] * 50) + b"]", False),
        (b"[" + b",".join([b'"[[[{"'] * MAX_DEPTH) + b"]", False),
        (b"[" + b",".join([rb'"\"[[["'] * MAX_DEPTH) + b"]", False),
        (b"[" + b",".join([b"[]"] * MAX_DEPTH) + b"]", False),
        (b'{"a":' * MAX_DEPTH + nested(1) + b"}" * MAX_DEPTH, True),
        (b'"text"', False),
    ],
)
def test_json_is_too_deep_beyond_so_many_levels(json, too_deep):
    assert is_too_deep(json) == too_deep


def test_arguments_may_not_be_nested_too_deeply():
    assert make(b'{"tree":%s}' % nested(MAX_DEPTH - 1))
    with pytest.raises(InvalidInput) as caught:
        make(b'{"tree":%s}' % nested(MAX_DEPTH))
    assert [flaw.pointer for flaw in caught.value.flaws] == ["/args"]


def test_arguments_are_utf_8():
    assert make('{"title":"Übersicht"}'.encode())
    with pytest.raises(InvalidInput) as caught:
        make(b'{"title":"\xdcbersicht"}')
    assert [flaw.pointer for flaw in caught.value.flaws] == ["/args"]


# The rest


def test_a_state_is_final_or_live():
    assert set(STATES) > FINAL_STATES == {"succeeded", "failed", "cancelled"}


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (NOW, "2026-01-01T00:00:00.000Z"),
        (NOW + 0.25, "2026-01-01T00:00:00.250Z"),
        (NOW + 0.999_9, "2026-01-01T00:00:00.999Z"),
    ],
)
def test_a_time_is_told_in_utc_to_the_millisecond(moment, text):
    assert timestamp(moment) == text


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"a":1,"b":2}', b'{ "b": 2, "a": 1 }', True),
        (b'{"a":1}', b'{"a":1.0}', True),
        (b'{"a":1}', b'{"a":2}', False),
        (b'{"a":1}', b'{"a":"1"}', False),
    ],
)
def test_the_same_arguments_written_differently_are_the_same_work(one, other, same):
    tasks = [make_task("q", "n", Raw(args), Options(), now=0, horizon=1) for args in (one, other)]
    assert same_work(*tasks) is same
