"""Unicast: each stream follows its own path, and each gets one event a second, none of them the same.

What does a delivered event cost the server, against a broadcast that makes the same number of writes?
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ours
from lib import events, options, proc, report, sse_load, trials
from lib.publish import Publisher
from lib.subject import Server, Subject
from peers import asgi_sse, nchan

UNICAST = (
    Subject("queuecast", ours.unicast),
    Subject("nchan", nchan.unicast),
    Subject("sse_starlette", asgi_sse.sse_starlette_unicast),
)
BROADCAST = {
    "queuecast": Subject("queuecast", ours.broadcast),
    "nchan": Subject("nchan", nchan.broadcast),
    "sse_starlette": Subject("sse_starlette", asgi_sse.sse_starlette),
}


def unicast(subject: Subject, chosen: argparse.Namespace) -> trials.Figures:
    """One event for the next stream, `streams` times a second, spread evenly over the second."""
    with proc.workdir() as folder, subject.start(Path(folder)) as server:

        def request(first: int, last: int) -> bytes:
            return server.publish([(n % chosen.streams, events.payload(chosen.size)) for n in range(first, last)])

        return measure(server, chosen.streams * chosen.rate, request, chosen)


def broadcast(subject: Subject, chosen: argparse.Namespace) -> trials.Figures:
    """One event for all streams, once a second: as many writes to sockets."""
    with proc.workdir() as folder, subject.start(Path(folder)) as server:

        def request(first: int, last: int) -> bytes:
            return server.publish([(0, events.payload(chosen.size)) for _ in range(first, last)])

        return measure(server, chosen.rate, request, chosen)


def measure(
    server: Server, rate: float, request: Callable[[int, int], bytes], chosen: argparse.Namespace
) -> trials.Figures:
    with sse_load.streams(server.port, server.path, chosen.streams) as load:
        publisher = Publisher(server.port, check=request(0, 1))
        publisher.at_rate(rate, chosen.warmup, request)
        load.reset()
        cpu, began = server.process.cpu_seconds(), time.monotonic()
        publisher.at_rate(rate, chosen.seconds, request)
        result = load.report()
        elapsed = time.monotonic() - began
        cpu = server.process.cpu_seconds() - cpu
        publisher.close()
    return {
        "deliveries_per_s": result.per_second,
        "server_us_per_delivery": cpu / result.deliveries * 1e6 if result.deliveries else None,
        **report.spread(result.latencies_ms),
        "server_busy": cpu / elapsed,
        "client_busy": result.busy,
        "streams_lost": float(result.closed),
    }


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--streams", type=int, default=5000)
    parser.add_argument("--size", type=int, default=100, help="bytes of an event's data")
    parser.add_argument("--rate", type=float, default=1.0, help="events a second that each stream gets")
    parser.add_argument("--warmup", type=float, default=2.0, help="seconds")
    parser.add_argument("--seconds", type=float, default=10.0)
    chosen = parser.parse_args()

    todo: dict[tuple[str, str], trials.Trial] = {}
    for subject in options.chosen(UNICAST, chosen):
        todo[subject.name, "unicast"] = partial(unicast, subject, chosen)
        todo[subject.name, "broadcast"] = partial(broadcast, BROADCAST[subject.name], chosen)
    results = trials.interleaved(todo, chosen.rounds)
    report.emit("unicast", vars(chosen), results, cpu_unicast_over_broadcast=cost_ratios(results))


def cost_ratios(results: trials.Results) -> dict[str, float | None]:
    def cost(subject: str, case: str) -> float | None:
        figures = (results[subject] or {}).get(case)
        return figures["server_us_per_delivery"] if figures else None

    return {subject: report.ratio(cost(subject, "unicast"), cost(subject, "broadcast")) for subject in results}


if __name__ == "__main__":
    main()
