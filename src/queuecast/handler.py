"""The handler: a user's function under a task name, and how its arguments are checked."""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from datetime import datetime
from functools import cached_property
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    Literal,
    Never,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)

import msgspec
from msgspec import Raw

from .codec import encode_value
from .context import Context
from .control import HandlerInfo
from .errors import ConfigurationError, Flaw, InvalidInput
from .schema import type_of
from .task import Options, invalid, options_from

if TYPE_CHECKING:
    from .queue import Queue
    from .ref import TaskRef

P = ParamSpec("P")
R = TypeVar("R")
Y = TypeVar("Y")

Kind = Literal["async", "thread"]
"""Where a handler's body runs: in the worker's event loop, or in a thread of it."""

NO_OPTIONS: Final = Options()


class Handler(Generic[P, Y, R]):
    """What `@queue.task` returns. Calling it runs the function here and now; `submit` puts a task on the queue."""

    def __init__(
        self,
        queue: Queue,
        function: Callable[..., Any],
        *,
        name: str,
        retries: int,
        timeout: float | None,
        process: bool,
    ) -> None:
        if process and "<locals>" in function.__qualname__:
            raise ConfigurationError(
                f"{function.__qualname__}: another process finds it only at its module's top level"
            )
        self.queue = queue
        self.name = name
        self.function = function
        self.process = process
        self.retries = retries
        self.timeout = timeout
        self.signature = Signature(function)
        self._options = NO_OPTIONS

    def __repr__(self) -> str:
        return f"<Handler {self.queue.name}.{self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        return self.function(*args, **kwargs)

    async def submit(self, *args: P.args, **kwargs: P.kwargs) -> TaskRef[Y, R]:
        """Put a task on the queue; returns once it is durable.

        Raises `InvalidInput` naming the argument or option, `BrokerUnavailable` (nothing was submitted),
        `OutcomeUnknown` (submit again with the same idempotency key).
        """
        return await self.queue.submit_to(self, self.signature.bind(args, kwargs), self._options)

    def submit_sync(self, *args: P.args, **kwargs: P.kwargs) -> TaskRef[Y, R]:
        """`submit` for code without an event loop; raises `RuntimeError` inside the application's own loop."""
        return self.queue.app.run_sync(self.submit(*args, **kwargs))

    def options(
        self,
        *,
        delay: float | None = None,
        not_before: datetime | None = None,
        expires_at: datetime | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        idempotency_key: str | None = None,
        owner: str | None = None,
        priority: int | None = None,
    ) -> Handler[P, Y, R]:
        """The same handler with options for what is submitted through it. `delay` and `timeout` are seconds.

        Raises `InvalidInput` for a value of the wrong type; ranges are checked at submit.
        """
        given = {name: value for name, value in locals().items() if name != "self" and value is not None}
        handler: Handler[P, Y, R] = object.__new__(Handler)
        handler.__dict__.update(self.__dict__)
        handler._options = options_from({**msgspec.to_builtins(self._options, builtin_types=(datetime,)), **given})
        return handler

    def ref(self, id: str) -> TaskRef[Y, R]:
        """The ref of a task that was submitted before, here or elsewhere."""
        return self.queue.ref_to(self, id)


class Signature:
    """A handler's parameters and return annotation, as checks on JSON."""

    def __init__(self, function: Callable[..., Any]) -> None:
        hints = _hints(function)
        parameters = list(inspect.signature(function).parameters.values())
        if any(hints.get(parameter.name) is Context for parameter in parameters[1:]):
            raise ConfigurationError(f"{function.__qualname__}: Context must be its first parameter")
        self.wants_context = bool(parameters) and hints.get(parameters[0].name) is Context
        self.generates = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        asynchronous = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        self.kind: Kind = "async" if asynchronous else "thread"
        taken = parameters[1:] if self.wants_context else parameters
        self._names = [_usable(function, parameter).name for parameter in taken]
        self._positional = sum(p.kind is not p.KEYWORD_ONLY for p in taken)
        model = _arguments_model(function, taken, hints)
        self._schema = _json_schema(function, model)
        self._decode = msgspec.json.Decoder(model, dec_hook=decode_hook).decode
        self.returns, self.yields = _outcome_types(hints.get("return", Any), self.generates)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Raw:
        """Arguments of a call as a JSON object, checked. Raises `InvalidInput` naming the argument."""
        if len(args) > self._positional:
            detail = f"takes {self._positional} positional, {len(args)} were given"
            raise InvalidInput(f"too many arguments: {detail}", [Flaw("/args", detail)])
        named = dict(zip(self._names, args, strict=False))
        for name in kwargs:
            if name in named:
                raise InvalidInput("an argument was given twice", [Flaw(f"/args/{name}", "given twice")])
        named.update(kwargs)
        for name, value in named.items():
            try:
                named[name] = encode_value(value)
            except ValueError as error:
                raise InvalidInput("an argument is not JSON", [Flaw(f"/args/{name}", str(error))]) from error
        body = Raw(msgspec.json.encode(named))
        self.decode(body)
        return body

    def decode(self, body: Raw | bytes) -> dict[str, Any]:
        """A JSON object as the function's keyword arguments. Raises `InvalidInput` naming the argument."""
        model = decoded(self._decode, body)
        return {name: getattr(model, name) for name in self._names}

    def schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the arguments object."""
        return self._schema


class Announced:
    """A handler that workers elsewhere have announced, for a program without its code."""

    def __init__(self, info: HandlerInfo) -> None:
        self.info = info
        self.retries = info.retries
        self.timeout = info.timeout

    def check(self, body: Raw | bytes) -> None:
        """Raises `InvalidInput` naming the argument, for what the announced schema tells."""
        decoded(self._decode, body)

    @cached_property
    def _decode(self) -> Callable[[Raw | bytes], Any]:
        return msgspec.json.Decoder(type_of({"type": "object", **self.info.schema})).decode


def decoded(decode: Callable[[Raw | bytes], Any], body: Raw | bytes) -> Any:
    """A JSON object of arguments. Raises `InvalidInput` naming the argument."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise invalid("the arguments do not fit the handler", error, under="/args") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("the arguments are not JSON", [Flaw("/args", str(error))]) from error


def decode_hook(type_: Any, value: Any) -> Any:
    """Pydantic models are accepted where they are installed; queuecast does not import them."""
    if type_ is object:
        return value
    validate = getattr(type_, "model_validate_json", None)
    if validate is None:
        raise NotImplementedError(f"{type_} cannot be made from JSON")
    # From JSON, not from Python's values: a strict model takes a date from a string only there.
    return validate(msgspec.json.encode(value))


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise ConfigurationError(f"{function.__qualname__}: its annotations cannot be resolved: {error}") from error


def _usable(function: Callable[..., Any], parameter: inspect.Parameter) -> inspect.Parameter:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
        raise ConfigurationError(
            f"{function.__qualname__}: {parameter} cannot be bound by name; a task's arguments are a JSON object"
        )
    return parameter


def _arguments_model(
    function: Callable[..., Any], parameters: list[inspect.Parameter], hints: Mapping[str, Any]
) -> type[msgspec.Struct]:
    def field(parameter: inspect.Parameter) -> tuple[str, Any] | tuple[str, Any, Any]:
        annotation = hints.get(parameter.name, Any)
        if parameter.default is parameter.empty:
            return parameter.name, annotation
        return parameter.name, annotation, msgspec.field(default_factory=lambda: parameter.default)

    fields = [field(parameter) for parameter in parameters]
    return msgspec.defstruct(f"{function.__name__}_arguments", fields, kw_only=True, forbid_unknown_fields=True)


def _json_schema(function: Callable[..., Any], model: type[msgspec.Struct]) -> dict[str, Any]:
    """Raises `ConfigurationError` where an argument is of a type that no JSON can become."""
    definitions: dict[str, Any] = {}

    def schema_of_foreign(type_: Any) -> dict[str, Any]:
        if type_ is object:
            return {"description": "any JSON"}
        if not hasattr(type_, "model_json_schema"):
            raise TypeError(f"nothing in JSON is a {type_}")
        # Pydantic's own definitions are referred to from the document's root, so that is where they go.
        schema: dict[str, Any] = type_.model_json_schema()
        definitions.update(schema.pop("$defs", {}))
        return schema

    try:
        (reference,), components = msgspec.json.schema_components(
            [model], schema_hook=schema_of_foreign, ref_template="#/$defs/{name}"
        )
    except TypeError as error:
        raise ConfigurationError(f"{function.__qualname__}: not all of it can be taken from JSON: {error}") from error
    own: dict[str, Any] = components.pop(reference["$ref"].removeprefix("#/$defs/"))
    definitions.update(components)
    return {**own, "$defs": definitions} if definitions else own


def _outcome_types(annotation: Any, generates: bool) -> tuple[Any, Any]:
    """What `result()` and `outputs()` convert to, from the function's return annotation."""
    if not generates:
        return annotation, Any
    inner = typing.get_args(annotation)
    return type(None), inner[0] if inner else Any


class TaskDecorator(Protocol):
    """Turns a function into a `Handler` with its parameters (without `Context`), outputs and result."""

    @overload
    def __call__(self, f: Callable[Concatenate[Context, P], AsyncIterator[Y]], /) -> Handler[P, Y, None]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, f: Callable[Concatenate[Context, P], Iterator[Y]], /) -> Handler[P, Y, None]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, f: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /) -> Handler[P, Never, R]: ...
    @overload
    def __call__(self, f: Callable[Concatenate[Context, P], R], /) -> Handler[P, Never, R]: ...
    @overload
    def __call__(self, f: Callable[P, AsyncIterator[Y]], /) -> Handler[P, Y, None]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, f: Callable[P, Iterator[Y]], /) -> Handler[P, Y, None]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, f: Callable[P, Coroutine[Any, Any, R]], /) -> Handler[P, Never, R]: ...
    @overload
    def __call__(self, f: Callable[P, R], /) -> Handler[P, Never, R]: ...
