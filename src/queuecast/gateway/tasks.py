"""Submit, status, list, cancel, requeue."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, Raw
from starlette.requests import Request
from starlette.responses import Response

from ..app import Principal
from ..brokers.base import Receipt, Status, end_of
from ..errors import BrokerError, Flaw, InvalidInput, ResultExpired
from ..queue import Queue
from ..session import Session
from ..task import FINAL_STATES, MAX_NAME_CHARS, STATES, TOO_DEEP, Options, State, Task, invalid
from .auth import may_manage, may_see, may_submit, owner_for, owner_shown
from .body import read_json
from .problems import Problem

if TYPE_CHECKING:
    from .app import Open

MAX_BULK: Final = 1_000
"""Tasks in one submission. A longer list is refused whole."""

MAX_WAIT: Final = 60
"""Seconds that `Prefer: wait=N` holds a request; a longer wait is answered 202 after this."""

MAX_PAGE: Final = 1_000
"""Tasks in one list answer; `before` asks for the next page."""

_KEY: Final = re.compile(r"\"([^\"\\]+)\"|([^\"\\,;\s]+)")


class Submission(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One task as it is asked for: its name, its arguments, and its options by their own names."""

    name: str
    args: Raw = Raw(b"{}")


_one = msgspec.json.Decoder(Submission).decode
_many = msgspec.json.Decoder(list[Submission]).decode


async def submit(request: Request, opened: Open, queue: Queue, principal: Principal) -> Response:
    """202 with the task (or the tasks, for a list), once they are durable."""
    may_submit(principal)
    wait = _preferred_wait(request)
    key = _idempotency_key(request)
    body = await read_json(request, opened.hub)
    submissions = _decode(body)
    if isinstance(submissions, list):
        if wait is not None or key is not None:
            header = "/prefer" if wait is not None else "/idempotency-key"
            detail = "Prefer: wait and Idempotency-Key are for one task, not for a list"
            raise Problem(400, "bad-header", detail, (Flaw(header, "leave it out"),))
        tasks = _prepare_all(queue, submissions, principal)
        receipts = await _take(opened, queue, tasks)
        answers = [_accepted(queue, task, receipt) for task, receipt in zip(tasks, receipts, strict=True)]
        return json_response({"tasks": answers}, 202)
    task = _prepare(queue, submissions, principal, key)
    (receipt,) = await _take(opened, queue, [task])
    seen = None if wait is None else await _wait(opened, task, wait)
    if seen is not None and seen.state in FINAL_STATES:
        return json_response(status_json(seen), 200, {"preference-applied": f"wait={wait}", **_replayed(receipt)})
    if seen is not None:
        receipt = msgspec.structs.replace(receipt, state=seen.state, cursor=seen.cursor)
    return _accepted_response(request, queue, task, receipt)


async def status(request: Request, opened: Open, queue: Queue, principal: Principal) -> Response:
    return json_response(status_json(await _visible(request, opened.session, queue, principal)))


async def listing(request: Request, opened: Open, queue: Queue, principal: Principal) -> Response:
    """Newest first; the cursor was taken before the list, so that the stream after it has no gap."""
    state = request.query_params.get("state")
    if state is not None and state not in STATES:
        states = f"one of {', '.join(STATES)}"
        raise Problem(400, "bad-parameter", f"state is {states}", (Flaw("/state", states),))
    owner = owner_shown(principal, request.query_params.get("owner"))
    cursor = await end_of(opened.session.broker, queue.name)
    tasks = await opened.session.broker.statuses(
        queue.name,
        state=_as_state(state),
        owner=owner,
        before=await _before(request, opened.session, queue, principal),
        limit=_limit(request),
    )
    return json_response({"tasks": [status_json(task) for task in tasks], "cursor": str(cursor)})


async def cancel(request: Request, opened: Open, queue: Queue, principal: Principal) -> Response:
    """202: it is asked for, durably. 409 for a task that has ended."""
    seen = await _visible(request, opened.session, queue, principal)
    may_manage(principal, seen)
    if not await queue.cancel(seen.id):
        raise Problem(409, "task-final", f"the task has ended: it is {seen.state}")
    return json_response(status_json(await _visible(request, opened.session, queue, principal)), 202)


async def requeue(request: Request, opened: Open, queue: Queue, principal: Principal) -> Response:
    """202 with the new task. 409 for a task that is not a dead letter."""
    may_submit(principal)
    dead = await _visible(request, opened.session, queue, principal)
    may_manage(principal, dead)
    if dead.state != "failed":
        raise Problem(409, "not-dead", f"only a failed task can be requeued: this one is {dead.state}")
    try:
        task, receipt = await queue.requeue(dead.id)
    except ResultExpired as error:
        raise Problem(409, "not-kept", f"{error}: submit it anew") from error
    return _accepted_response(request, queue, task, receipt)


# Submitting


def _decode(body: bytes) -> Submission | list[Submission]:
    several = body.lstrip()[:1] == b"["
    try:
        return _many(body) if several else _one(body)
    except msgspec.ValidationError as error:
        raise invalid("the submission is not usable", error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, "malformed-json", f"the body is not JSON: {error}") from error
    except RecursionError as error:
        # As deep as Python's own stack, which from 3.14 on is deeper than any body is long: the same answer as there.
        raise InvalidInput("the submission is not usable", [Flaw("" if several else "/args", TOO_DEEP)]) from error


async def _take(opened: Open, queue: Queue, tasks: list[Task]) -> list[Receipt]:
    receipts = await opened.session.broker.submit(tasks) if tasks else []
    opened.meters.submitted[queue.name] += sum(receipt.created for receipt in receipts)
    return receipts


def _prepare_all(queue: Queue, submissions: list[Submission], principal: Principal) -> list[Task]:
    """All of them, or a refusal that names each bad one by its place."""
    if len(submissions) > MAX_BULK:
        detail = f"a list holds at most {MAX_BULK} tasks, this one {len(submissions)}"
        raise Problem(422, "invalid-input", detail, (Flaw("", detail),))
    tasks: list[Task] = []
    flaws: list[Flaw] = []
    for place, submission in enumerate(submissions):
        try:
            tasks.append(_prepare(queue, submission, principal, None))
        except InvalidInput as error:
            found = error.flaws or (Flaw("", str(error)),)
            flaws += [Flaw(f"/{place}{flaw.pointer}", flaw.detail) for flaw in found]
    if flaws:
        raise InvalidInput("no task of the list was taken", flaws)
    return tasks


def _prepare(queue: Queue, submission: Submission, principal: Principal, key: str | None) -> Task:
    if key is not None and submission.idempotency_key is not None:
        raise InvalidInput("the key was given twice", [Flaw("/idempotency_key", "leave it out, or the header")])
    options = msgspec.structs.replace(
        submission,
        owner=owner_for(principal, submission.owner),
        idempotency_key=key or submission.idempotency_key,
    )
    return queue.prepare(submission.name, submission.args, options)


async def _wait(opened: Open, task: Task, seconds: int) -> Status | None:
    """The task's status once it has ended, or else as it is by then; it goes on. None where nobody can tell."""
    try:
        with suppress(TimeoutError):
            async with opened.hub.patience(seconds):
                await opened.session.wait_for_result(task.queue, task.id)
        return await opened.session.broker.status(task.queue, task.id)
    except (BrokerError, ResultExpired):
        # The task is durable. An error would say that it is not, and the client would submit it again.
        return None


def _accepted_response(request: Request, queue: Queue, task: Task, receipt: Receipt) -> Response:
    root = request.scope.get("root_path", "")
    headers = {"location": f"{root}/queues/{queue.name}/tasks/{task.id}", **_replayed(receipt)}
    return json_response(_accepted(queue, task, receipt), 202, headers)


def _replayed(receipt: Receipt) -> dict[str, str]:
    return {} if receipt.created else {"idempotent-replayed": "true"}


def _accepted(queue: Queue, task: Task, receipt: Receipt) -> dict[str, Any]:
    accepted = {
        "id": task.id,
        "queue": queue.name,
        "name": task.name,
        "state": receipt.state,
        "cursor": str(receipt.cursor),
    }
    return {**accepted, "requeued_from": task.requeued_from} if task.requeued_from else accepted


def _preferred_wait(request: Request) -> int | None:
    """Seconds of `wait`, RFC 7240 §4.3. Other preferences are none of ours and ignored, as the RFC asks."""
    for preference in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            seconds = value.strip().strip('"')
            if not (seconds.isascii() and seconds.isdecimal()):
                raise Problem(400, "bad-header", "Prefer: wait=N takes whole seconds", (Flaw("/prefer", "wait=N"),))
            return min(int(seconds[:MAX_NAME_CHARS]), MAX_WAIT)
    return None


def _idempotency_key(request: Request) -> str | None:
    """A quoted string (draft-ietf-httpapi-idempotency-key-header-07), or the bare word that most clients send."""
    text = request.headers.get("idempotency-key")
    if text is None:
        return None
    match = _KEY.fullmatch(text.strip())
    key = (match[1] or match[2]) if match else ""
    if not key or len(key) > MAX_NAME_CHARS or not key.isprintable() or not key.isascii():
        detail = f"a quoted string of 1 to {MAX_NAME_CHARS} printable ASCII characters"
        raise Problem(400, "bad-header", f"Idempotency-Key is {detail}", (Flaw("/idempotency-key", detail),))
    return key


# Looking


async def _visible(request: Request, session: Session, queue: Queue, principal: Principal) -> Status:
    id = request.path_params["id"]
    found = await session.broker.status(queue.name, id)
    if found is None or not may_see(principal, found):
        raise ResultExpired(f"there is no task {id[:64]!r} on {queue.name}, or it is older than the log's retention")
    return found


async def _before(request: Request, session: Session, queue: Queue, principal: Principal) -> str | None:
    id = request.query_params.get("before")
    if id is not None and not may_see(principal, await session.broker.status(queue.name, id)):
        detail = "the id of a task of this queue, the last one of the page before; begin anew where it is forgotten"
        raise Problem(400, "bad-parameter", f"before is {detail}", (Flaw("/before", detail),))
    return id


def _as_state(text: str | None) -> State | None:
    return next((state for state in STATES if state == text), None)


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", "100")
    # Only then a number: Python refuses to read one of thousands of digits.
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_NAME_CHARS and 1 <= int(text) <= MAX_PAGE):
        bounds = f"1 to {MAX_PAGE}"
        raise Problem(400, "bad-parameter", f"limit is {bounds}", (Flaw("/limit", bounds),))
    return int(text)


def status_json(status: Status) -> dict[str, Any]:
    """A status as clients see it: result or error once it has ended, progress while it runs."""
    shown: dict[str, Any] = {
        "id": status.id,
        "queue": status.queue,
        "name": status.name,
        "state": status.state,
        "attempt": status.attempt,
        "cursor": str(status.cursor),
    }
    if status.owner is not None:
        shown["owner"] = status.owner
    if status.progress is not None:
        shown["progress"] = status.progress
    if status.error is not None:
        shown["error"] = status.error
    if status.state == "succeeded":
        shown["result"] = None if status.result is UNSET else status.result
    return shown


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(body),
        status,
        {"cache-control": "no-store", **(headers or {})},
        media_type="application/json",
    )
