"""Submit, status, list, cancel and requeue over HTTP."""

import asyncio

from queuecast.event import TaskEvent

from .asgi import get, post


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
        from queuecast import Queuecast
        from queuecast.gateway.catalog import Catalog

        bare = Queuecast("memory://")
        catalog = Catalog(bare)
        await catalog.start(session)
        assert set(catalog.queue("reports").announced) == {"render", "hold", "fail", "count"}


async def test_the_gateway_starts_with_its_first_request_when_nothing_else_started_it(qc):
    answers = await asyncio.gather(*(get(qc.gateway, "/queues") for _ in range(5)))
    assert {answer.status for answer in answers} == {200}
    await qc.close()
