"""Idle streams: what does an open stream cost in memory of the server's processes, and in CPU?

Keepalives are on (every 15 s, each subject's own). Socket buffers in the kernel are not counted.
"""

import argparse
import time
from functools import partial

import ours
from lib import options, proc, report, sse_load, trials
from lib.subject import Subject
from peers import asgi_sse, nchan

SUBJECTS = (
    Subject("queuecast", ours.broadcast),
    Subject("nchan", nchan.broadcast),
    Subject("sse_starlette", asgi_sse.sse_starlette),
    Subject("handmade", asgi_sse.handmade),  # has no keepalive: the usual omission
)
FIRST = 50  # streams opened and closed before the first reading, so that lazy imports do not count
SETTLE = 3.0  # seconds after the last stream has opened


def trial(subject: Subject, chosen: argparse.Namespace) -> trials.Figures:
    with proc.workdir() as folder, subject.start(folder) as server:
        with sse_load.streams(server.port, server.path, FIRST, samples=0):
            pass
        time.sleep(1.0)
        rss, pss = server.process.rss(), server.process.pss()
        with sse_load.streams(server.port, server.path, chosen.streams, samples=0) as load:
            time.sleep(SETTLE)
            load.reset()
            cpu, began = server.process.cpu_seconds(), time.monotonic()
            time.sleep(chosen.seconds)
            cpu, elapsed = server.process.cpu_seconds() - cpu, time.monotonic() - began
            full_rss, full_pss = server.process.rss(), server.process.pss()
            result = load.report()
    return {
        "kb_per_stream": (full_rss - rss) / chosen.streams / 1024,
        "kb_per_stream_pss": (full_pss - pss) / chosen.streams / 1024,
        "empty_mb": rss / 1024**2,
        "full_mb": full_rss / 1024**2,
        "cpu_percent": cpu / elapsed * 100,
        "received_bytes_per_stream": result.bytes / chosen.streams,
        "streams_lost": float(result.closed),
    }


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--streams", type=int, default=15_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of measuring the CPU")
    chosen = parser.parse_args()

    subjects = options.chosen(SUBJECTS, chosen)
    results = trials.interleaved({(s.name, "idle"): partial(trial, s, chosen) for s in subjects}, chosen.rounds)
    report.emit("idle", vars(chosen), results)


if __name__ == "__main__":
    main()
