"""Fan-out on one core: every event to every stream, at a demanded rate.

How many deliveries a second does one server process make, and how late are they? At a rate that a
subject cannot hold, its latency is that of a growing backlog and says only that it is over its limit.
"""

import argparse
from functools import partial

import ours
from lib import events, options, proc, report, streaming, trials
from lib.subject import Subject
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
    with proc.workdir() as folder, subject.start(folder) as server:

        def request(first: int, last: int) -> bytes:
            return server.publish([(0, events.payload(chosen.size)) for _ in range(first, last)])

        return streaming.measure(
            server,
            request,
            streams=chosen.streams,
            rate=rate,
            warmup=chosen.warmup,
            seconds=chosen.seconds,
        )


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
        saturation_ratios=trials.ratios(saturation),
    )


if __name__ == "__main__":
    main()
