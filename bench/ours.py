"""queuecast's side of every benchmark: the only module here that may import it.

Each function is a slot with the interface that its benchmark expects (see README.md). One that raises
MissingError is reported as null.
"""

from contextlib import AbstractContextManager
from pathlib import Path

from lib.proc import MissingError
from lib.subject import Server

NOT_YET = "queuecast's subject is not written yet (bench/ours.py)"


def broadcast(folder: Path) -> AbstractContextManager[Server]:
    """All streams follow one queue; `queuecast` on its fast path. For fanout, unicast and idle."""
    raise MissingError(NOT_YET)


def broadcast_plain_asgi(folder: Path) -> AbstractContextManager[Server]:
    """The same on an ASGI server that does not offer the transport. For fanout."""
    raise MissingError(NOT_YET)


def unicast(folder: Path) -> AbstractContextManager[Server]:
    """The i-th stream follows the i-th task of one queue: path(i) names it, and the events given to
    publish() each go to their own task. Many events may go in one request. For unicast."""
    raise MissingError(NOT_YET)


def sqlite_tasks(folder: Path, tasks: int) -> dict[str, float]:
    """Submit `tasks` no-op async tasks to a SQLite file, then run them in one worker process.

    Returns seconds under "submit_s" (in bulk, through Python) and "run_s" (first start to last result).
    """
    raise MissingError(NOT_YET)


def task_gateway(folder: Path) -> AbstractContextManager[int]:
    """A gateway and a worker in another process on a SQLite file with FULL sync; yields the gateway's port.

    POST /queues/noop/tasks with {"name": "noop", "args": {}} runs a handler that returns at once;
    GET /queues/noop/events shows its result. For latency.
    """
    raise MissingError(NOT_YET)


def submit_gateway(folder: Path) -> AbstractContextManager[int]:
    """The same without a worker, in one process pinned to SERVER_CPU; yields its port. For http_submit."""
    raise MissingError(NOT_YET)
