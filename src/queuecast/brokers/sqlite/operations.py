"""What a transaction is asked to do: small objects that the event loop hands to the writer.

`run` may be called again after a transaction that failed, so it changes nothing but the ledger.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

from ...codec import encode_event
from ...errors import BrokerUnavailable, KeyReused
from ...event import Event
from ...task import Task, same_work
from ..base import CONTROL, EXPIRED, Receipt
from .database import FINAL
from .ledger import Ledger, Whose

EXPIRE_STEP: Final = 500
"""Tasks that one transaction lets expire; the rest follows in the next."""


WAIT_SECONDS: Final = 10.0
"""How long an operation may take; then it is withdrawn with `BrokerUnavailable`, or, once it was begun, answered with
`OutcomeUnknown`."""

WORKER_WAIT_SECONDS: Final = 60.0
"""The same for what a worker hands over. The work is done already, so it is tried again for so long."""


Wanted: TypeAlias = defaultdict[str, set[str]]
"""The tasks whose rows a transaction needs: for each queue their ids."""


class Claim(NamedTuple):
    """That this process holds a task. Told apart by `number` from every other time that it is held."""

    queue: str
    id: str
    number: str


class Operation:
    """One thing to do, and the future of whoever waits for it."""

    durable: ClassVar[bool] = True
    """False where a power cut may undo it: who holds which task is decided anew then anyway."""
    lasting: ClassVar[bool] = False
    """True for what is tried again after a failure."""
    patience: ClassVar[float] = WAIT_SECONDS
    future: asyncio.Future[Any] | None = None
    born: float = 0.0
    """When it was handed over, by the monotonic clock."""

    def want(self, wanted: Wanted) -> None:
        """Name each task that it touches."""

    def run(self, ledger: Ledger) -> Any:
        raise NotImplementedError

    def give_up(self) -> None:
        """It will never be written; whoever waits for it is about to be told."""


class Declare(Operation):
    """The result is the queue's number."""

    def __init__(self, queue: str) -> None:
        self._queue = queue

    def run(self, ledger: Ledger) -> int:
        return ledger.queue(self._queue).no


class Submission(NamedTuple):
    task: Task
    body: bytes
    event: Event
    event_body: bytes


class Submit(Operation):
    def __init__(self, submissions: Sequence[Submission]) -> None:
        self._submissions = submissions

    def want(self, wanted: Wanted) -> None:
        for task, *_ in self._submissions:
            wanted[task.queue].add(task.id)

    def run(self, ledger: Ledger) -> list[Receipt]:
        batch: dict[tuple[str, str], Task] = {}
        for task, *_ in self._submissions:
            earlier = ledger.task(task.queue, task.id) or batch.setdefault((task.queue, task.id), task)
            if not same_work(earlier, task):
                raise KeyReused()
        return [ledger.take(*submission) for submission in self._submissions]


class Append(Operation):
    def __init__(self, queue: str, events: Sequence[Event]) -> None:
        self._queue = queue
        self._events = [(event, encode_event(event)) for event in events]

    def want(self, wanted: Wanted) -> None:
        wanted[self._queue].update(event.id for event, _ in self._events)

    def run(self, ledger: Ledger) -> None:
        for event, body in self._events:
            ledger.append(self._queue, event, body)


class Chain:
    """What a delivery hands over, in order. Once something of it was given up nothing that follows may be written: the
    log would miss an event, the fold refuse the rest, and a result be thrown away whose run could still be told whole.
    """

    def __init__(self) -> None:
        self.broken: Operation | None = None
        """What was given up."""

    @property
    def is_over(self) -> bool:
        """It is broken and its delivery's worker was told: what that hands over now begins with what was given up."""
        return self.broken is not None and self.broken.future is not None and self.broken.future.done()


class Report(Append):
    """Events of a delivery's run."""

    lasting = True
    patience = WORKER_WAIT_SECONDS

    def __init__(self, chain: Chain, queue: str, events: Sequence[Event]) -> None:
        super().__init__(queue, events)
        self._chain = chain

    def run(self, ledger: Ledger) -> None:
        if self._chain.broken is not None:
            raise BrokerUnavailable("what comes before it was not written")
        super().run(ledger)

    def give_up(self) -> None:
        self._chain.broken = self


class Settle(Report):
    """A delivery's last events; a task that they do not end is delivered again at `due` (None: at once)."""

    def __init__(
        self,
        chain: Chain,
        claim: Claim,
        events: Sequence[Event],
        *,
        due: float | None,
        attempt: int,
        consumer: Taker,
        frees: bool,
    ) -> None:
        super().__init__(chain, claim.queue, events)
        self.claim = claim
        self.consumer = consumer
        self.frees = frees
        """Whether the consumer takes another delivery instead; not when it has been told that this one is lost."""
        self._due, self._attempt = due, attempt

    def want(self, wanted: Wanted) -> None:
        # Its events are all of the task that is claimed.
        wanted[self.claim.queue].add(self.claim.id)

    def run(self, ledger: Ledger) -> None:
        super().run(ledger)
        due = ledger.now if self._due is None else self._due
        ledger.settle(*self.claim, due, self._attempt)


class Post(Operation):
    def __init__(self, body: bytes) -> None:
        self._body = body

    def run(self, ledger: Ledger) -> None:
        ledger.log(ledger.queue(CONTROL), self._body)


class Taker:
    """Who asks for deliveries of one queue, as the writer knows it. `number` is the queue's, once known."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.number = 0


class Want(Operation):
    """Room for so many more deliveries. Wanted until it is heard, however long that takes."""

    durable = False
    lasting = True
    patience = inf

    def __init__(self, consumer: Taker, room: int) -> None:
        self.consumer = consumer
        self.room = room

    def run(self, ledger: Ledger) -> None:
        self.consumer.number = ledger.queue(self.consumer.queue).no


class Leave(Operation):
    """No more deliveries; nobody waits for this queue's next due task on the consumer's behalf any more."""

    durable = False
    lasting = True
    patience = inf

    def __init__(self, consumer: Taker) -> None:
        self.consumer = consumer

    def run(self, ledger: Ledger) -> None:
        ledger.queue(self.consumer.queue).stirred = True


class Duty(Operation):
    """What the writer does of itself. Duties come first in a transaction, before the rows of the rest are loaded."""

    durable = False


class HandBack(Duty):
    """Offer the tasks of holders that are dead, or whose lease has lapsed, to everyone.

    The claims stay until somebody takes the tasks, so that a holder that was only stopped finds what nobody took.
    """

    def __init__(self, is_dead: Callable[[str, float], bool]) -> None:
        self._is_dead = is_dead

    def run(self, ledger: Ledger) -> None:
        for token, until in ledger.db.execute("SELECT token, until FROM holder").fetchall():
            if self._is_dead(token, until):
                _give_up_claims(ledger, token)


class Disown(Operation):
    """Offer tasks again that stand under a claim of ours, but that no delivery here knows of."""

    durable = False

    def __init__(self, claims: Sequence[Claim]) -> None:
        self._claims = claims

    def want(self, wanted: Wanted) -> None:
        for claim in self._claims:
            wanted[claim.queue].add(claim.id)

    def run(self, ledger: Ledger) -> None:
        for claim in self._claims:
            row = ledger.row(*claim[:2])
            if row:
                ledger.settle(*claim, ledger.now, row.next_attempt)


class Depart(Duty):
    """Offer everything this process still holds, and hold nothing more."""

    def __init__(self, token: str) -> None:
        self._token = token

    def run(self, ledger: Ledger) -> None:
        _give_up_claims(ledger, self._token)
        ledger.db.execute("UPDATE task SET claim = NULL WHERE claim > ? AND claim < ?", _claims_of(self._token))


class Renew(Duty):
    """Prolong this process's lease.

    The result is every claim that it still has. When the lease had lapsed meanwhile, the tasks that nobody took are
    held again.
    """

    def __init__(self, token: str, until: float) -> None:
        self._token = token
        self._until = until

    def run(self, ledger: Ledger) -> list[Claim]:
        db, ours = ledger.db, _claims_of(self._token)
        renewed = db.execute("UPDATE holder SET until = ? WHERE token = ?", (self._until, self._token))
        if renewed.rowcount == 0:
            db.execute("INSERT INTO holder VALUES (?, ?)", (self._token, self._until))
            db.execute("UPDATE task SET due = NULL WHERE claim > ? AND claim < ?", ours)
        found = db.execute(
            "SELECT queue.name, id, claim FROM task JOIN queue ON no = task.queue WHERE claim > ? AND claim < ?", ours
        )
        return [Claim(*row) for row in found]


class Expire(Duty):
    """End what nobody began before its `expires_at`. What a worker holds waits for what that one makes of it.

    The result is the next such time, infinity where there is none.
    """

    durable = True

    def run(self, ledger: Ledger) -> float:
        found = ledger.db.execute(
            "SELECT id, queue.name, owner FROM task JOIN queue ON no = task.queue "
            "WHERE expires <= ? AND due IS NOT NULL LIMIT ?",
            (ledger.now, EXPIRE_STEP),
        ).fetchall()
        wanted: Wanted = defaultdict(set)
        for id, name, _ in found:
            wanted[name].add(id)
        ledger.load_rows(wanted)
        for columns in found:
            ledger.fail(Whose(*columns), EXPIRED)
        ledger.flush()
        if len(found) == EXPIRE_STEP:
            return ledger.now
        (upcoming,) = ledger.db.execute("SELECT min(expires) FROM task WHERE expires > ?", (ledger.now,)).fetchone()
        return inf if upcoming is None else float(upcoming)


class Trim(Duty):
    """Look at the logs that are over their bounds though nothing is appended to them."""

    def run(self, ledger: Ledger) -> None:
        for name in ledger.overdue():
            ledger.queue(name)


def _give_up_claims(ledger: Ledger, token: str) -> None:
    db, claims = ledger.db, _claims_of(token)
    db.execute("DELETE FROM holder WHERE token = ?", (token,))
    db.execute(f"UPDATE task SET claim = NULL WHERE claim > ? AND claim < ? AND state IN ({FINAL})", claims)
    held = "claim > ? AND claim < ? AND due IS NULL"
    names = db.execute(f"SELECT DISTINCT queue.name FROM task JOIN queue ON no = task.queue WHERE {held}", claims)
    for (name,) in names.fetchall():
        ledger.queue(name).stirred = True
    db.execute(f"UPDATE task SET due = ? WHERE {held}", (ledger.now, *claims))
    ledger.look_for_expired(ledger.now)


def _claims_of(token: str) -> tuple[str, str]:
    """The claims of one process lie between these two."""
    return f"{token}.", f"{token}/"


def load_for(operations: Iterable[Operation], ledger: Ledger) -> None:
    """Load every row that the operations are going to touch."""
    wanted: Wanted = defaultdict(set)
    for operation in operations:
        operation.want(wanted)
    ledger.load_rows(wanted)
