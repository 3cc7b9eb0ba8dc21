"""Run trials interleaved (A B A B), so that a noisy minute of the machine falls on all subjects alike."""

import traceback
from collections.abc import Callable, Mapping
from typing import Any

from lib import report
from lib.proc import MissingError

Figures = Mapping[str, Any]
Trial = Callable[[], Figures]
Results = dict[str, dict[str, Any] | None]


def interleaved(trials: Mapping[tuple[str, str], Trial], rounds: int) -> Results:
    """Run each (subject, case) once a round. Answers subject -> case -> medians.

    A subject that is missing here is None. A trial that fails is told on stderr and left out of its
    medians, whose `rounds` says how many there were.
    """
    missing: set[str] = set()
    done: dict[tuple[str, str], list[Figures]] = {key: [] for key in trials}
    for _ in range(rounds):
        for (subject, case), trial in trials.items():
            if subject in missing:
                continue
            try:
                figures = trial()
            except MissingError as reason:
                missing.add(subject)
                report.note(f"{subject}: left out: {reason}")
            except (RuntimeError, OSError):
                report.note(f"{subject}, {case}: failed\n{traceback.format_exc()}")
            else:
                done[subject, case].append(figures)
                report.note(f"{subject}, {case}: {_shown(figures)}")
    results: Results = {}
    for (subject, case), figures in done.items():
        cases = results.setdefault(subject, None if subject in missing else {})
        if cases is not None:
            cases[case] = report.medians(figures)
    return results


def best(results: Results, figure: str) -> dict[str, float | None]:
    """Each subject's highest value of a figure over its cases."""
    return {subject: _highest(cases, figure) for subject, cases in results.items()}


def of_kind(results: Results, kind: str) -> Results:
    """Only the cases whose name begins with this."""
    return {
        subject: cases and {case: figures for case, figures in cases.items() if case.startswith(kind)}
        for subject, cases in results.items()
    }


def ratios(values: Mapping[str, float | None], of: str = "queuecast") -> dict[str, float | None]:
    """One subject's value divided by each other's; none where it was not asked to run."""
    if of not in values:
        return {}
    others = (name for name in values if name != of)
    return {f"{of}/{name}": report.ratio(values[of], values[name]) for name in others}


def _highest(cases: Mapping[str, Any] | None, figure: str) -> float | None:
    found = [case[figure] for case in (cases or {}).values() if case and case.get(figure) is not None]
    return max(found, default=None)


def _shown(figures: Figures) -> str:
    return ", ".join(f"{k} {report.rounded(v)}" for k, v in figures.items() if v is not None)
