"""One JSON line a script: what ran where, medians over rounds, and their ratios."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

Numbers = Mapping[str, float]


def note(text: str) -> None:
    """For the human who watches; stdout carries only the JSON line."""
    print(text, file=sys.stderr, flush=True)


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """Nearest rank of sorted values; None without any."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def spread(values_ms: Sequence[float]) -> dict[str, float | None]:
    """p50, p99 and the worst, in the unit of the values."""
    ordered = sorted(values_ms)
    return {
        "p50_ms": percentile(ordered, 50),
        "p99_ms": percentile(ordered, 99),
        "max_ms": ordered[-1] if ordered else None,
    }


def medians(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Per figure the median of its rounds; None for a subject that ran in no round."""
    if not rounds:
        return None
    names = dict.fromkeys(name for one in rounds for name in one)
    figures: dict[str, Any] = {}
    for name in names:
        values = [one[name] for one in rounds if one.get(name) is not None]
        figures[name] = rounded(median(values)) if values else None
    figures["rounds"] = len(rounds)
    return figures


def ratio(one: float | None, other: float | None) -> float | None:
    return rounded(one / other) if one is not None and other else None


def rounded(value: float) -> float:
    """Four significant digits: more would pretend."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def emit(bench: str, settings: Mapping[str, Any], results: Mapping[str, Any], **more: Any) -> None:
    """The script's one line on stdout."""
    line = {
        "bench": bench,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": _machine(),
        "settings": dict(settings),
        "results": dict(results),
        **more,
    }
    print(json.dumps(line), flush=True)


def _cpu_times() -> tuple[int, int]:
    """Ticks of all CPUs since boot: stolen by the hypervisor, and all together."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0, 0
    ticks = [int(field) for field in stat.read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[7], sum(ticks)


LOAD_BEFORE = round(os.getloadavg()[0], 2)
CPU_TIMES_BEFORE = _cpu_times()


def _stolen_percent() -> float:
    """Of the machine's CPU time during this script: how noisy the host was."""
    stolen, total = (now - before for now, before in zip(_cpu_times(), CPU_TIMES_BEFORE, strict=True))
    return round(100 * stolen / total, 2) if total else 0.0


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": LOAD_BEFORE,
        "stolen_percent": _stolen_percent(),
    }
