"""Following streams: one task to its end, or a queue for as long as somebody looks."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import msgspec
from msgspec import Struct

from ..codec import decode_event
from ..event import Event, OutputEvent, ResultEvent
from ..settings import Settings
from .display import as_json, as_text, emit, ending_in_words, in_words, progress_shown, safe_json, say
from .exits import EXIT_OF, CommandError, Exit
from .http import RemoteGateway


@contextmanager
def interruptible(timeout: float | None, late: str, advice: str) -> Iterator[None]:
    """Ends the block at Ctrl-C, SIGTERM or after `timeout` seconds, by signals, wherever it waits.

    What is watched goes on: `advice` says how to get back to it, `late` what has not happened in so many seconds.
    """
    earlier = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGALRM)}
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGALRM, _timed_out)
    signal.setitimer(signal.ITIMER_REAL, timeout or 0)
    try:
        yield
    except _TimedOut as ending:
        raise CommandError(f"{late.format(timeout)}; {advice}", Exit.TIMED_OUT) from ending
    except (KeyboardInterrupt, SystemExit):
        say(advice)
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in earlier.items():
            signal.signal(signum, handler)


class _TimedOut(BaseException):
    """Like KeyboardInterrupt, so that nothing on the way takes it for a failure of its own."""


def _terminated(signum: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


def _timed_out(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise _TimedOut


def how_to_follow(queue: str, id: str, url: str) -> str:
    """The commands that get back to a task."""
    where = "" if url == Settings().url else f" --url {shlex.quote(url)}"
    follow, cancel = f"queuecast watch {queue} --task {id}{where}", f"queuecast tasks {queue} --cancel {id}{where}"
    return f"follow it: {follow}\ncancel it: {cancel}"


def follow_task(
    gateway: RemoteGateway, queue: str, id: str, *, json: bool, timeout: float | None, after: str | None
) -> Exit:
    """Show a task to its end: outputs and result on stdout, everything else on stderr. Returns its outcome."""
    advice = f"the task goes on\n{how_to_follow(queue, id, gateway.url)}"
    with interruptible(timeout, "the task has not ended within {:g} seconds", advice):
        if json:
            return _task_as_json(gateway, queue, id, after)
        return _task_in_words(gateway, queue, id, after)


def _task_as_json(gateway: RemoteGateway, queue: str, id: str, after: str | None) -> Exit:
    for body, event in _events(gateway, "queues", queue, "tasks", id, "events", after=after):
        emit(safe_json(body))
        if isinstance(event, ResultEvent):
            return EXIT_OF[event.state]
    status = gateway.get("queues", queue, "tasks", id)
    emit(as_json(status))
    return EXIT_OF[status["state"]]


def _task_in_words(gateway: RemoteGateway, queue: str, id: str, after: str | None) -> Exit:
    ending = _shown_to_its_end(gateway, queue, id, after) or gateway.get("queues", queue, "tasks", id)
    if ending["state"] == "succeeded":
        emit(as_json(ending.get("result")))
    else:
        say(ending_in_words(ending))
    return EXIT_OF[ending["state"]]


def _shown_to_its_end(gateway: RemoteGateway, queue: str, id: str, after: str | None) -> dict[str, Any] | None:
    """The result event as JSON; None where all was told before `after`, and only the status has the end."""
    with progress_shown() as show:
        for body, event in _events(gateway, "queues", queue, "tasks", id, "events", after=after):
            if isinstance(event, OutputEvent):
                emit(as_text(event.output))
            elif isinstance(event, ResultEvent):
                result: dict[str, Any] = msgspec.json.decode(body)
                return result
            else:
                show(event)
    return None


def follow_queue(
    gateway: RemoteGateway, queue: str, *, json: bool, timeout: float | None, after: str | None
) -> NoReturn:
    """Show what happens on a queue until it is interrupted or `timeout` seconds have passed."""
    with interruptible(timeout, "watched for {:g} seconds", "the queue goes on"):
        for body, event in _events(gateway, "queues", queue, "events", after=after):
            emit(safe_json(body) if json else in_words(event))
    raise CommandError("the gateway ended the stream", Exit.UNREACHABLE)


def _events(gateway: RemoteGateway, *path: str, after: str | None) -> Iterator[tuple[str, Event]]:
    """A stream's events with their JSON; what else the gateway has to say goes to stderr."""
    try:
        for message in gateway.stream(*path, after=after, notice=say):
            if message.event == "message":
                yield message.data, decode_event(message.data.encode(), message.id)
            elif message.event == "reset":
                reason = msgspec.json.decode(message.data, type=_Reset).reason
                say(f"events were missed ({reason}): the stream goes on at {message.id}")
    except msgspec.MsgspecError as error:
        raise CommandError(f"{gateway.url} sends what this version cannot read: {error}", Exit.UNREACHABLE) from error


class _Reset(Struct):
    """What the control frame of a cursor that could not be honoured says."""

    reason: str = ""
