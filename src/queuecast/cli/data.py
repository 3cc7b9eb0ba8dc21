"""Commands that ask the gateway something and print the answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from ..errors import ConfigurationError
from ..task import STATES
from .display import as_json, as_text, columns, emit, say
from .follow import how_to_follow
from .http import RemoteGateway

PAGE: Final = 500
"""Tasks asked for in one request; the gateway allows a thousand."""


def submission(name: str, pairs: Sequence[str], whole: str | None, options: Sequence[str]) -> dict[str, Any]:
    """What `--arg`, `--args` and `--option` ask for. Raises `ConfigurationError` for what is no pair or no JSON."""
    args = {**_object(whole), **dict(_pair("--arg", text) for text in pairs)}
    return {**dict(_pair("--option", text) for text in options), "name": name, "args": args}


def _object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        given = sys.stdin.buffer.read() if text == "-" else text
        value: dict[str, Any] = msgspec.json.decode(given, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--args is no JSON object such as '{{\"id\": 7}}': {error}") from error
    return value


def _pair(option: str, text: str) -> tuple[str, Any]:
    key, found, value = text.partition("=")
    if not found or not key:
        raise ConfigurationError(f"{option} {text!r} is no KEY=VALUE")
    try:
        return key, msgspec.json.decode(value)
    except msgspec.MsgspecError:
        return key, value


def submit(gateway: RemoteGateway, queue: str, body: dict[str, Any], *, json: bool, watch: bool) -> dict[str, Any]:
    """The accepted task. When it is going to be watched, stdout is left to what it brings."""
    accepted: dict[str, Any] = gateway.post("queues", queue, "tasks", body=body)
    if watch:
        say(f"submitted {accepted['id']} to {queue}")
    else:
        emit(as_json(accepted) if json else accepted["id"])
        if not json:
            say(how_to_follow(queue, accepted["id"], gateway.url))
    return accepted


def queues(gateway: RemoteGateway, *, json: bool) -> None:
    found = gateway.get("queues")["queues"]
    shown = [state for state in STATES if any(queue["counts"].get(state) for queue in found)]
    rows = [[q["name"], *(q["counts"].get(state, 0) for state in shown), ", ".join(q["handlers"])] for q in found]
    _print(found, ["queue", *shown, "handlers"], rows, json=json)


def tasks(gateway: RemoteGateway, queue: str, state: str | None, limit: int, *, json: bool) -> None:
    found = list(islice(_pages(gateway, queue, state), limit))
    head = ["id", "name", "state", "attempt"]
    _print(found, head, [[task[key] for key in head] for task in found], json=json)


def dead(gateway: RemoteGateway, queue: str, limit: int, *, json: bool) -> None:
    found = list(islice(_pages(gateway, queue, "failed"), limit))
    rows = [[task["id"], task["name"], task["attempt"], _reason(task)] for task in found]
    _print(found, ["id", "name", "attempts", "reason"], rows, json=json)
    if found and not json:
        say(f"submit one again: queuecast dead {queue} --requeue ID")


def task(gateway: RemoteGateway, queue: str, id: str, *, json: bool) -> None:
    found = gateway.get("queues", queue, "tasks", id)
    if json:
        emit(as_json(found))
    else:
        for key, value in found.items():
            emit(f"{key:>8}  {as_text(value)}")


def cancel(gateway: RemoteGateway, queue: str, id: str, *, json: bool) -> None:
    """A running task is asked to stop, and does so later; any other is cancelled with the answer."""
    asked = gateway.post("queues", queue, "tasks", id, "cancel")
    if json:
        emit(as_json(asked))
    else:
        say(f"{id} is {asked['state']}" + ("" if asked["state"] == "cancelled" else " and asked to stop"))


def requeue(gateway: RemoteGateway, queue: str, id: str, *, json: bool) -> None:
    accepted = gateway.post("queues", queue, "tasks", id, "requeue")
    emit(as_json(accepted) if json else accepted["id"])


def requeue_all(gateway: RemoteGateway, queue: str, *, json: bool) -> None:
    """All that were dead at the beginning; one that fails again meanwhile is another dead letter."""
    for letter in list(_pages(gateway, queue, "failed")):
        requeue(gateway, queue, letter["id"], json=json)


def _pages(gateway: RemoteGateway, queue: str, state: str | None) -> Iterator[dict[str, Any]]:
    """A queue's tasks, newest first, asked for as they are needed."""
    before: str | None = None
    while True:
        page = gateway.get("queues", queue, "tasks", state=state, limit=str(PAGE), before=before)["tasks"]
        yield from page
        if len(page) < PAGE:
            return
        before = page[-1]["id"]


def _reason(task: dict[str, Any]) -> str:
    error = task.get("error") or {}
    return f"{error.get('type', '')}: {error.get('message', '')}".partition("\n")[0]


def _print(found: Sequence[Any], head: Sequence[str], rows: Sequence[Sequence[Any]], *, json: bool) -> None:
    """Objects as JSON, or their rows as a table."""
    if not found and not json:
        say("there are none")
        return
    for line in map(as_json, found) if json else columns([title.upper() for title in head], rows):
        emit(line)
