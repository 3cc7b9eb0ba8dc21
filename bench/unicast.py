"""Unicast: each stream follows its own path, and each gets one event a second, none of them the same.

What does a delivered event cost the server, against a broadcast that makes the same number of writes?
"""

import argparse
from functools import partial

import ours
from lib import events, options, proc, report, streaming, trials
from lib.subject import Subject
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


def trial(subject: Subject, spread: bool, chosen: argparse.Namespace) -> trials.Figures:
    """Spread: an event for the next stream, one after the other; else one for all of them at a time.

    Both ask for the same number of writes to sockets a second.
    """
    with proc.workdir() as folder, subject.start(folder) as server:

        def request(first: int, last: int) -> bytes:
            return server.publish([(n % chosen.streams, events.payload(chosen.size)) for n in range(first, last)])

        return streaming.measure(
            server,
            request,
            streams=chosen.streams,
            rate=chosen.rate * (chosen.streams if spread else 1),
            warmup=chosen.warmup,
            seconds=chosen.seconds,
        )


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
        todo[subject.name, "unicast"] = partial(trial, subject, True, chosen)
        todo[subject.name, "broadcast"] = partial(trial, BROADCAST[subject.name], False, chosen)
    results = trials.interleaved(todo, chosen.rounds)
    report.emit("unicast", vars(chosen), results, cpu_unicast_over_broadcast=cost_ratios(results))


def cost_ratios(results: trials.Results) -> dict[str, float | None]:
    def cost(subject: str, case: str) -> float | None:
        figures = (results[subject] or {}).get(case)
        return figures["server_us_per_delivery"] if figures else None

    return {subject: report.ratio(cost(subject, "unicast"), cost(subject, "broadcast")) for subject in results}


if __name__ == "__main__":
    main()
