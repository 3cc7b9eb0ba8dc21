"""Fan-out on one core: every event to every stream, at a demanded rate.

How many deliveries a second does one server process make, and how late are they? At a rate that a
subject cannot hold, its latency is that of a growing backlog and says only that it is over its limit.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import ours
from lib import events, options, proc, report, sse_load, trials
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


def trial(subject: Subject, rate: float, chosen: argparse.Namespace) -> trials.Figures:
    """On a fresh server, so that no trial inherits a backlog."""
    with proc.workdir() as folder, subject.start(Path(folder)) as server:
        return measure(server, rate, chosen)


def measure(server: Server, rate: float, chosen: argparse.Namespace) -> trials.Figures:
    """Open the streams, warm up, then measure while publishing goes on."""

    def request(first: int, last: int) -> bytes:
        return server.publish([(0, events.payload(chosen.size)) for _ in range(first, last)])

    with sse_load.streams(server.port, server.path, chosen.streams) as load:
        publisher = Publisher(server.port, check=request(0, 1))
        publisher.at_rate(rate, chosen.warmup, request)
        load.reset()
        cpu, began = server.process.cpu_seconds(), time.monotonic()
        sent = publisher.at_rate(rate, chosen.seconds, request)
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


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--streams", type=int, default=5000)
    parser.add_argument("--size", type=int, default=100, help="bytes of an event's data")
    parser.add_argument("--rates", default="10,20,200", help="events a second, comma-separated")
    parser.add_argument("--warmup", type=float, default=2.0, help="seconds")
    parser.add_argument("--seconds", type=float, default=5.0)
    chosen = parser.parse_args()
    rates = [float(rate) for rate in chosen.rates.split(",")]

    results = trials.interleaved(
        {
            (subject.name, f"{rate:g}/s"): partial(trial, subject, rate, chosen)
            for rate in rates
            for subject in options.chosen(SUBJECTS, chosen)
        },
        chosen.rounds,
    )
    saturation = trials.best(results, "deliveries_per_s")
    report.emit(
        "fanout",
        vars(chosen),
        results,
        saturation_per_s=saturation,
        saturation_ratios=trials.ratios(saturation) if "queuecast" in saturation else {},
    )


if __name__ == "__main__":
    main()
