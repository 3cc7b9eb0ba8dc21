"""Many SSE streams held open by load processes, measured from here."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lib import proc

RESERVED_FILES = 200  # of a load process, for everything that is not a stream


@dataclass
class Load:
    """What the streams received between `reset` and `report`."""

    seconds: float = 0.0
    deliveries: int = 0
    bytes: int = 0
    closed: int = 0
    busy: float = 0.0  # of the load processes' CPU; near 1 means that the client was the limit
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return self.deliveries / self.seconds if self.seconds else 0.0


class SseLoad:
    def __init__(self, clients: list[proc.Process]) -> None:
        self._clients = clients

    def reset(self) -> None:
        self._ask("reset")

    def report(self) -> Load:
        load = Load()
        for answer in self._ask("report"):
            load.seconds = max(load.seconds, answer["seconds"])
            load.deliveries += answer["deliveries"]
            load.bytes += answer["bytes"]
            load.closed += answer["closed"]
            load.busy += answer["cpu_seconds"] / answer["seconds"]
            load.latencies_ms += [value / 1000 for value in answer["latencies_us"]]
        return load

    def _ask(self, command: str) -> list[dict[str, Any]]:
        for client in self._clients:
            _write(client, command)
        return [_read(client) for client in self._clients]


@contextlib.contextmanager
def streams(port: int, path: Callable[[int], str], count: int, samples: int = 50) -> Iterator[SseLoad]:
    """`count` open streams, the i-th on path(i); `samples` of them measure latency.

    One process holds them all unless the limit of open files demands more.
    """
    per_process = max(1, proc.allow_open_files() - RESERVED_FILES)
    parts = [range(start, min(start + per_process, count)) for start in range(0, count, per_process)]
    with contextlib.ExitStack() as stack:
        client = proc.python("-m", "lib.sse_client")
        clients = [stack.enter_context(proc.running(client, cpu=proc.LOAD_CPU, pipes=True)) for _ in parts]
        for process, part in zip(clients, parts, strict=True):
            paths = [path(i) for i in part]
            config = {"host": proc.HOST, "port": port, "paths": paths, "samples": samples // len(parts)}
            _write(process, json.dumps(config))
        for process in clients:
            _read(process)  # all established
        yield SseLoad(clients)


def _write(client: proc.Process, line: str) -> None:
    assert client.popen.stdin is not None
    client.popen.stdin.write(line.encode() + b"\n")
    client.popen.stdin.flush()


def _read(client: proc.Process) -> dict[str, Any]:
    assert client.popen.stdout is not None
    line = client.popen.stdout.readline()
    if not line:
        raise RuntimeError("a load process has ended; its error stands above")
    return json.loads(line)
