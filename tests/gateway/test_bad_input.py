"""Each bad input: a 4xx problem that names the field; nothing is changed, nothing is lost."""

import asyncio
import json

import pytest
from starlette.exceptions import HTTPException

from queuecast import ConfigurationError, Principal, Queuecast
from queuecast.brokers.memory import MemoryBroker
from queuecast.cli.serving import guarded
from queuecast.errors import BrokerUnavailable, OutcomeUnknown, StorageFull
from queuecast.gateway import body as body_module
from queuecast.gateway.server import Connection, StreamProtocol
from queuecast.settings import Settings

from .asgi import get, post, request
from .serving import Reader, serving

SUBMIT = "/queues/reports/tasks"
GOOD = {"name": "render", "args": {"report_id": 1}}


def good(**changes):
    return {**GOOD, **changes}


BAD_BODIES = {
    "malformed JSON": (b'{"name": "render"', 400, "malformed-json", None),
    "no JSON at all": (b"name=render", 400, "malformed-json", None),
    "empty": (b"", 415, "unsupported-media-type", None),
    "not UTF-8": (b'{"name": "\xff\xfe"}', 400, "malformed-json", None),
    "deep nesting": (
        b'{"name":"render","args":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        422,
        "invalid-input",
        None,
    ),
    "deep list": (b"[" * 100_000, 422, "invalid-input", None),
    "a string": (b'"render"', 422, "invalid-input", ""),
    "null": (b"null", 422, "invalid-input", ""),
    "no name": ({"args": {}}, 422, "invalid-input", "/name"),
    "name of a wrong type": (good(name=7), 422, "invalid-input", "/name"),
    "unknown task name": (good(name="rendre"), 422, "unknown-task-name", "/name"),
    "unknown field": (good(colour="red"), 422, "invalid-input", "/colour"),
    "missing argument": (good(args={}), 422, "invalid-input", "/args/report_id"),
    "extra argument": (good(args={"report_id": 1, "x": 2}), 422, "invalid-input", "/args/x"),
    "argument of a wrong type": (good(args={"report_id": "1"}), 422, "invalid-input", "/args/report_id"),
    "arguments as a list": (good(args=[1]), 422, "invalid-input", "/args"),
    "arguments as null": (good(args=None), 422, "invalid-input", "/args"),
    "negative delay": (good(delay=-1), 422, "invalid-input", "/delay"),
    "delay beyond the retention": (good(delay=1e12), 422, "invalid-input", "/delay"),
    "delay as words": (good(delay="soon"), 422, "invalid-input", "/delay"),
    "delay and not_before": (good(delay=1, not_before="2199-01-01T00:00:00Z"), 422, "invalid-input", "/delay"),
    "time without a zone": (good(not_before="2199-01-01T00:00:00"), 422, "invalid-input", "/not_before"),
    "no time": (good(not_before="tomorrow"), 422, "invalid-input", "/not_before"),
    "already expired": (good(expires_at="2001-01-01T00:00:00Z"), 422, "invalid-input", "/expires_at"),
    "timeout of nothing": (good(timeout=0), 422, "invalid-input", "/timeout"),
    "negative retries": (good(retries=-1), 422, "invalid-input", "/retries"),
    "too many retries": (good(retries=10**6), 422, "invalid-input", "/retries"),
    "half a retry": (good(retries=1.5), 422, "invalid-input", "/retries"),
    "priority": (good(priority=1), 422, "not-supported", "/priority"),
    "empty key": (good(idempotency_key=""), 422, "invalid-input", "/idempotency_key"),
    "long key": (good(idempotency_key="k" * 201), 422, "invalid-input", "/idempotency_key"),
    "owner of no name": (good(owner=""), 422, "invalid-input", "/owner"),
    "owner with a line end": (good(owner="a\nb"), 422, "invalid-input", "/owner"),
    "task over its limit": (good(args={"report_id": 1, "title": "x" * 600_000}), 413, "too-large", None),
    "body over its limit": (b" " * 4_000_001, 413, "too-large", None),
    "too long a list": ([GOOD] * 1_001, 422, "invalid-input", None),
}


async def nothing_changed(qc):
    counts = (await get(qc.gateway, "/queues")).json["queues"]
    return all(not line["counts"] for line in counts)


@pytest.mark.parametrize("case", BAD_BODIES)
async def test_a_bad_submission_is_refused_and_changes_nothing(qc, case):
    payload, status, kind, pointer = BAD_BODIES[case]
    async with qc.running():
        answer = await post(qc.gateway, SUBMIT, payload)
        assert (answer.status, answer.json["type"]) == (status, f"urn:queuecast:problem:{kind}")
        assert answer.headers["content-type"] == "application/problem+json"
        if pointer is not None:
            assert pointer in [flaw["pointer"] for flaw in answer.json["errors"]]
        assert await nothing_changed(qc)


BAD_HEADERS = {
    "wrong media type": ({"content-type": "text/plain"}, 415, "unsupported-media-type"),
    "compressed": ({"content-encoding": "gzip"}, 415, "unsupported-media-type"),
    "wait for ever": ({"prefer": "wait=soon"}, 400, "bad-header"),
    "wait negative": ({"prefer": "wait=-1"}, 400, "bad-header"),
    "wait without a number": ({"prefer": "respond-async, wait"}, 400, "bad-header"),
    "empty key": ({"idempotency-key": '""'}, 400, "bad-header"),
    "half a quoted key": ({"idempotency-key": '"abc'}, 400, "bad-header"),
    "long key": ({"idempotency-key": "k" * 201}, 400, "bad-header"),
    "key beyond ASCII": ({"idempotency-key": "sch\xfcssel"}, 400, "bad-header"),
    "key with a tab": ({"idempotency-key": '"a\tb"'}, 400, "bad-header"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
async def test_a_bad_header_is_refused_and_changes_nothing(qc, case):
    headers, status, kind = BAD_HEADERS[case]
    async with qc.running():
        answer = await post(qc.gateway, SUBMIT, GOOD, {"content-type": "application/json", **headers})
        assert (answer.status, answer.json["type"]) == (status, f"urn:queuecast:problem:{kind}")
        assert await nothing_changed(qc)


async def test_other_preferences_are_ignored(qc):
    async with qc.running():
        assert (
            await post(qc.gateway, SUBMIT, GOOD, {"Prefer": "respond-async, waiting, handling=lenient"})
        ).status == 202


async def test_a_long_wait_is_cut_to_what_is_held_and_parameters_are_passed_over(qc):
    async with qc.running(worker=True):
        for wait in ("wait=99999", 'wait="60"; foo=bar', "respond-async, wait=60"):
            answer = await post(qc.gateway, SUBMIT, GOOD, {"Prefer": wait})
            assert (answer.status, answer.headers["preference-applied"]) == (200, "wait=60")


async def test_a_key_may_come_once_only(qc):
    async with qc.running():
        body = good(idempotency_key="a")
        answer = await post(qc.gateway, SUBMIT, body, {"idempotency-key": "b"})
        assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, "/idempotency_key")


@pytest.mark.parametrize("header", [{"prefer": "wait=1"}, {"idempotency-key": "k"}])
async def test_headers_for_one_task_are_refused_for_a_list(qc, header):
    async with qc.running():
        answer = await post(qc.gateway, SUBMIT, [GOOD], header)
        assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, f"/{next(iter(header))}")
        assert await nothing_changed(qc)


@pytest.mark.parametrize(
    "name", ["Reports", "a.b", "-a", "a-", "a" * 65, "r%0A", "reports%0A", "%D1%80eports", "_qc.control", "a%20b", "*"]
)
async def test_a_bad_queue_name_is_told_so(qc, name):
    async with qc.running():
        for path in (f"/queues/{name}/tasks", f"/queues/{name}/events"):
            answer = await get(qc.gateway, path)
            assert (answer.status, answer.json["type"]) == (422, "urn:queuecast:problem:bad-queue-name")
            assert answer.json["errors"][0]["pointer"] == "/queue"


async def test_an_unknown_queue_is_404_and_is_not_made(qc):
    async with qc.running():
        answer = await post(qc.gateway, "/queues/report/tasks", GOOD)
        assert (answer.status, answer.json["type"]) == (404, "urn:queuecast:problem:unknown-queue")
        assert "did you mean 'reports'" in answer.json["detail"]
        assert "report" not in qc.queues


@pytest.mark.parametrize("path", ["", "/cancel", "/requeue"])
@pytest.mark.parametrize("id", ["nonsense", "0198f2c1-0000-7000-8000-000000000000", "%00", "x" * 5_000])
async def test_an_unknown_task_is_404(qc, path, id):
    async with qc.running():
        answer = await (post if path else get)(qc.gateway, f"{SUBMIT}/{id}{path}")
        assert (answer.status, answer.json["type"]) == (404, "urn:queuecast:problem:unknown-task")


async def test_a_task_is_found_on_its_own_queue_only(qc):
    async with qc.running():
        task = (await post(qc.gateway, SUBMIT, GOOD)).json
        assert (await get(qc.gateway, f"/queues/other/tasks/{task['id']}")).status == 404


async def test_a_finished_task_is_not_cancelled(qc):
    async with qc.running(worker=True):
        task = (await post(qc.gateway, SUBMIT, GOOD, {"Prefer": "wait=10"})).json
        answer = await post(qc.gateway, f"{SUBMIT}/{task['id']}/cancel")
        assert (answer.status, answer.json["type"]) == (409, "urn:queuecast:problem:task-final")
        assert (await get(qc.gateway, f"{SUBMIT}/{task['id']}")).json["state"] == "succeeded"


async def test_what_is_not_dead_is_not_requeued(qc):
    async with qc.running():
        task = (await post(qc.gateway, SUBMIT, GOOD)).json
        answer = await post(qc.gateway, f"{SUBMIT}/{task['id']}/requeue")
        assert (answer.status, answer.json["type"]) == (409, "urn:queuecast:problem:not-dead")


@pytest.mark.parametrize(
    "query",
    ["state=done", "limit=0", "limit=-1", "limit=1e9", f"limit={'9' * 5_000}", "limit=x", "owner=bob", "before=nobody"],
)
async def test_a_bad_parameter_of_a_list_is_refused(qc, query):
    async with qc.running():
        answer = await get(qc.gateway, f"{SUBMIT}?{query}")
        assert (answer.status, answer.json["type"]) == (400, "urn:queuecast:problem:bad-parameter")
        assert answer.json["errors"][0]["pointer"] == f"/{query.partition('=')[0]}"


@pytest.mark.parametrize("query", ["", "?queue=reports" + "".join(f"&queue=q{n}" for n in range(16))])
async def test_a_stream_of_no_queue_or_too_many_is_refused(qc, query):
    async with qc.running():
        assert (await get(qc.gateway, f"/events{query}")).status == 400


async def test_an_unknown_path_and_method_are_problems_too(qc):
    async with qc.running():
        assert (await get(qc.gateway, "/nowhere")).json["type"] == "urn:queuecast:problem:not-found"
        answer = await request(qc.gateway, "DELETE", SUBMIT)
        assert (answer.status, answer.json["type"]) == (405, "urn:queuecast:problem:method-not-allowed")
        assert sorted(answer.headers["allow"].split(", ")) == ["GET", "HEAD", "POST"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", SUBMIT), ("GET", "/queues/reports/events"), ("GET", "/queues"), ("GET", "/readyz"), ("PUT", SUBMIT)],
)
async def test_a_slash_too_many_is_told_and_not_followed(qc, method, path):
    async with qc.running():
        answer = await request(qc.gateway, method, f"{path}/", b"{}")
        assert (answer.status, answer.json["type"]) == (404, "urn:queuecast:problem:not-found")
        assert "leave out the slash" in answer.json["detail"]
        assert "slash" not in (await get(qc.gateway, "/nowhere/")).json["detail"]


async def test_a_body_that_never_ends_is_cut_at_its_deadline(qc, monkeypatch):
    monkeypatch.setattr(body_module, "BODY_DEADLINE", 0.05)
    async with qc.running():
        answer = await request(qc.gateway, "POST", SUBMIT, b'{"name":', arrives=False)
        assert (answer.status, answer.json["type"]) == (408, "urn:queuecast:problem:body-timeout")
        assert answer.headers["connection"] == "close"


async def test_a_body_that_says_it_is_too_large_is_not_read(qc):
    async with qc.running():
        answer = await request(
            qc.gateway,
            "POST",
            SUBMIT,
            b"{",
            {"content-length": str(10**9), "content-type": "application/json"},
            arrives=False,
        )
        assert answer.status == 413


@pytest.mark.parametrize(
    ("error", "kind"),
    [(BrokerUnavailable, "broker-unavailable"), (StorageFull, "storage-full"), (OutcomeUnknown, "outcome-unknown")],
)
async def test_a_failing_broker_is_a_503_that_spreads_who_comes_back(qc, monkeypatch, error, kind):
    async def refuse(self, tasks):
        raise error("no")

    async with qc.running():
        with monkeypatch.context() as patch:
            patch.setattr(MemoryBroker, "submit", refuse)
            answer = await post(qc.gateway, SUBMIT, GOOD)
        assert (answer.status, answer.json["type"]) == (503, f"urn:queuecast:problem:{kind}")
        assert 1 <= int(answer.headers["retry-after"]) <= 10
        assert (await post(qc.gateway, SUBMIT, GOOD)).status == 202


async def test_a_problem_never_echoes_what_was_sent(qc):
    async with qc.running():
        answer = await post(qc.gateway, SUBMIT, good(args={"report_id": "<script>alert(1)</script>"}))
        assert b"<script>" not in answer.body


# Who may do what


def shop(**grants):
    async def who(connection):
        user = connection.headers.get("x-user")
        return Principal(user, **grants) if user else None

    qc = Queuecast("memory://", authenticate=who)

    @qc.queue("reports").task
    async def render(report_id: int) -> int:
        return report_id

    return qc


ANN, BOB = {"x-user": "ann"}, {"x-user": "bob"}


async def test_nobody_is_answered_401():
    qc = shop()
    async with qc.running():
        for path in (SUBMIT, "/queues", "/metrics", "/queues/reports/events", "/events?queue=reports"):
            assert (await get(qc.gateway, path)).status == 401
        assert (await post(qc.gateway, SUBMIT, GOOD)).status == 401
        assert (await get(qc.gateway, "/livez")).status == 200


@pytest.mark.parametrize(
    ("subject", "grants"), [(7, {}), (None, {}), ("ann", {"follow": "Own"}), ("ann", {"follow": None})]
)
async def test_a_principal_that_is_none_sees_nothing(subject, grants):
    with pytest.raises(ConfigurationError, match="Principal"):
        Principal(subject, **grants)

    async def who(connection):
        return Principal(subject, **grants)

    qc = Queuecast("memory://", authenticate=who)
    handler = qc.queue("reports").task(lambda: None)
    async with qc.running():
        await handler.options(owner="bob").submit()
        for path in ("/queues/reports/tasks", "/queues/reports/events", "/queues"):
            assert (await get(qc.gateway, path)).status == 503


async def who_knows(connection):
    return {}["session"]


async def who_says(connection):
    return "ann"


def who_waits_for_nothing(connection):
    return Principal("ann")


@pytest.mark.parametrize("authenticate", [who_knows, who_says, who_waits_for_nothing])
async def test_an_authenticate_that_fails_is_named_in_the_log(authenticate, caplog):
    qc = Queuecast("memory://", authenticate=authenticate)
    qc.queue("reports")
    async with qc.running():
        for path in ("/queues/reports/tasks", "/queues/reports/events"):
            caplog.clear()
            answer = await get(qc.gateway, path)
            assert (answer.status, answer.json["type"]) == (500, "urn:queuecast:problem:internal")
            assert [authenticate.__name__ in record.message for record in caplog.records] == [True]
            assert "defect of queuecast" not in caplog.text + answer.body.decode()


async def test_an_authenticate_may_refuse_in_the_hosts_own_words():
    async def who(connection):
        raise HTTPException(403, "not on Sundays")

    qc = Queuecast("memory://", authenticate=who)
    async with qc.running():
        answer = await get(qc.gateway, "/queues")
        assert (answer.status, answer.json["detail"]) == (403, "not on Sundays")


async def test_a_task_belongs_to_who_submitted_it():
    qc = shop(follow="own")
    async with qc.running():
        task = (await post(qc.gateway, SUBMIT, GOOD, ANN)).json
        assert (await get(qc.gateway, f"{SUBMIT}/{task['id']}", ANN)).json["owner"] == "ann"
        assert (await get(qc.gateway, f"{SUBMIT}/{task['id']}", BOB)).status == 404
        assert (await get(qc.gateway, SUBMIT, BOB)).json["tasks"] == []
        assert len((await get(qc.gateway, SUBMIT, ANN)).json["tasks"]) == 1


async def test_nobody_submits_in_anothers_name_unless_they_manage():
    qc = shop()
    async with qc.running():
        assert (await post(qc.gateway, SUBMIT, good(owner="bob"), ANN)).status == 403
    qc = shop(manage=True)
    async with qc.running():
        task = (await post(qc.gateway, SUBMIT, good(owner="bob"), ANN)).json
        assert (await get(qc.gateway, f"{SUBMIT}/{task['id']}", ANN)).json["owner"] == "bob"


async def test_who_may_not_submit_is_answered_403():
    qc = shop(submit=False)
    async with qc.running():
        assert (await post(qc.gateway, SUBMIT, GOOD, ANN)).status == 403


async def test_only_the_owner_or_who_manages_may_cancel():
    qc = shop()
    async with qc.running():
        task = (await post(qc.gateway, SUBMIT, GOOD, ANN)).json
        assert (await post(qc.gateway, f"{SUBMIT}/{task['id']}/cancel", headers=BOB)).status == 403
        assert (await post(qc.gateway, f"{SUBMIT}/{task['id']}/cancel", headers=ANN)).status == 202


async def test_the_same_key_of_two_owners_is_two_tasks():
    qc = shop()
    async with qc.running():
        key = {"idempotency-key": "k"}
        tasks = await asyncio.gather(*(post(qc.gateway, SUBMIT, GOOD, {**who, **key}) for who in (ANN, BOB)))
        assert len({task.json["id"] for task in tasks}) == 2


async def test_a_page_of_another_site_changes_nothing(qc):
    async with qc.running():
        task = (await post(qc.gateway, SUBMIT, GOOD, {"sec-fetch-site": "same-origin"})).json
        for path in (SUBMIT, f"{SUBMIT}/{task['id']}/cancel", f"{SUBMIT}/{task['id']}/requeue"):
            answer = await post(qc.gateway, path, GOOD, {"sec-fetch-site": "cross-site"})
            assert (answer.status, answer.json["type"]) == (403, "urn:queuecast:problem:cross-site")
        assert (await get(qc.gateway, f"{SUBMIT}/{task['id']}")).json["state"] == "queued"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"sec-fetch-site": "same-origin"}, 202),
        ({"sec-fetch-site": "none"}, 202),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "http://queues.example"}, 403),
        ({"origin": "http://queues.example"}, 202),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://queues.example:81"}, 403),
        ({"origin": "null"}, 403),
    ],
)
async def test_a_browser_says_where_a_request_comes_from_and_a_program_nothing(qc, headers, status):
    async with qc.running():
        assert (await post(qc.gateway, SUBMIT, GOOD, {"host": "queues.example", **headers})).status == status


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:8765", 200), ("[::1]:8765", 200), ("evil.example", 400), ("localhost.evil", 400)],
)
async def test_without_a_login_only_this_machines_own_names_are_answered(qc, host, status):
    face = guarded(qc, qc.gateway, Settings())
    async with qc.running():
        assert (await get(face, "/queues", {"host": host})).status == status


async def test_with_a_login_or_insecure_every_name_is_answered(qc):
    assert guarded(qc, qc.gateway, Settings(insecure=True)) is qc.gateway
    assert guarded(qc, qc.gateway, Settings(host="0.0.0.0", insecure=True)) is qc.gateway
    locked = shop()
    assert guarded(locked, locked.gateway, Settings()) is locked.gateway


async def test_a_guarded_stream_still_takes_its_transport_over(qc):
    async with qc.running(), serving(guarded(qc, qc.gateway, Settings()), StreamProtocol) as server:
        client = await Reader.get(server.port, "/queues/reports/events", {"host": "localhost"})
        await client.opened()
        (sub,) = qc.gateway.hub._subs
        assert isinstance(sub.sink, Connection)


async def test_figures_of_everybody_are_not_for_people_who_see_their_own_tasks_only():
    qc = shop(follow="own")
    async with qc.running():
        await post(qc.gateway, SUBMIT, GOOD, ANN)
        assert (await get(qc.gateway, "/metrics", BOB)).status == 403
        (line,) = (await get(qc.gateway, "/queues", BOB)).json["queues"]
        assert (line["counts"], line["oldest_ready_seconds"]) == ({}, None)


async def test_who_may_not_submit_may_not_requeue():
    qc = shop(submit=False)
    async with qc.running():
        answer = await post(qc.gateway, f"{SUBMIT}/0198f2c1-0000-7000-8000-000000000000/requeue", headers=ANN)
        assert (answer.status, answer.json["type"]) == (403, "urn:queuecast:problem:forbidden")


def test_the_table_is_json_where_it_claims_to_be():
    for payload, *_ in BAD_BODIES.values():
        assert isinstance(payload, bytes) or json.dumps(payload)
