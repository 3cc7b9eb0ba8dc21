"""The fold: one pure automaton over a queue's log decides which events count.

Brokers repeat deliveries and publishes, so a log may hold an event twice, two runs of one task, or two results.
`apply` accepts or refuses each event; what it refuses is not shown. Every reader folds the same log in the same
order and so shows the same history. The rules were explored with crashes, nacks, redelivery and cancels (see
tests/test_lifecycle.py): without any one of them there are lost results, revived runs or gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

from msgspec import Struct

from .event import Event, Head
from .task import FINAL_STATES, State

Kind: TypeAlias = Literal["scheduled", "queued", "running", "progress", "output", "retrying", "result"]
Relation: TypeAlias = Literal["none", "new", "current", "any"]

LIVE: Final[frozenset[State]] = frozenset({"scheduled", "queued", "running", "retrying"})
RUNNING: Final[frozenset[State]] = frozenset({"running"})
WITHIN: Final[frozenset[Kind]] = frozenset({"progress", "output"})
"""What a run tells between its beginning and its end."""


class Rule(NamedTuple):
    """When an event of a known task is accepted, and the state it leads to (None: the state stays)."""

    states: frozenset[State]
    run: Relation
    to: State | None


RULES: Final[dict[Kind, Rule]] = {
    # A task that is known cannot be scheduled again; its retry waits as `retrying`.
    "scheduled": Rule(frozenset(), "none", "scheduled"),
    "queued": Rule(frozenset({"scheduled", "retrying"}), "none", "queued"),
    # A run never seen before supersedes the current one; a late copy of an old run's start does not.
    "running": Rule(LIVE, "new", "running"),
    "progress": Rule(RUNNING, "current", None),
    "output": Rule(RUNNING, "current", None),
    "retrying": Rule(RUNNING, "current", "retrying"),
    # The first result ends the task, whoever wrote it; one of the current run must follow its last event.
    "result": Rule(LIVE, "any", None),
}
"""`current` also asks that `seq` is exactly the last + 1, so a batch that landed out of order waits to be resent."""


class Record(Struct, frozen=True, gc=False):
    """What the fold remembers of one task."""

    state: State
    attempt: int = 1
    run: str | None = None
    seq: int = 0
    earlier: tuple[str, ...] = ()
    """The superseded runs of a live task, so that a late copy of one is never taken for new."""
    alone: bool = False
    losses: int = 0
    """How many runs died while nothing else ran beside them in their process."""

    @property
    def final(self) -> bool:
        return self.state in FINAL_STATES


def kind_of(event: Event | Head) -> Kind:
    if event.type != "task":
        return event.type
    state = event.task.state
    if state == "running":
        return "running" if event.seq == 1 else "progress"
    return state  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


def apply(record: Record | None, event: Event | Head) -> Record | None:
    """The record after this event, or None where the event is refused."""
    kind = kind_of(event)
    if kind not in RULES:
        return None  # a task event that claims a final state: that is what a result is for
    if record is None:
        return _first(kind, event)
    rule = RULES[kind]
    if record.state not in rule.states or not _run_fits(rule.run, record, event):
        return None
    return _advance(record, kind, event)


def whole_life(events: Sequence[Event | Head]) -> Record | None:
    """The record after all events of a task that was unknown, where they are the plainest: queued, begun, and told step
    by step to its end by that one run. None for any other story, on which `apply` decides event by event.

    It decides nothing else than `apply`, in a third of the time: most of a log that is read anew are such lives.
    """
    if len(events) < 3 or kind_of(events[0]) != "queued" or kind_of(events[1]) != "running":
        return None
    queued, begun, end = events[0], events[1], events[-1]
    run = begun.run
    if end.type != "result" or queued.run is not None or run is None:
        return None
    for seq, event in enumerate(events[2:], 2):
        if event.run != run or event.seq != seq or (event is not end and kind_of(event) not in WITHIN):
            return None
    return Record(end.state, end.attempt, run, len(events) - 1, alone=begun.task.alone)  # type: ignore[union-attr]


def _first(kind: Kind, event: Event | Head) -> Record:
    """The beginning of an unknown task may have been trimmed, so its first event is taken as it comes."""
    state = _state_after(kind, event, "running")
    alone = kind == "running" and event.task.alone  # type: ignore[union-attr]
    return Record(state, event.attempt, event.run, event.seq or 0, alone=alone)


def _run_fits(relation: Relation, record: Record, event: Event | Head) -> bool:
    is_next = event.seq == record.seq + 1
    if relation == "new":
        return event.run != record.run and event.run not in record.earlier
    if relation == "current":
        return event.run == record.run and is_next
    if relation == "any":
        return event.run is None or event.run != record.run or is_next
    return True


def _advance(record: Record, kind: Kind, event: Event | Head) -> Record:
    state = _state_after(kind, event, record.state)
    if kind == "running":
        died_alone = record.state == "running" and record.alone
        return Record(
            state,
            event.attempt,
            event.run,
            1,
            record.earlier if record.run is None else (*record.earlier, record.run),
            alone=event.task.alone,  # type: ignore[union-attr]
            losses=record.losses + died_alone,
        )
    of_current = event.run is not None and event.run == record.run
    return Record(
        state,
        event.attempt if of_current else record.attempt,
        record.run,
        record.seq + of_current,
        record.earlier,
        record.alone,
        record.losses,
    )


def _state_after(kind: Kind, event: Event | Head, now: State) -> State:
    if event.type == "result":
        return event.state
    return RULES[kind].to or now
