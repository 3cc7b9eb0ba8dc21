"""The task: one submitted unit of work, immutable."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import Raw, Struct

from .errors import Flaw, InvalidInput, TooLarge

State: TypeAlias = Literal["scheduled", "queued", "running", "retrying", "succeeded", "failed", "cancelled"]
FinalState: TypeAlias = Literal["succeeded", "failed", "cancelled"]

STATES: Final[tuple[State, ...]] = get_args(State)
FINAL_STATES: Final[frozenset[str]] = frozenset(get_args(FinalState))

QUEUE_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")
"""No dots: `a.b` and `a_b` are one metric on Kafka. `_qc.` begins every object of our own, so none collides."""

MAX_TASK_BYTES: Final = 512_000
"""Bytes of one encoded task. A larger one is refused at submit (`TooLarge`, HTTP 413)."""

MAX_DEPTH: Final = 100
"""Levels of nesting in arguments, outputs and results. Decoders recurse, and each reader of a log starts from another
depth of its own stack: without a bound, one could still write what another can no longer read."""

TOO_DEEP: Final = f"is nested more than {MAX_DEPTH} levels deep"

MAX_NAME_CHARS: Final = 200
"""Characters of a task name, owner or key. A longer one is refused at submit."""

_WORD: Final = f"must be 1 to {MAX_NAME_CHARS} printable characters"

MAX_RETRIES: Final = 1_000
"""Retries one task may ask for. More are refused at submit."""


# gc=False: nothing in it can refer back to it, and where thousands wait there is much to look through for garbage.
# The same holds of options, of events without a user's value, and of what a fold keeps.
class Task(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is asked for. Times are POSIX seconds, durations are seconds, `args` is a JSON object as bytes."""

    id: str
    queue: str
    name: str
    args: Raw
    submitted_at: float
    not_before: float | None = None
    expires_at: float | None = None
    timeout: float | None = None
    retries: int = 0
    owner: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None
    requeued_from: str | None = None


class Options(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What a submitter may choose for one task, by the names of the HTTP body.

    `delay` and `timeout` are seconds; `not_before` and `expires_at` are times with a zone.
    """

    delay: float | None = None
    not_before: datetime | None = None
    expires_at: datetime | None = None
    timeout: float | None = None
    retries: int | None = None
    idempotency_key: str | None = None
    owner: str | None = None
    priority: int | None = None
    correlation_id: str | None = None
    traceparent: str | None = None


def is_queue_name(name: str) -> bool:
    return QUEUE_NAME.fullmatch(name) is not None


# Not `secrets`: neither id is a secret, and its system call lets go of the GIL, which another busy thread then keeps
# for longer than all the rest of a submit takes. Of our own, so that a program which seeds the global one gets no id
# twice; seeded anew in a forked child, for the same reason.
_random: Final = random.Random()
os.register_at_fork(after_in_child=_random.seed)


def new_run_id() -> str:
    """Tells one run of a task from its others."""
    return f"{_random.getrandbits(32):08x}"


def new_task_id(now: float | None = None) -> str:
    """A UUIDv7 (RFC 9562 §5.7): sorts by its millisecond of creation."""
    millis = int((time.time() if now is None else now) * 1000)
    return _uuid(millis.to_bytes(6, "big") + _random.randbytes(10), version=7)


def keyed_task_id(owner: str | None, queue: str, key: str) -> str:
    """A UUIDv8 (RFC 9562 §5.8) of owner, queue and key: any gateway computes the same id for the same key."""
    import hashlib

    material = msgspec.json.encode([owner, queue, key])
    return _uuid(hashlib.sha256(material).digest()[:16], version=8)


def _uuid(raw: bytes, version: int) -> str:
    digits = raw.hex()
    variant = "89ab"[raw[8] >> 4 & 3]
    return f"{digits[:8]}-{digits[8:12]}-{version}{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def same_work(one: Task, other: Task) -> bool:
    """Whether an idempotency key may stand for both: the same name, and the same arguments however they are written."""
    same = one.name == other.name and bytes(one.args) == bytes(other.args)
    return same or fingerprint(one) == fingerprint(other)


def is_keyed(id: str) -> bool:
    """Whether this is the id of a task that was submitted with an idempotency key."""
    return len(id) == 36 and id[14] == "8"


def fingerprint(task: Task) -> str:
    """Sixteen hex digits: equal for tasks of which `same_work` is true."""
    import hashlib

    work = [task.name, _with_one_spelling(msgspec.json.decode(task.args))]
    return hashlib.sha256(msgspec.json.encode(work, order="sorted")).hexdigest()[:16]


def _with_one_spelling(value: Any) -> Any:
    """1.0 is 1."""
    if isinstance(value, dict):
        return {key: _with_one_spelling(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_one_spelling(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def make_task(queue: str, name: str, args: Raw, options: Options, *, now: float, horizon: float) -> Task:
    """Bind options to one task. `horizon`: seconds of the log's retention; no delay or timeout may exceed it.

    Raises `InvalidInput` naming each bad option, `TooLarge` over MAX_TASK_BYTES. Pure but for the random id.
    """
    flaws = [*_name_flaws(name), *_args_flaws(args), *_option_flaws(options, now, horizon)]
    if flaws:
        raise InvalidInput("the task's options are not usable", flaws)
    if len(args) > MAX_TASK_BYTES:
        raise TooLarge(f"the arguments take {len(args)} bytes; the limit is {MAX_TASK_BYTES}")
    key = options.idempotency_key
    return Task(
        id=new_task_id(now) if key is None else keyed_task_id(options.owner, queue, key),
        queue=queue,
        name=name,
        args=args,
        submitted_at=now,
        not_before=_not_before(options, now),
        expires_at=_posix(options.expires_at),
        timeout=options.timeout,
        retries=options.retries or 0,
        owner=options.owner,
        correlation_id=options.correlation_id,
        traceparent=options.traceparent,
    )


def _not_before(options: Options, now: float) -> float | None:
    if options.delay:
        return now + options.delay
    return _posix(options.not_before)


def _posix(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _name_flaws(name: str) -> list[Flaw]:
    return [] if _is_word(name) else [Flaw("/name", _WORD)]


def _args_flaws(args: Raw) -> list[Flaw]:
    try:
        bytes(args).decode()  # a raw value has been skipped over, not read
    except UnicodeDecodeError as error:
        return [Flaw("/args", f"is not UTF-8: {error}")]
    return [Flaw("/args", TOO_DEEP)] if is_too_deep(bytes(args)) else []


_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKET: Final = bytes(set(range(256)) - set(b"[]{}"))


def is_too_deep(json: bytes) -> bool:
    """Whether valid JSON is nested more than MAX_DEPTH levels deep."""
    if json.count(b"[") + json.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", json).translate(_SQUARE, delete=_NO_BRACKET)
    steps = map((92).__sub__, brackets)  # up one level at `[`, which is 91, and down at `]`, which is 93
    return max(accumulate(steps)) > MAX_DEPTH


def _option_flaws(options: Options, now: float, horizon: float) -> list[Flaw]:
    if options == _NOTHING_CHOSEN:
        return []  # as with most tasks, and every submit comes through here
    flaws = [
        Flaw(f"/{field}", complaint)
        for field, check in _OPTION_CHECKS
        if (value := getattr(options, field)) is not None and (complaint := check(value, now, horizon))
    ]
    if options.delay is not None and options.not_before is not None:
        flaws.append(Flaw("/delay", "give delay or not_before, not both"))
    return flaws


Check: TypeAlias = Callable[[Any, float, float], str]
"""What is wrong with a value, given now and the horizon; "" for nothing."""


def _check_delay(delay: float, now: float, horizon: float) -> str:
    return "" if 0 <= delay <= horizon else f"must be 0 to {horizon:.0f} seconds"


def _check_not_before(moment: datetime, now: float, horizon: float) -> str:
    # A time without a zone is refused before it is read: of the year 1 it has no POSIX time.
    if moment.tzinfo is None:
        return "must carry a time zone"
    return "" if moment.timestamp() <= now + horizon else "lies too far ahead"


def _check_expires_at(moment: datetime, now: float, horizon: float) -> str:
    if moment.tzinfo is None:
        return "must carry a time zone"
    return "" if moment.timestamp() > now else "has already passed"


def _check_timeout(timeout: float, now: float, horizon: float) -> str:
    return "" if 0 < timeout <= horizon else f"must be over 0, up to {horizon:.0f} seconds"


def _check_retries(retries: int, now: float, horizon: float) -> str:
    return "" if 0 <= retries <= MAX_RETRIES else f"must be 0 to {MAX_RETRIES}"


def _check_word(text: str, now: float, horizon: float) -> str:
    return "" if _is_word(text) else _WORD


_OPTION_CHECKS: Final[tuple[tuple[str, Check], ...]] = (
    ("delay", _check_delay),
    ("not_before", _check_not_before),
    ("expires_at", _check_expires_at),
    ("timeout", _check_timeout),
    ("retries", _check_retries),
    ("owner", _check_word),
    ("idempotency_key", _check_word),
    ("correlation_id", _check_word),
    ("traceparent", _check_word),
)


_NOTHING_CHOSEN: Final = Options(retries=0)


def _is_word(text: str) -> bool:
    return 0 < len(text) <= MAX_NAME_CHARS and text.isprintable()


def timestamp(moment: float) -> str:
    """RFC 3339 in UTC with milliseconds, as every event carries it."""
    second = int(moment // 1)
    return f"{_second(second)}.{int((moment - second) * 1000):03d}Z"


@lru_cache(maxsize=8)
def _second(moment: int) -> str:
    """Kept, because thousands of events are of the same second."""
    return datetime.fromtimestamp(moment, UTC).isoformat()[:-6]


def options_from(values: Mapping[str, Any]) -> Options:
    """Options given by name. Raises `InvalidInput` for an unknown name or a wrong type."""
    try:
        return msgspec.convert(values, Options)
    except msgspec.ValidationError as error:
        raise invalid("the task's options are not usable", error) from error


_FIELD: Final = re.compile(r"(?:missing required|contains unknown) field `([^`]+)`")


def invalid(detail: str, error: msgspec.ValidationError, under: str = "") -> InvalidInput:
    """msgspec's complaint (`… - at `$.a[0]``) as an `InvalidInput` with a JSON Pointer that names the field."""
    message, _, path = str(error).partition(" - at `$")
    pointer = under + re.sub(r"\.|\[", "/", path.rstrip("`")).replace("]", "")
    named = _FIELD.search(message)
    return InvalidInput(detail, [Flaw(f"{pointer}/{named[1]}" if named else pointer, message)])
