"""Fan-out on one core: every event to every stream, at a demanded rate.

How many deliveries a second does one server process make, and how late are they?
"""

import argparse
import time
from pathlib import Path
from typing import Any

import ours
from lib import events, proc, report, sse_load
from lib.publish import Publisher
from lib.subject import Server, Subject
from peers import asgi_sse, nchan

SUBJECTS = (
    Subject("queuecast", ours.broadcast),
    Subject("queuecast_plain_asgi", ours.broadcast_plain_asgi),
    Subject("nchan", nchan.broadcast),
    Subject("sse_starlette", asgi_sse.sse_starlette),
    Subject("handmade", asgi_sse.handmade),
)


def measure(server: Server, rate: float, options: argparse.Namespace) -> dict[str, float | None]:
    """One trial on a fresh server: open the streams, warm up, measure while publishing goes on."""

    def request(first: int, last: int) -> bytes:
        return server.publish([(0, events.payload(options.size)) for _ in range(first, last)])

    with sse_load.streams(server.port, server.path, options.streams) as load:
        publisher = Publisher(server.port, check=request(0, 1))
        publisher.at_rate(rate, options.warmup, request)
        load.reset()
        cpu, began = server.process.cpu_seconds(), time.monotonic()
        sent = publisher.at_rate(rate, options.seconds, request)
        result = load.report()
        elapsed = time.monotonic() - began
        cpu = server.process.cpu_seconds() - cpu
        publisher.close()
    return {
        "deliveries_per_s": result.per_second,
        **report.spread(result.latencies_ms),
        "published_per_s": sent / elapsed,
        "server_busy": cpu / elapsed,
        "client_busy": result.busy,
        "server_us_per_delivery": cpu / result.deliveries * 1e6 if result.deliveries else None,
        "streams_lost": float(result.closed),
    }


def trial(subject: Subject, rate: float, options: argparse.Namespace, missing: set[str]) -> dict[str, Any] | None:
    if subject.name in missing:
        return None
    try:
        with proc.workdir() as folder, subject.start(Path(folder)) as server:
            figures = measure(server, rate, options)
    except proc.MissingError as reason:
        missing.add(subject.name)
        report.note(f"{subject.name}: left out: {reason}")
        return None
    report.note(f"{subject.name} at {rate:g}/s: {({k: report.rounded(v) for k, v in figures.items() if v is not None})}")
    return figures


def saturation(result: dict[str, Any] | None) -> float | None:
    """Most deliveries a second at any demanded rate."""
    return max(at["deliveries_per_s"] for at in result.values()) if result else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=5000)
    parser.add_argument("--size", type=int, default=100, help="bytes of an event's data")
    parser.add_argument("--rates", default="20,200", help="events a second, comma-separated")
    parser.add_argument("--warmup", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="names of subjects, comma-separated")
    options = parser.parse_args()
    rates = [float(rate) for rate in options.rates.split(",")]
    only = set(filter(None, options.only.split(",")))
    subjects = [subject for subject in SUBJECTS if not only or subject.name in only]

    proc.pin(proc.LOAD_CPU)
    missing: set[str] = set()
    rounds: dict[str, dict[float, list[dict[str, Any]]]] = {s.name: {rate: [] for rate in rates} for s in subjects}
    for _ in range(options.rounds):
        for rate in rates:
            for subject in subjects:
                figures = trial(subject, rate, options, missing)
                if figures:
                    rounds[subject.name][rate].append(figures)

    results = {
        name: None if name in missing else {f"{rate:g}/s": report.medians(by_rate[rate]) for rate in rates}
        for name, by_rate in rounds.items()
    }
    best = {name: saturation(result) for name, result in results.items()}
    ours_best = best.get("queuecast")
    ratios = {f"queuecast/{name}": report.ratio(ours_best, value) for name, value in best.items() if name != "queuecast"}
    report.emit("fanout", vars(options), results, saturation_per_s=best, saturation_ratios=ratios)


if __name__ == "__main__":
    main()
