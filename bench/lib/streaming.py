"""One trial of open streams while events are published: the core of fanout.py and unicast.py."""

import time
from collections.abc import Callable

from lib import report, sse_load
from lib.publish import Publisher
from lib.subject import Server
from lib.trials import Figures


def measure(
    server: Server,
    request: Callable[[int, int], bytes],
    *,
    streams: int,
    rate: float,
    warmup: float,
    seconds: float,
) -> Figures:
    """Open the streams, warm up, then measure while publishing goes on: request(first, last) at `rate`."""
    with sse_load.streams(server.port, server.path, streams) as load:
        publisher = Publisher(server.publish_port or server.port, check=request(0, 1))
        publisher.at_rate(rate, warmup, request)
        load.reset()
        cpu, began = server.process.cpu_seconds(), time.monotonic()
        sent = publisher.at_rate(rate, seconds, request)
        result = load.report()
        elapsed = time.monotonic() - began
        cpu = server.process.cpu_seconds() - cpu
        publisher.close()
    return {
        "deliveries_per_s": result.per_second,
        **report.spread(result.latencies_ms),
        "published_per_s": sent / elapsed,
        "server_us_per_delivery": cpu / result.deliveries * 1e6 if result.deliveries else None,
        "server_busy": cpu / elapsed,
        "client_busy": result.busy,
        "streams_lost": float(result.closed),
    }
