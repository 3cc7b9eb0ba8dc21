"""The fold: each of its rules, any history that two runs can write, and worlds in which everything goes wrong."""

import random
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuecast import lifecycle
from queuecast.event import Event, OutputEvent, Progress, ResultEvent, TaskEvent, TaskInfo
from queuecast.lifecycle import LIVE, RULES, Record, apply, kind_of, whole_life
from queuecast.task import STATES, State


def event(words: str, attempt: int = 1, *, alone: bool = False) -> Event:
    """`queued` belongs to no run; `a2 output` is the second event of run a."""
    place, _, word = words.rpartition(" ")
    shared = {"id": "t1", "queue": "reports", "attempt": attempt, "time": "2026-01-01T00:00:00.000Z"}
    if place:
        shared |= {"run": place[0], "seq": int(place[1:])}
    if word == "output":
        return OutputEvent(**shared, output="piece", index=0)
    if word in ("succeeded", "failed", "cancelled"):
        return ResultEvent(**shared, state=word)
    progress = Progress(1) if word == "progress" else None
    state = "running" if word == "progress" else word
    info = TaskInfo(id="t1", name="render", state=state, attempt=attempt, progress=progress, alone=alone)
    return TaskEvent(**shared, task=info)


def history(words: str) -> list[Event]:
    return [event(each) for each in words.split(", ") if each]


def fold(events: Iterable[Event]) -> tuple[Record | None, list[Event]]:
    """What the events come to, and those of them that are shown."""
    record, shown = None, []
    for each in events:
        after = apply(record, each)
        if after is not None:
            record = after
            shown.append(each)
    return record, shown


REFUSED = None


def state_after(before: str, words: str) -> State | None:
    """The state to which an event leads after a history; None where it is refused."""
    record = apply(fold(history(before))[0], event(words))
    return REFUSED if record is None else record.state


# Each rule

BEFORE = {
    "scheduled": "scheduled",
    "queued": "queued",
    "running": "queued, a1 running",
    "retrying": "queued, a1 running, a2 retrying",
    "succeeded": "queued, a1 running, a2 succeeded",
    "failed": "queued, a1 running, a2 failed",
    "cancelled": "queued, cancelled",
}
"""A history that ends in each state."""


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ("scheduled", "scheduled"),
        ("queued", "queued"),
        ("a1 running", "running"),
        ("a7 progress", "running"),
        ("a7 output", "running"),
        ("a7 retrying", "retrying"),
        ("a7 succeeded", "succeeded"),
        ("failed", "failed"),
    ],
)
def test_of_an_unknown_task_any_event_is_taken_because_its_beginning_may_have_been_trimmed(words, state):
    assert state_after("", words) == state


def test_a_run_that_is_met_in_its_middle_goes_on_from_there():
    assert fold(history("a7 output, a8 output, a10 output, a9 output"))[1] == history("a7 output, a8 output, a9 output")


@pytest.mark.parametrize("state", STATES)
def test_a_known_task_is_not_scheduled_again(state):
    assert state_after(BEFORE[state], "scheduled") is REFUSED


@pytest.mark.parametrize("state", STATES)
def test_only_a_task_that_waits_for_its_time_is_queued(state):
    assert state_after(BEFORE[state], "queued") == ("queued" if state in ("scheduled", "retrying") else REFUSED)


@pytest.mark.parametrize("state", STATES)
def test_a_new_run_begins_only_while_the_task_is_live(state):
    assert state_after(BEFORE[state], "b1 running") == ("running" if state in LIVE else REFUSED)


@pytest.mark.parametrize("state", STATES)
def test_the_first_result_ends_the_task_and_no_other_does(state):
    assert state_after(BEFORE[state], "cancelled") == ("cancelled" if state in LIVE else REFUSED)


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
@pytest.mark.parametrize("words", ["a3 progress", "a3 output", "a3 retrying", "a3 succeeded", "b1 succeeded", "failed"])
def test_nothing_is_shown_after_the_result(state, words):
    assert state_after(BEFORE[state], words) is REFUSED


@pytest.mark.parametrize(
    ("before", "words", "state"),
    [
        # the current run goes on
        ("queued, a1 running", "a2 progress", "running"),
        ("queued, a1 running", "a2 output", "running"),
        ("queued, a1 running", "a2 retrying", "retrying"),
        ("queued, a1 running", "a2 succeeded", "succeeded"),
        ("queued, a1 running, a2 output", "a3 failed", "failed"),
        # a repeated event
        ("queued, a1 running", "a1 running", REFUSED),
        ("queued, a1 running, a2 output", "a2 output", REFUSED),
        ("queued, a1 running, a2 output", "a1 running", REFUSED),
        # a gap, until what is missing has been resent
        ("queued, a1 running", "a3 output", REFUSED),
        ("queued, a1 running", "a3 progress", REFUSED),
        ("queued, a1 running", "a3 retrying", REFUSED),
        ("queued, a1 running", "a3 succeeded", REFUSED),
        # a run that has not begun
        ("queued", "a2 output", REFUSED),
        ("queued", "a2 progress", REFUSED),
        ("queued", "a2 retrying", REFUSED),
        # a run that has given up
        ("queued, a1 running, a2 retrying", "a3 output", REFUSED),
        ("queued, a1 running, a2 retrying", "a1 running", REFUSED),
        ("queued, a1 running, a2 retrying", "a3 succeeded", "succeeded"),
        # a run that was superseded
        ("queued, a1 running, b1 running", "a2 progress", REFUSED),
        ("queued, a1 running, b1 running", "a2 output", REFUSED),
        ("queued, a1 running, b1 running", "a2 retrying", REFUSED),
        ("queued, a1 running, b1 running", "a1 running", REFUSED),
        ("queued, a1 running, b1 running, c1 running", "a1 running", REFUSED),
        ("queued, a1 running, b1 running", "a2 succeeded", "succeeded"),
        ("queued, a1 running, b1 running", "a9 failed", "failed"),
        ("queued, a1 running, b1 running", "b2 output", "running"),
        # a result of nobody's run, or of a foreign worker's
        ("queued", "succeeded", "succeeded"),
        ("scheduled", "cancelled", "cancelled"),
        ("queued, a1 running", "cancelled", "cancelled"),
        ("queued, a1 running, a2 retrying", "cancelled", "cancelled"),
        ("queued", "x1 succeeded", "succeeded"),
    ],
)
def test_after_such_a_history_such_an_event_leads_to(before, words, state):
    assert state_after(before, words) == state


def test_the_attempt_is_that_of_the_current_run():
    record, _ = fold([event("queued"), event("a1 running"), event("a2 retrying"), event("b1 running", attempt=2)])
    assert record.attempt == 2
    late = apply(record, event("a3 succeeded", attempt=1))
    assert (late.state, late.attempt) == ("succeeded", 2)


@pytest.mark.parametrize(
    ("events", "losses"),
    [
        ([event("a1 running", alone=True)], 0),
        ([event("a1 running", alone=True), event("b1 running")], 1),
        ([event("a1 running", alone=True), event("a2 progress"), event("b1 running")], 1),
        ([event("a1 running", alone=True), event("b1 running", alone=True), event("c1 running")], 2),
        ([event("a1 running"), event("b1 running", alone=True)], 0),
        ([event("a1 running", alone=True), event("a2 retrying"), event("b1 running")], 0),
        ([event("a1 running", alone=True), event("b1 running"), event("c1 running")], 1),
    ],
)
def test_a_loss_counts_where_a_run_that_was_alone_is_superseded(events, losses):
    assert fold([event("queued"), *events])[0].losses == losses


@pytest.mark.parametrize("state", STATES)
def test_a_task_is_final_when_nothing_more_can_happen_to_it(state):
    record, _ = fold(history(BEFORE[state]))
    moves = [kind for kind, rule in RULES.items() if state in rule.states]
    assert record.final == (not moves)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("scheduled", "scheduled"),
        ("a1 running", "running"),
        ("a2 progress", "progress"),
        ("a2 output", "output"),
        ("a2 retrying", "retrying"),
        ("failed", "result"),
    ],
)
def test_kind(words, kind):
    assert kind_of(event(words)) == kind


# Any history


def flaw_of(shown: list[Event]) -> str | None:
    """What is wrong with what subscribers were shown of one task; None if nothing is."""
    results = [each for each in shown if isinstance(each, ResultEvent)]
    if len(results) != 1:
        return f"{len(results)} results"
    if shown[-1] is not results[0]:
        return "something after the result"
    return next(flaws_of_runs(shown), None)


def flaws_of_runs(shown: list[Event]) -> Iterator[str]:
    begun: list[str] = []
    seq, waits = 0, True
    for each in shown:
        kind = kind_of(each)
        if kind == "queued":
            if not waits:
                yield "a running task was queued"
        elif kind == "running":
            if each.run in begun:
                yield "an old run came back"
            begun.append(each.run)
            seq, waits = 1, False
        elif kind == "result" and each.run not in begun[-1:]:
            continue
        elif each is shown[0]:
            # The run's start comes to the log after it, and is refused by then.
            begun.append(each.run)
            seq = each.seq
        elif each.run not in begun[-1:]:
            yield "a superseded run was shown"
        else:
            if each.seq != seq + 1:
                yield "a gap"
            seq, waits = each.seq, kind == "retrying"


class Writer:
    """Hands events to a log over a line that loses, nacks and breaks.

    At a loss it goes back to the first event without a confirm and sends everything from there again, later ones that
    were confirmed included. `careless` is the mistake that this rule forbids: to resend the unconfirmed ones alone.
    """

    def __init__(self, log: list[Event], events: Iterable[Event] = (), *, careless: bool = False) -> None:
        self._log = log
        self._careless = careless
        self._waiting = list(events)
        self._sent: list[tuple[Event, bool]] = []

    def put(self, event: Event) -> None:
        self._waiting.append(event)

    @property
    def done(self) -> bool:
        return not self._waiting and all(confirmed for _, confirmed in self._sent)

    def send(self, *, stored: bool, confirmed: bool) -> None:
        if self._waiting:
            event = self._waiting.pop(0)
            self._sent.append((event, stored and confirmed))
            if stored:
                self._log.append(event)

    def go_back(self) -> None:
        first = next((place for place, (_, confirmed) in enumerate(self._sent) if not confirmed), len(self._sent))
        again = [event for event, confirmed in self._sent[first:] if not (confirmed and self._careless)]
        self._sent = self._sent[:first]
        self._waiting = again + self._waiting

    def flush(self) -> None:
        """The line has become a good one."""
        while not self.done:
            self.go_back()
            while self._waiting:
                self.send(stored=True, confirmed=True)


def test_a_writer_resends_everything_from_the_first_loss():
    log: list[Event] = []
    events = history("a1 running, a2 output, a3 output")
    writer = Writer(log, events)
    writer.send(stored=True, confirmed=True)
    writer.send(stored=False, confirmed=False)
    writer.send(stored=True, confirmed=True)
    writer.flush()
    assert log == history("a1 running, a3 output, a2 output, a3 output")
    assert fold(log)[1] == events


def run_of(name: str, last: str, outputs: int, attempt: int = 1) -> list[Event]:
    kinds = ["running", *["output", "progress"] * outputs, last]
    return [event(f"{name}{seq} {kind}", attempt) for seq, kind in enumerate(kinds, 1)]


@given(
    first=st.builds(run_of, st.just("a"), st.sampled_from(["succeeded", "failed", "retrying"]), st.integers(0, 2)),
    second=st.builds(run_of, st.just("b"), st.sampled_from(["succeeded", "failed"]), st.integers(0, 2)),
    others=st.lists(st.sampled_from(["queued", "cancelled"]), max_size=3),
    first_is_killed=st.booleans(),
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["send", "unconfirmed", "lost", "go back"])), max_size=40
    ),
)
def test_however_two_runs_are_interleaved_repeated_and_resent_one_sound_history_is_shown(
    first, second, others, first_is_killed, steps
):
    log = [event("queued")]
    writers = [Writer(log, first), Writer(log, second), Writer(log, history(", ".join(others)))]
    for who, what in steps:
        if what == "go back":
            writers[who].go_back()
        else:
            writers[who].send(stored=what != "lost", confirmed=what == "send")
    for writer in writers[1:] if first_is_killed else writers:
        writer.flush()

    _, shown = fold(log)
    assert flaw_of(shown) is None
    assert fold(shown)[1] == shown, "what was shown once is shown whole"
    assert fold(log + log)[1] == shown, "a log that is read twice shows nothing new"


# Worlds in which everything goes wrong


class Worker:
    """One run of the task: what it is still going to write, and how it writes."""

    def __init__(self, name: str, attempt: int, retries: int, log: list[Event], dice: random.Random, **how) -> None:
        outputs = ["output"] * dice.randrange(3)
        self.attempt = attempt
        self.fails = attempt <= retries
        self.owns = True
        """Whether its delivery is still its own."""
        self.returned = False
        """Whether the copy for the next attempt is in the queue, which comes before `retrying` is written."""
        self.line = Writer(log, **how)
        kinds = ["running", *outputs, "retrying" if self.fails else "succeeded"]
        self._plan = [event(f"{name}{seq} {kind}", attempt) for seq, kind in enumerate(kinds, 1)]

    @property
    def next_is_last(self) -> bool:
        return len(self._plan) == 1

    @property
    def settled(self) -> bool:
        return not self._plan and self.line.done

    def write_on(self) -> None:
        if self._plan:
            self.line.put(self._plan.pop(0))


class World:
    """One task among crashes, nacks, broken lines, redelivery to a second worker, retries and a cancel.

    Chaos ends after a while, and the world must then come to rest with exactly one result.
    """

    CHAOS_STEPS = 60

    def __init__(self, seed: int, **how: bool) -> None:
        self.dice = random.Random(seed)
        self.how = how
        self.log: list[Event] = []
        self.attempts = [1]
        """The deliveries in the queue, each by its attempt."""
        self.workers: list[Worker] = []
        self.names = iter("abcdefghijklmnopqrstuvwxyz" * 4)
        self.retries = self.dice.choice([0, 0, 1])
        self.submitter = Writer(self.log, [event("queued")], **how)
        self.cancels = self.dice.random() < 0.15

    def play(self) -> str | None:
        for step in range(2_000):
            if step < self.CHAOS_STEPS:
                self._disturb()
            elif self._rests():
                return flaw_of(fold(self.log)[1])
            self._work(calm=step >= self.CHAOS_STEPS)
        return "no rest"

    def _rests(self) -> bool:
        return not self.attempts and not self.workers and self.submitter.done

    def _work(self, *, calm: bool) -> None:
        if self.attempts and len(self.workers) < 2 and self.dice.random() < 0.3:
            attempt = self.attempts.pop(self.dice.randrange(len(self.attempts)))
            self.workers.append(Worker(next(self.names), attempt, self.retries, self.log, self.dice, **self.how))
        self._transmit(self.submitter, calm=calm)
        if self.workers:
            worker = self.dice.choice(self.workers)
            self._transmit(worker.line, calm=calm)
            if self.dice.random() < 0.5:
                self._advance(worker)
            if worker.settled:
                self.workers.remove(worker)

    def _transmit(self, line: Writer, *, calm: bool) -> None:
        if self.dice.random() < 0.3:
            line.go_back()
        luck = 0.0 if calm else self.dice.random()
        line.send(stored=luck < 0.9, confirmed=luck < 0.8)

    def _advance(self, worker: Worker) -> None:
        if worker.fails and worker.next_is_last and not worker.returned:
            self.attempts.append(worker.attempt + 1)
            worker.returned = True
        else:
            worker.write_on()

    def _disturb(self) -> None:
        fate = self.dice.random()
        if self.workers and fate < 0.05:  # kill -9: what was sent may be stored, the rest is gone
            worker = self.workers.pop(self.dice.randrange(len(self.workers)))
            if worker.owns:
                self.attempts.append(worker.attempt)
        elif self.workers and fate < 0.1:  # its delivery is handed to another while it lives
            worker = self.dice.choice(self.workers)
            if worker.owns:
                self.attempts.append(worker.attempt)
                worker.owns = False
        elif self.cancels and fate < 0.13:
            self.log.append(event("cancelled"))
            self.cancels = False


# Whole lives


@pytest.mark.parametrize(
    ("words", "is_plain"),
    [
        ("queued, a1 running, a2 succeeded", True),
        ("queued, a1 running, a2 progress, a3 output, a4 failed", True),
        ("queued, a1 running, a2 output", False),
        ("queued, a1 running, a3 succeeded", False),
        ("queued, a1 running, a2 output, a2 output, a3 succeeded", False),
        ("queued, a1 running, b2 succeeded", False),
        ("queued, a1 running, cancelled", False),
        ("queued, a1 running, a2 succeeded, a3 failed", False),
        ("queued, a1 running, a2 retrying, b1 running, b2 succeeded", False),
        ("a1 queued, a1 running, a2 succeeded", False),
        ("scheduled, a1 running, a2 succeeded", False),
        ("queued, running, a2 succeeded", False),
        ("queued, a2 progress, a3 succeeded", False),
        ("queued, succeeded", False),
        ("", False),
    ],
)
def test_plain_lives_are_told_at_once(words, is_plain):
    told = whole_life(history(words))
    assert told == (fold(history(words))[0] if is_plain else None)


words = st.sampled_from(["queued", "running", "cancelled"]) | st.builds(
    "{}{} {}".format,
    st.sampled_from("ab"),
    st.integers(1, 4),
    st.sampled_from(["queued", "running", "progress", "output", "retrying", "succeeded", "failed"]),
)
plain_lives = st.integers(0, 3).flatmap(
    lambda within: st.tuples(
        st.just("queued"),
        st.just("a1 running"),
        *(st.sampled_from([f"a{seq} progress", f"a{seq} output"]) for seq in range(2, within + 2)),
        st.sampled_from([f"a{within + 2} succeeded", f"a{within + 2} failed"]),
    )
)


@given(
    plain_lives,
    st.lists(st.tuples(st.integers(0, 5), words), max_size=2),
    st.lists(st.integers(1, 3), min_size=8, max_size=8),
    st.booleans(),
)
def test_what_is_told_of_a_life_at_once_is_told_of_it_event_by_event(life, changes, attempts, alone):
    said = list(life)
    for place, word in changes:
        said[place : place + 1] = [word]
    events = [event(each, attempt, alone=alone) for each, attempt in zip(said, attempts, strict=False)]
    told = whole_life(events)
    assert told is None or (told, events) == fold(events)
    assert told is not None or changes


WORLDS = 20_000
"""As many as take some three seconds. Each rule that is broken below shows within the first few hundred."""


def first_flaw(**how: bool) -> str | None:
    """The first world whose history is not sound, and why."""
    flaws = ((seed, World(seed, **how).play()) for seed in range(WORLDS))
    return next((f"world {seed}: {flaw}" for seed, flaw in flaws if flaw), None)


def test_thousands_of_worlds_show_sound_histories():
    assert first_flaw() is None


def lax(monkeypatch, kind: str, **change) -> None:
    monkeypatch.setitem(RULES, kind, RULES[kind]._replace(**change))


def forget_old_runs(monkeypatch) -> None:
    fits = lifecycle._run_fits
    monkeypatch.setattr(
        lifecycle, "_run_fits", lambda how, record, e: e.run != record.run if how == "new" else fits(how, record, e)
    )


def let_gaps_through(monkeypatch) -> None:
    fits = lifecycle._run_fits

    def any_rising_seq(how, record, event):
        return fits(how, record, event) or (how == "current" and event.run == record.run and event.seq > record.seq)

    monkeypatch.setattr(lifecycle, "_run_fits", any_rising_seq)


def let_results_through(monkeypatch) -> None:
    fits = lifecycle._run_fits
    monkeypatch.setattr(lifecycle, "_run_fits", lambda how, record, e: how == "any" or fits(how, record, e))


@pytest.mark.parametrize(
    "break_rule",
    [
        forget_old_runs,
        let_gaps_through,
        let_results_through,
        pytest.param(lambda patch: lax(patch, "output", run="none"), id="show_superseded_runs"),
        pytest.param(lambda patch: lax(patch, "result", states=frozenset(STATES)), id="let_every_result_end"),
        pytest.param(lambda patch: lax(patch, "running", states=frozenset(STATES)), id="begin_again_after_the_end"),
        pytest.param(lambda patch: lax(patch, "queued", states=LIVE), id="queue_what_runs"),
    ],
)
def test_without_any_one_rule_some_world_shows_an_unsound_history(monkeypatch, break_rule):
    break_rule(monkeypatch)
    assert first_flaw() is not None


def test_without_the_writers_rule_some_world_shows_an_unsound_history():
    assert first_flaw(careless=True) is not None
