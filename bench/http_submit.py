"""Submitting over HTTP: one task a request on keep-alive connections; how many a second, how late?

The Starlette baseline has no broker: it decodes and answers the same bodies, so it is the ceiling of
this way of serving HTTP, not a task system.
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ours
from lib import http_load, options, proc, report, subject, trials
from peers import submit_app

REQUEST = subject.post("/queues/noop/tasks", b'{"name":"noop","args":{}}')


@dataclass(frozen=True)
class Gateway:
    name: str
    start: Callable[[Path], AbstractContextManager[int]]  # yields the port


SUBJECTS = (
    Gateway("queuecast", ours.submit_gateway),
    Gateway("starlette_no_broker", submit_app.gateway),
)


def trial(gateway: Gateway, chosen: argparse.Namespace) -> trials.Figures:
    with proc.workdir() as folder, gateway.start(folder) as port:
        load = http_load.closed_loop(
            port,
            lambda _: REQUEST,
            connections=chosen.connections,
            warmup=chosen.warmup,
            seconds=chosen.seconds,
        )
    if load.refused:
        raise RuntimeError(f"{load.refused} of {load.answers} requests were refused")
    return {
        "requests_per_s": load.answers / load.seconds,
        **report.spread(load.latencies_ms),
        "client_busy": load.busy,
    }


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds")
    parser.add_argument("--seconds", type=float, default=5.0)
    chosen = parser.parse_args()

    subjects = options.chosen(SUBJECTS, chosen)
    results = trials.interleaved({(s.name, "submit"): partial(trial, s, chosen) for s in subjects}, chosen.rounds)
    rate = trials.best(results, "requests_per_s")
    report.emit("http_submit", vars(chosen), results, ratios=trials.ratios(rate))


if __name__ == "__main__":
    main()
