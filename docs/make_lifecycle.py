"""Draws docs/lifecycle.md from the table that the code runs on. `python docs/make_lifecycle.py` rewrites it."""

from pathlib import Path

from queuecast.lifecycle import LIVE, RULES
from queuecast.task import FINAL_STATES, STATES

PAGE = Path(__file__).parent / "lifecycle.md"

RUN = {
    "none": "belongs to no run",
    "new": "a run never seen for this task; it supersedes the current one",
    "current": "the current run, and `seq` is exactly the last + 1",
    "any": "the current run with `seq` exactly the last + 1, a superseded run, or no run",
}


def page() -> str:
    return f"""# The life of a task

This page is drawn from `queuecast.lifecycle.RULES` by `docs/make_lifecycle.py`; a test keeps them in step.

Brokers repeat deliveries and publishes, so a log may hold an event twice, two runs of one task, or two results. One
automaton folds the log and accepts or refuses each event; what it refuses is not shown. Every reader folds the same
log in the same order and so shows the same history.

```mermaid
stateDiagram-v2
{diagram()}
```

| event | accepted in | of | leads to |
|---|---|---|---|
{table()}

Of a task not yet known (its beginning may have been trimmed) the first event is taken as it comes. The first result
ends the task, whoever wrote it. `seq` counts a run's events without a gap, so a batch that landed out of order is
refused until its predecessors are there; a writer that lost its connection therefore sends again everything from the
first batch that was not confirmed.
"""


def diagram() -> str:
    lines = ["    [*] --> scheduled", "    [*] --> queued"]
    for kind, rule in RULES.items():
        targets = sorted(FINAL_STATES) if kind == "result" else [rule.to] if rule.to else []
        lines += [
            f"    {state} --> {target}"
            for target in targets
            for state in STATES
            if state in rule.states and (state != target or kind == "running")
        ]
    return "\n".join([*lines, *(f"    {state} --> [*]" for state in STATES if state in FINAL_STATES)])


def table() -> str:
    rows = []
    for kind, rule in RULES.items():
        states = "every live state" if rule.states == LIVE else ", ".join(s for s in STATES if s in rule.states)
        target = "its own state" if kind == "result" else rule.to or "no other state"
        rows.append(f"| {kind} | {states or 'no state: only of an unknown task'} | {RUN[rule.run]} | {target} |")
    return "\n".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page())
