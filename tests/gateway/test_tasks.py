"""Submit, status, list, cancel and requeue over HTTP."""

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest
from working import hold_back_control_log

from queuecast import Queuecast
from queuecast.brokers import CONTROL
from queuecast.brokers.base import Entry
from queuecast.brokers.memory import MemoryBroker
from queuecast.control import HandlerInfo, WorkerAnnounced, encode_control
from queuecast.errors import BrokerUnavailable, OutcomeUnknown, ResultExpired
from queuecast.event import TaskEvent
from queuecast.gateway import catalog as catalog_module
from queuecast.gateway.catalog import Catalog
from queuecast.gateway.meters import MAX_NAMES, Meters
from queuecast.hub.counters import Counters
from queuecast.hub.hub import Hub
from queuecast.session import Session
from queuecast.tail import Tail

from .asgi import get, post, request


async def state_of(qc, id, state):
    """Wait for the log to tell that the task is in this state."""
    async for event in qc.queue("reports").events_of(id, None):
        if isinstance(event, TaskEvent) and event.task.state == state:
            return
        if event.type == "result" and event.state == state:
            return


async def test_a_submitted_task_is_accepted_with_its_place_and_a_cursor(qc):
    async with qc.running():
        answer = await post(qc.gateway, "/queues/reports/tasks", {"name": "render", "args": {"report_id": 7}})
        assert answer.status == 202
        accepted = answer.json
        assert (accepted["queue"], accepted["name"], accepted["state"]) == ("reports", "render", "queued")
        assert answer.headers["location"] == f"/queues/reports/tasks/{accepted['id']}"
        (first,) = [event async for event in _take(qc.queue("reports").events(after="first"), 1)]
        assert (first.id, first.cursor) == (accepted["id"], accepted["cursor"])


async def _take(events, number):
    async for event in events:
        yield event
        number -= 1
        if not number:
            return


async def test_the_status_tells_how_the_task_ended(qc):
    async with qc.running(worker=True):
        task = (await post(qc.gateway, "/queues/reports/tasks", {"name": "render", "args": {"report_id": 7}})).json
        await state_of(qc, task["id"], "succeeded")
        status = (await get(qc.gateway, f"/queues/reports/tasks/{task['id']}")).json
        assert (status["state"], status["result"], status["attempt"]) == ("succeeded", "untitled 7", 1)


async def test_prefer_wait_answers_with_the_result_when_it_comes_in_time(qc):
    async with qc.running(worker=True):
        answer = await post(
            qc.gateway, "/queues/reports/tasks", {"name": "render", "args": {"report_id": 7}}, {"Prefer": "wait=10"}
        )
        assert (answer.status, answer.json["result"]) == (200, "untitled 7")
        assert answer.headers["preference-applied"] == "wait=10"


async def test_prefer_wait_answers_202_when_the_result_does_not_come_in_time(qc):
    async with qc.running(worker=True):
        answer = await post(qc.gateway, "/queues/reports/tasks", {"name": "hold"}, {"Prefer": "wait=0"})
        assert answer.status == 202
        qc.release.set()


async def test_a_server_that_stops_answers_those_who_wait(qc):
    asked = ("/queues/reports/tasks", {"name": "hold"}, {"Prefer": "wait=60"})
    async with qc.running(worker=True):
        waiting = asyncio.create_task(post(qc.gateway, *asked))
        async for event in qc.queue("reports").events(after="first"):
            if isinstance(event, TaskEvent) and event.task.state == "running":
                break
        half = asyncio.create_task(request(qc.gateway, "POST", asked[0], b'{"name":', arrives=False))
        assert not waiting.done()
        await qc.gateway.hub.drain(0.02)
        refused = await half
        assert (refused.status, refused.json["type"]) == (503, "urn:queuecast:problem:stopping")
        assert (refused.headers["connection"], int(refused.headers["retry-after"]) > 0) == ("close", True)
        answer = await waiting
        assert (answer.status, answer.json["state"]) == (202, "running")
        late = await post(qc.gateway, *asked)
        assert late.status == 202
        qc.release.set()


async def test_a_202_after_a_wait_tells_what_the_task_is_by_then(qc, monkeypatch):
    async def until_it_runs(self, queue, id):
        while (await self.broker.status(queue, id)).state != "running":
            await asyncio.sleep(0.001)
        raise TimeoutError

    monkeypatch.setattr(Session, "wait_for_result", until_it_runs)
    async with qc.running(worker=True):
        answer = await post(qc.gateway, "/queues/reports/tasks", {"name": "hold"}, {"Prefer": "wait=9"})
        assert (answer.status, answer.json["state"]) == (202, "running")
        status = (await get(qc.gateway, f"/queues/reports/tasks/{answer.json['id']}")).json
        assert answer.json["cursor"] == status["cursor"]
        qc.release.set()


async def test_a_list_is_taken_whole(qc):
    async with qc.running():
        tasks = [{"name": "render", "args": {"report_id": n}} for n in range(3)]
        answer = await post(qc.gateway, "/queues/reports/tasks", tasks)
        assert answer.status == 202
        listed = (await get(qc.gateway, "/queues/reports/tasks")).json
        assert [task["id"] for task in listed["tasks"]] == [task["id"] for task in reversed(answer.json["tasks"])]


async def test_a_list_with_one_bad_task_is_refused_whole_and_names_it(qc):
    async with qc.running():
        tasks = [{"name": "render", "args": {"report_id": 1}}, {"name": "render", "args": {"report_id": "x"}}]
        answer = await post(qc.gateway, "/queues/reports/tasks", tasks)
        assert answer.status == 422
        assert [flaw["pointer"] for flaw in answer.json["errors"]] == ["/1/args/report_id"]
        assert (await get(qc.gateway, "/queues/reports/tasks")).json["tasks"] == []


async def test_a_list_answer_plus_the_stream_after_its_cursor_has_no_gap(qc):
    async with qc.running():
        await post(qc.gateway, "/queues/reports/tasks", {"name": "render", "args": {"report_id": 1}})
        cursor = (await get(qc.gateway, "/queues/reports/tasks")).json["cursor"]
        later = (await post(qc.gateway, "/queues/reports/tasks", {"name": "fail"})).json
        (event,) = [event async for event in _take(qc.queue("reports").events(after=cursor), 1)]
        assert event.id == later["id"]


async def test_the_same_idempotency_key_gives_the_same_task(qc):
    async with qc.running():
        body, key = {"name": "render", "args": {"report_id": 1}}, {"Idempotency-Key": '"k 1"'}
        first = await post(qc.gateway, "/queues/reports/tasks", body, key)
        again = await post(qc.gateway, "/queues/reports/tasks", body, key)
        assert again.json["id"] == first.json["id"]
        assert again.headers["idempotent-replayed"] == "true"
        assert "idempotent-replayed" not in first.headers
        other = await post(qc.gateway, "/queues/reports/tasks", {"name": "fail"}, key)
        assert (other.status, other.json["type"]) == (422, "urn:queuecast:problem:key-reused")


async def test_a_repeat_that_waits_for_its_result_is_told_to_be_one(qc):
    async with qc.running(worker=True):
        body = {"name": "render", "args": {"report_id": 1}}
        headers = {"Idempotency-Key": '"k 1"', "Prefer": "wait=10"}
        answers = [await post(qc.gateway, "/queues/reports/tasks", body, headers) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 200]
        assert ["idempotent-replayed" in answer.headers for answer in answers] == [False, True]


async def test_a_queued_task_is_cancelled_at_once(qc):
    async with qc.running():
        task = (await post(qc.gateway, "/queues/reports/tasks", {"name": "hold"})).json
        answer = await post(qc.gateway, f"/queues/reports/tasks/{task['id']}/cancel")
        assert (answer.status, answer.json["state"]) == (202, "cancelled")


async def test_a_running_task_is_cancelled_by_its_worker(qc):
    async with qc.running(worker=True):
        task = (await post(qc.gateway, "/queues/reports/tasks", {"name": "hold"})).json
        await state_of(qc, task["id"], "running")
        assert (await post(qc.gateway, f"/queues/reports/tasks/{task['id']}/cancel")).status == 202
        await state_of(qc, task["id"], "cancelled")


async def test_a_dead_letter_is_requeued_once_however_often_it_is_asked_for(qc):
    async with qc.running(worker=True):
        dead = (await post(qc.gateway, "/queues/reports/tasks", {"name": "fail"}, {"Prefer": "wait=10"})).json
        assert (dead["state"], dead["error"]) == ("failed", {"type": "RuntimeError", "message": "no paper"})
        new = await post(qc.gateway, f"/queues/reports/tasks/{dead['id']}/requeue")
        assert (new.status, new.json["requeued_from"]) == (202, dead["id"])
        again = await post(qc.gateway, f"/queues/reports/tasks/{dead['id']}/requeue")
        assert again.json["id"] == new.json["id"]
        listed = (await get(qc.gateway, "/queues/reports/tasks?state=failed")).json["tasks"]
        assert dead["id"] in [task["id"] for task in listed]


async def test_the_list_is_paged_from_the_newest(qc):
    async with qc.running():
        answer = await post(qc.gateway, "/queues/reports/tasks", [{"name": "fail"}] * 5)
        ids = [task["id"] for task in reversed(answer.json["tasks"])]
        page = (await get(qc.gateway, "/queues/reports/tasks?limit=2")).json["tasks"]
        rest = (await get(qc.gateway, f"/queues/reports/tasks?before={page[-1]['id']}")).json["tasks"]
        assert [task["id"] for task in page + rest] == ids


async def test_the_overview_counts_tasks_by_state_and_gives_a_cursor_for_these_queues(qc):
    async with qc.running():
        await post(qc.gateway, "/queues/reports/tasks", [{"name": "fail"}] * 2)
        overview = (await get(qc.gateway, "/queues?queue=reports&queue=other")).json
        assert [(line["name"], line["counts"]) for line in overview["queues"]] == [
            ("reports", {"queued": 2}),
            ("other", {}),
        ]
        assert overview["cursor"].startswith("v")


async def test_metrics_are_named_as_documented(qc):
    async with qc.running(worker=True):
        await post(
            qc.gateway, "/queues/reports/tasks", {"name": "render", "args": {"report_id": 1}}, {"Prefer": "wait=10"}
        )
        page = (await get(qc.gateway, "/metrics")).body.decode()
        for line in (
            'queuecast_tasks_submitted_total{queue="reports"} 1.0',
            'queuecast_attempts_total{outcome="succeeded",queue="reports",task="render"} 1.0',
            'queuecast_queue_tasks{queue="reports",state="succeeded"} 1.0',
            'queuecast_task_run_seconds_count{queue="reports"} 1.0',
            'queuecast_task_wait_seconds_count{queue="reports"} 1.0',
            'queuecast_stream_delivery_seconds_bucket{le="+Inf",queue="reports"}',
            "queuecast_broker_up 1.0",
        ):
            assert line in page


async def test_while_the_broker_is_down_the_metrics_say_so(qc, monkeypatch):
    async def down(self, queue=None):
        raise BrokerUnavailable("no")

    async with qc.running():
        await post(qc.gateway, "/queues/reports/tasks", {"name": "fail"})
        monkeypatch.setattr(MemoryBroker, "counts", down)
        answer = await get(qc.gateway, "/metrics")
        assert answer.status == 200
        page = answer.body.decode()
        assert "queuecast_broker_up 0.0" in page
        assert 'queuecast_tasks_submitted_total{queue="reports"} 1.0' in page
        # Not known is not none.
        assert "queuecast_queue_tasks{" not in page
        assert "queuecast_worker_slots" not in page


async def test_every_figure_is_documented(qc):
    told = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    async with qc.running(worker=True):
        page = (await get(qc.gateway, "/metrics")).body.decode()
    # A histogram's own `_created` is prometheus-client's.
    served = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")}
    served = {name for name in served if not name.endswith("_created")}
    assert served == set(re.findall("`(queuecast_[a-z_]+)", told))


async def test_health_tells_alive_from_ready(qc):
    async with qc.running():
        assert (await get(qc.gateway, "/livez")).status == 200
        assert (await get(qc.gateway, "/readyz")).status == 200
        qc.gateway.hub.draining = True
        assert (await get(qc.gateway, "/livez")).status == 200
        assert (await get(qc.gateway, "/readyz")).status == 503


async def test_a_gateway_without_the_code_learns_the_queues_from_their_workers(tmp_path, qc):
    async with qc.running(worker=True):
        session = await qc.session()
        bare = Queuecast("memory://")
        catalog = Catalog(bare)
        await catalog.start(session)
        assert set(catalog.queue("reports").announced) == {"render", "hold", "fail", "count"}


async def test_a_gateway_without_the_code_finds_the_queues_that_stand_in_the_broker(tmp_path):
    url = f"sqlite:///{tmp_path}/work.db"
    code = Queuecast(url)

    @code.queue("reports").task
    def render(): ...

    async with code.running():
        ref = await render.submit()
    bare = Queuecast(url)
    async with bare.running():
        listed = await get(bare.gateway, "/queues/reports/tasks")
        assert [task["id"] for task in listed.json["tasks"]] == [ref.id]
        assert [line["name"] for line in (await get(bare.gateway, "/queues")).json["queues"]] == ["reports"]


async def test_a_queue_that_only_stands_in_the_broker_is_followed_once_somebody_asks_for_it(tmp_path):
    url = f"sqlite:///{tmp_path}/work.db"
    code = Queuecast(url)

    @code.queue("reports").task
    def render(): ...

    async with code.running():
        ref = await render.submit()
    bare = Queuecast(url)
    async with bare.running():
        session, hub = await bare.session(), (await bare.gateway.opened()).hub
        for path in ("/queues", "/metrics", "/readyz"):
            assert (await get(bare.gateway, path)).status == 200
        assert set(session._tails) == {CONTROL}
        assert (await get(bare.gateway, f"/queues/reports/tasks/{ref.id}")).json["state"] == "queued"
        while ("reports",) not in [queues for queues, _ in hub._followed]:
            await asyncio.sleep(0.001)
        await bare.queue("reports").cancel(ref.id)
        while b'queuecast_attempts_total{outcome="cancelled"' not in (await get(bare.gateway, "/metrics")).body:
            await asyncio.sleep(0.001)


async def test_without_queues_there_is_nothing_to_follow():
    bare = Queuecast("memory://")
    async with bare.running():
        assert (await get(bare.gateway, "/queues")).json == {"queues": []}


async def test_a_gateway_without_the_code_names_the_argument_that_does_not_fit(tmp_path):
    url = f"sqlite:///{tmp_path}/work.db"
    code, bare = Queuecast(url), Queuecast(url)

    @code.queue("reports").task
    def render(pages: int, title: str = ""): ...

    async with code.running(worker=True), bare.running():
        while (
            await post(bare.gateway, "/queues/reports/tasks", {"name": "render", "args": {"pages": 1}})
        ).status == 404:
            await asyncio.sleep(0.01)  # not announced yet
        for args, pointer in (
            ({}, "/args/pages"),
            ({"pages": "nine"}, "/args/pages"),
            ({"pages": 9, "colour": "red"}, "/args/colour"),
        ):
            asked = {"name": "render", "args": args}
            answers = [await post(qc.gateway, "/queues/reports/tasks", asked) for qc in (code, bare)]
            assert answers[1].status == 422
            assert [error["pointer"] for error in answers[1].json["errors"]] == [pointer]
            assert answers[0].json == answers[1].json
        listed = await post(bare.gateway, "/queues/reports/tasks", [{"name": "render"}])
        assert listed.json["errors"][0]["pointer"] == "/0/args/pages"


async def test_the_gateway_starts_with_its_first_request_when_nothing_else_started_it(qc, caplog):
    caplog.set_level("INFO")
    answers = await asyncio.gather(*(get(qc.gateway, "/queues") for _ in range(5)))
    assert {answer.status for answer in answers} == {200}
    assert [record.message for record in caplog.records if "qc.running()" in record.message]
    await qc.close()


@pytest.mark.parametrize("error", [BrokerUnavailable, OutcomeUnknown, ResultExpired])
async def test_a_failure_while_waiting_does_not_deny_that_the_task_was_accepted(qc, monkeypatch, error):
    async def fail(self, queue, id):
        raise error("no")

    async with qc.running():
        monkeypatch.setattr(Session, "wait_for_result", fail)
        answer = await post(qc.gateway, "/queues/reports/tasks", {"name": "fail"}, {"Prefer": "wait=10"})
        assert (answer.status, answer.json["state"]) == (202, "queued")


async def test_the_preference_applied_is_the_wait_that_was_granted(qc):
    async with qc.running(worker=True):
        answer = await post(qc.gateway, "/queues/reports/tasks", {"name": "fail"}, {"Prefer": "wait=9999"})
        assert answer.headers["preference-applied"] == "wait=60"


async def test_what_a_request_opened_ends_with_the_application(qc, caplog):
    stopped = signal.getsignal(signal.SIGINT)
    calls = []
    signal.signal(signal.SIGINT, lambda *_: calls.append(1))
    try:
        handler = signal.getsignal(signal.SIGINT)
        async with qc.running():
            with caplog.at_level("INFO"):
                assert (await get(qc.gateway, "/readyz")).status == 200
            assert "started by a request" not in caplog.text
            hub = (await qc.gateway.opened()).hub
            os.kill(os.getpid(), signal.SIGINT)
            while not hub.draining:
                await asyncio.sleep(0)
            assert calls, "the host application's own handler is called too"
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, stopped)


async def test_a_broker_that_can_never_be_opened_is_no_defect_of_ours():
    qc = Queuecast("sqlite:////no/such/folder/work.db")
    answer = await get(qc.gateway, "/readyz")
    assert (answer.status, answer.json["type"]) == (503, "urn:queuecast:problem:misconfigured")
    assert "/no/such" not in answer.json["detail"], "that is for the log"


# Following the queues


async def test_a_queue_that_is_announced_while_the_gateway_starts_is_no_obstacle(qc, monkeypatch):
    fanout = Hub.fanout

    async def announced_meanwhile(self, queues):
        qc.queue("late")
        return await fanout(self, queues)

    monkeypatch.setattr(Hub, "fanout", announced_meanwhile)
    assert (await get(qc.gateway, "/readyz")).status == 200
    await qc.close()


def announced(queue, worker="w", time=0.0):
    return Entry(1, encode_control(WorkerAnnounced(worker, time, 4, {queue: [HandlerInfo("render", {})]})))


async def test_a_queue_that_is_announced_later_is_followed_and_counted(qc):
    async with qc.running():
        opened = await qc.gateway.opened()
        opened.catalog.entries([announced("late")])
        while ("late",) not in [queues for queues, _ in opened.hub._followed]:
            await asyncio.sleep(0.001)
        assert (await post(qc.gateway, "/queues/late/tasks", {"name": "render"})).status == 202
        while b'queuecast_events_appended_total{queue="late"} 1.0' not in (await get(qc.gateway, "/metrics")).body:
            await asyncio.sleep(0.001)


async def test_a_queue_that_cannot_be_followed_is_tried_again_when_it_is_announced_again(qc, monkeypatch, caplog):
    async with qc.running():
        opened = await qc.gateway.opened()
        with monkeypatch.context() as patch:
            patch.setattr(Hub, "fanout", refuse)
            opened.catalog.entries([announced("late")])
            while "the log of late cannot be followed yet" not in caplog.text:
                await asyncio.sleep(0.001)
        opened.catalog.entries([announced("late")])
        while ("late",) not in [queues for queues, _ in opened.hub._followed]:
            await asyncio.sleep(0.001)


async def refuse(self, *_):
    raise BrokerUnavailable("no")


async def test_a_start_that_fails_leaves_nobody_listening(qc, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Hub, "fanout", refuse)
        assert (await get(qc.gateway, "/queues")).status == 503
    tails = (await qc.session())._tails
    assert set(tails) == {CONTROL, "reports"}
    assert not any(tail._listeners for tail in tails.values())
    assert (await get(qc.gateway, "/queues")).status == 200
    await qc.close()


async def test_announcements_that_cannot_be_read_are_not_waited_for(qc, monkeypatch):
    broker = (await qc.session()).broker
    await broker.declare(CONTROL)
    await broker.post(announced("late").body)
    monkeypatch.setattr(catalog_module, "CATCH_UP_SECONDS", 0.05)
    let_go = hold_back_control_log(monkeypatch)
    answer = await get(qc.gateway, "/queues")
    assert (answer.status, answer.json["type"]) == (503, "urn:queuecast:problem:broker-unavailable")
    assert "what the workers have announced cannot be read" in answer.json["detail"]
    let_go.set()
    assert (await get(qc.gateway, "/queues")).status == 200
    await qc.close()


async def test_a_host_may_start_it_again_after_a_failure(qc, monkeypatch):
    gateway = qc.gateway
    with monkeypatch.context() as patch:
        patch.setattr(Hub, "fanout", refuse)
        with pytest.raises(BrokerUnavailable):
            await qc.running().__aenter__()
    async with qc.running():
        assert gateway.hub is not None


async def test_a_worker_that_was_killed_is_forgotten(qc):
    catalog = Catalog(qc)
    catalog.entries([announced("reports", "killed", time=0.0), announced("reports", "alive", time=100.0)])
    assert catalog.slots(now=101.0) == 4
    assert set(catalog._workers) == {"alive"}


async def test_what_was_in_the_log_before_a_restart_is_not_counted_again(tmp_path):
    def restarted():
        qc = Queuecast(f"sqlite:///{tmp_path}/log.db")
        qc.queue("reports").learn([HandlerInfo("render", {})])
        return qc.gateway, qc.running()

    async def submit_and_cancel(gateway):
        task = (await post(gateway, "/queues/reports/tasks", {"name": "render"})).json
        await post(gateway, f"/queues/reports/tasks/{task['id']}/cancel")

    async def counted(gateway, appended):
        line = f'queuecast_events_appended_total{{queue="reports"}} {appended}.0'
        while line not in (page := (await get(gateway, "/metrics")).body.decode()):
            await asyncio.sleep(0.01)
        return page

    gateway, running = restarted()
    async with running:
        for _ in range(3):
            await submit_and_cancel(gateway)
        await counted(gateway, 6)
    gateway, running = restarted()
    async with running:
        assert "queuecast_attempts_total{" not in await counted(gateway, 0)
        await submit_and_cancel(gateway)
        assert 'queuecast_attempts_total{outcome="cancelled",queue="reports",task="render"} 1.0' in await counted(
            gateway, 2
        )


def test_outputs_are_counted_without_being_decoded():
    catalog, counters = Catalog(Queuecast("memory://")), Counters()
    meters = Meters(counters, catalog)
    tail = Tail(MemoryBroker(), "reports")
    meters.follow(tail, 0)
    (meter,) = tail._listeners
    last = b'{"type":"output","id":"1","time":"2026-01-01T00:00:00.000Z","output":1}'
    meter.entries([Entry(1, b'{"type":"output", and so on'), Entry(2, last)])
    assert meter.events == 2


def test_names_without_end_are_one_figure():
    meters = Meters(Counters(), Catalog(Queuecast("memory://")))
    tail = Tail(MemoryBroker(), "reports")
    meters.follow(tail, 0)
    (meter,) = tail._listeners
    for number in range(MAX_NAMES + 50):
        run = new_run(str(number), f"name {number}")
        meter.entries([Entry(2 * number + each + 1, body) for each, body in enumerate(run)])
    assert len(meter.attempts) == MAX_NAMES + 1
    assert meter.attempts["other", "succeeded"] == 50


def new_run(id, name):
    task = f'"task":{{"id":"{id}","name":"{name}","state":"running","attempt":1}}'
    head = f'"id":"{id}","seq":1,"time":"2026-01-01T00:00:00.000Z"'
    return f'{{"type":"task",{head},{task}}}'.encode(), f'{{"type":"result",{head},"state":"succeeded"}}'.encode()
