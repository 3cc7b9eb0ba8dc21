"""The queue: a line of tasks, an event log and a group of clients under one name."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Final, Never, ParamSpec, TypeVar, overload

from msgspec import Raw
from msgspec.structs import replace

from .brokers.base import External, Receipt, end_of, verify
from .codec import decode_event, encode_value
from .context import Context
from .control import CancelRequested, HandlerInfo, encode_control
from .cursor import cursor_at, parse_cursor
from .errors import ConfigurationError, Flaw, InvalidInput, NotSupported, ResultExpired, UnknownTaskName
from .event import Event, ended
from .handler import Announced, Handler, TaskDecorator
from .ref import TaskRef
from .task import FINAL_STATES, Options, Task, keyed_task_id, make_task, options_from

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.responses import Response

    from .app import Queuecast
    from .session import Session

P = ParamSpec("P")
R = TypeVar("R")
Y = TypeVar("Y")

REPLY_WITHIN: Final = 3_600.0
"""Seconds after which a task of an external queue without a reply has failed (`no-reply`)."""


class Queue:
    """Made by `Queuecast.queue`. Register handlers with `@queue.task`."""

    def __init__(
        self, app: Queuecast, name: str, *, external: bool | str = False, reply_within: float = REPLY_WITHIN
    ) -> None:
        self.app = app
        self.name = name
        self.external = external
        self.reply_within = reply_within
        self.handlers: dict[str, Handler[Any, Any, Any]] = {}
        self.announced: dict[str, Announced] = {}
        """Handlers that workers elsewhere have announced, for a gateway without their code."""

    def __repr__(self) -> str:
        return f"<Queue {self.name}: {', '.join(self.handlers) or 'no handlers'}>"

    @property
    def foreign(self) -> External | None:
        """Where this queue's workers are foreign programs: what the broker has to know of it."""
        if not self.external:
            return None
        return External(self.external if isinstance(self.external, str) else self.name, self.reply_within)

    @overload
    def task(self, f: Callable[Concatenate[Context, P], AsyncIterator[Y]], /) -> Handler[P, Y, None]: ...  # type: ignore[overload-overlap]
    @overload
    def task(self, f: Callable[Concatenate[Context, P], Iterator[Y]], /) -> Handler[P, Y, None]: ...  # type: ignore[overload-overlap]
    @overload
    def task(self, f: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /) -> Handler[P, Never, R]: ...
    @overload
    def task(self, f: Callable[Concatenate[Context, P], R], /) -> Handler[P, Never, R]: ...
    @overload
    def task(self, f: Callable[P, AsyncIterator[Y]], /) -> Handler[P, Y, None]: ...  # type: ignore[overload-overlap]
    @overload
    def task(self, f: Callable[P, Iterator[Y]], /) -> Handler[P, Y, None]: ...  # type: ignore[overload-overlap]
    @overload
    def task(self, f: Callable[P, Coroutine[Any, Any, R]], /) -> Handler[P, Never, R]: ...
    @overload
    def task(self, f: Callable[P, R], /) -> Handler[P, Never, R]: ...
    @overload
    def task(
        self,
        f: None = None,
        /,
        *,
        name: str = ...,
        retries: int = ...,
        timeout: float | None = ...,
        process: bool = ...,
    ) -> TaskDecorator: ...
    def task(
        self,
        f: Callable[..., Any] | None = None,
        /,
        *,
        name: str = "",
        retries: int = 0,
        timeout: float | None = None,
        process: bool = False,
    ) -> Any:
        """Register a function as this queue's handler of its name: `@queue.task`, or called with options.

        `async def` runs in the worker's event loop, `def` in a thread, `process=True` in a process of its own that
        can be killed; a generator's values are `output` events. `retries` is how often a failed attempt is tried
        again, `timeout` is seconds per attempt. Raises `ConfigurationError` for a function that cannot be bound.
        """

        def register(function: Callable[..., Any]) -> Handler[Any, Any, Any]:
            if self.external:
                raise ConfigurationError(f"{self.name} is external: its workers are other programs")
            # A partial is a routine from Python 3.14 on, and has no name.
            if not inspect.isroutine(function) or isinstance(function, partial):
                raise ConfigurationError(f"{function!r} is no function")
            handler = Handler[Any, Any, Any](
                self, function, name=name or function.__name__, retries=retries, timeout=timeout, process=process
            )
            if handler.name in self.handlers:
                raise ConfigurationError(f"{self.name} has a handler named {handler.name!r} already")
            self._refuse_unusable(handler)
            self.handlers[handler.name] = handler
            return handler

        return register if f is None else register(f)

    async def submit(self, name: str, args: Mapping[str, Any], **options: Any) -> TaskRef[Any, Any]:
        """Submit by name: for external queues and generic tools. Options as in `Handler.options`.

        Raises as `Handler.submit`, and `UnknownTaskName`.
        """
        try:
            body = encode_value(dict(args))
        except ValueError as error:
            raise InvalidInput("the arguments are not JSON", [Flaw("/args", str(error))]) from error
        return await self._put(self.prepare(name, body, options_from(options)), self.handlers.get(name))

    async def submit_to(self, handler: Handler[P, Y, R], args: Raw, options: Options) -> TaskRef[Y, R]:
        """Submit arguments that the handler's signature has bound."""
        return await self._put(self._make(handler, handler.name, args, options), handler)

    def prepare(self, name: str, args: Raw, options: Options) -> Task:
        """A task that this queue can run, or `InvalidInput` saying why not. Nothing is submitted."""
        handler = self.handlers.get(name)
        if handler is not None:
            handler.signature.decode(args)
            return self._make(handler, name, args, options)
        announced = self.announced.get(name)
        if announced is not None:
            announced.check(args)
        elif not self.external:
            raise self._unknown(name)
        return self._make(announced, name, args, options)

    def learn(self, handlers: Iterable[HandlerInfo]) -> None:
        """What a worker elsewhere announces, and says again with each heartbeat."""
        for info in handlers:
            known = self.announced.get(info.name)
            if known is None or known.info != info:
                self.announced[info.name] = Announced(info)

    def ref_to(self, handler: Handler[Any, Y, R] | None, id: str, cursor: str = "") -> TaskRef[Y, R]:
        if handler is None:
            return TaskRef(self, id, cursor)
        return TaskRef(self, id, cursor, handler.signature.returns, handler.signature.yields)

    async def events(self, *, after: str = "last", owner: str | None = None) -> AsyncGenerator[Event, None]:
        """The queue's events for your own code, without end. `after` is a cursor, `first` or `last` (from now on).

        Each event's `cursor` resumes after it. Raises `ResetRequired` for a cursor that cannot be honoured.
        """
        session = await self.app.session()
        async with aclosing(self._read(session, await self._offset(session, after))) as events:
            async for event in events:
                if owner is None or event.owner == owner:
                    yield event

    async def events_of(self, id: str, after: str | None) -> AsyncGenerator[Event, None]:
        """One task's events to its result, from the first or after a cursor."""
        session = await self.app.session()
        status = await session.broker.status(self.name, id)
        if status is None:
            raise ResultExpired(f"no task {id} on {self.name}: never submitted, or older than the log's retention")
        if after is None:
            # Where a task has outlived its first events, it is told from the oldest that is left.
            offset = max(status.first, (await session.broker.bounds(self.name)).first) - 1
        else:
            offset = await self._offset(session, after)
        if status.state in FINAL_STATES and offset >= status.cursor.offset:
            return
        async with aclosing(self._read(session, offset, id)) as events:
            async for event in events:
                yield event
                if event.type == "result":
                    return

    def stream(self, request: HTTPConnection, *, owner: str | None = None) -> Response:
        """The queue's SSE stream as the response of your own route, behind your own checks."""
        from .gateway import StreamResponse

        return StreamResponse(self.app.gateway, self.name, owner)

    async def cancel(self, id: str) -> bool:
        """Ask for a task to be cancelled. False when it has ended already; raises `ResultExpired` when unknown."""
        session = await self.app.session()
        status = await session.broker.status(self.name, id)
        if status is None:
            raise ResultExpired(f"no task {id} on {self.name}")
        if status.state in FINAL_STATES:
            return False
        # The request comes first: a worker that begins the task meanwhile hears of it.
        await session.broker.post(encode_control(CancelRequested(self.name, id, time.time())))
        if status.state != "running":
            await session.broker.append(self.name, [ended(status, "cancelled", time.time(), attempt=status.attempt)])
        return True

    async def requeue(self, id: str) -> tuple[Task, Receipt]:
        """Submit a dead letter's work as a new task; asked for twice, it is the same new task.

        Raises `ResultExpired` where the work is not kept: on an external queue, of a message that was no task, or for
        an unknown id.
        """
        session = await self.app.session()
        dead = await session.broker.load(self.name, id)
        if dead is None:
            raise ResultExpired(f"the work of task {id[:64]!r} on {self.name} is not kept{self._why_not_kept()}")
        task = replace(
            dead,
            id=keyed_task_id(dead.owner, self.name, f"requeue {id}"),
            submitted_at=time.time(),
            not_before=None,
            expires_at=None,
            requeued_from=id,
        )
        (receipt,) = await session.broker.submit([task])
        return task, receipt

    # Inside

    def _why_not_kept(self) -> str:
        return ": its queue is external, and only its workers have been given it" if self.external else ""

    def _refuse_unusable(self, handler: Handler[Any, Any, Any]) -> None:
        """What no task of this handler could be submitted with is refused before there is one."""
        try:
            chosen = options_from({"retries": handler.retries, "timeout": handler.timeout})
            self._make(handler, handler.name, Raw(b"{}"), chosen)
        except InvalidInput as error:
            flaws = "; ".join(f"{flaw.pointer[1:]} {flaw.detail}" for flaw in error.flaws)
            raise ConfigurationError(f"{handler!r}: {flaws}") from error

    async def _put(self, task: Task, handler: Handler[Any, Y, R] | None) -> TaskRef[Y, R]:
        session = await self.app.session()
        await session.declare(self.name)
        (receipt,) = await session.broker.submit([task])
        return self.ref_to(handler, receipt.id, str(receipt.cursor))

    def _make(self, handler: Handler[Any, Any, Any] | Announced | None, name: str, args: Raw, options: Options) -> Task:
        if options.priority is not None:
            raise NotSupported("this broker has no priorities", [Flaw("/priority", "leave it out")])
        if handler is not None:
            options = _with_defaults(options, handler)
        return make_task(self.name, name, args, options, now=time.time(), horizon=self.app.horizon)

    def _unknown(self, name: str) -> UnknownTaskName:
        import difflib

        known = sorted({*self.handlers, *self.announced})
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known) or 'none'}"
        return UnknownTaskName(f"queue {self.name!r} has no handler of that name: {hint}", [Flaw("/name", hint)])

    async def _offset(self, session: Session, after: str) -> int:
        await session.declare(self.name)
        if after == "last":
            return (await end_of(session.broker, self.name)).offset
        if after == "first":
            return (await session.broker.bounds(self.name)).first - 1
        return await verify(session.broker, self.name, parse_cursor(after))

    async def _read(self, session: Session, offset: int, id: str | None = None) -> AsyncGenerator[Event, None]:
        """The log after an offset: every event, or those of one task."""
        identity = (await session.broker.bounds(self.name)).identity
        # Bytes that every event of the task contains; another task's event may contain them too, in its result.
        mark = b"" if id is None else b'"id":' + encode_value(id)
        async with aclosing(session.broker.read(self.name, offset)) as reader:
            async for entries in reader:
                for entry in entries:
                    if mark in entry.body:
                        event = decode_event(entry.body, str(cursor_at(identity, entry.offset, entry.body)))
                        if id is None or event.id == id:
                            yield event


def _with_defaults(options: Options, handler: Handler[Any, Any, Any] | Announced) -> Options:
    """What the handler's decorator says, where the submitter did not choose."""
    retries = handler.retries if options.retries is None else options.retries
    timeout = handler.timeout if options.timeout is None else options.timeout
    return replace(options, retries=retries, timeout=timeout)
