"""Start server processes on a CPU of their own, read what they cost from /proc, and stop them for sure."""

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
SERVER_CPU, LOAD_CPU = 0, 1
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1


class MissingError(Exception):
    """A subject cannot run here; the text says what to install or to write."""


def need(module: str) -> None:
    """Raise Missing unless a Python module of a peer is installed."""
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise MissingError(f"Python module {module!r} is not installed (see bench/README.md)")


def need_program(name: str) -> str:
    """Path of a program of a peer; Debian keeps servers in /usr/sbin, outside many users' PATH."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        raise MissingError(f"program {name!r} is not installed (see bench/README.md)")
    return path


def allow_open_files(wanted: int = 40_000) -> int:
    """Raise the limit of open files as far as we may, and say how far that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limits in ((max(soft, wanted), max(hard, wanted)), (hard, hard)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def pin(cpu: int | None) -> None:
    """Keep this process on one CPU, where there is more than one and the system can."""
    if cpu is not None and hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > cpu:
        os.sched_setaffinity(0, {cpu})


def _child_setup(cpu: int | None) -> Callable[[], None]:
    libc = ctypes.CDLL(None)

    def setup() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # a killed benchmark leaves nothing running
        allow_open_files()
        if cpu is None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
        pin(cpu)

    return setup


class Process:
    """A started program, with everything it started in turn."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path | None) -> None:
        self.popen = popen
        self.pid = popen.pid
        self.log = log

    def pids(self) -> list[int]:
        """Itself and its descendants."""
        found, todo = [], [self.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    todo += [int(child) for child in children.read_text().split()]
        return found

    def cpu_seconds(self) -> float:
        return sum(cpu_seconds(pid) for pid in self.pids())

    def rss(self) -> int:
        return sum(memory(pid)["Rss"] for pid in self.pids())

    def pss(self) -> int:
        return sum(memory(pid)["Pss"] for pid in self.pids())

    def alive(self) -> bool:
        return self.popen.poll() is None

    def tail(self) -> str:
        if self.log is None or not self.log.exists():
            return ""
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self, patience: float = 3.0) -> None:
        """Ask its whole process group to end, then make it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(patience)
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@contextlib.contextmanager
def running(
    argv: Sequence[str],
    *,
    cpu: int | None = SERVER_CPU,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    pipes: bool = False,
) -> Iterator[Process]:
    """A program in its own process group, pinned to `cpu`; ended when the block is left."""
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("ab")) if log else subprocess.DEVNULL
        popen = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(BENCH), **(env or {})},
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else output,
            stderr=None if pipes else output,
            start_new_session=True,
            preexec_fn=_child_setup(cpu),  # noqa: PLW1509  (no threads of ours run yet that could hold a lock)
        )
        process = Process(popen, log)
        stack.callback(process.stop)
        yield process


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def uvicorn(app: str, port: int) -> list[str]:
    """How the ASGI peers are served: uvicorn at its fastest, no logs, room for a burst of connects."""
    fast = "--loop uvloop --http httptools --no-access-log --log-level warning"
    patient = "--backlog 4096 --timeout-keep-alive 3600"
    return python("-m", "uvicorn", app, "--host", HOST, "--port", str(port), *f"{fast} {patient}".split())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return sock.getsockname()[1]


def wait_for_port(port: int, process: Process | None = None, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process is not None and not process.alive():
            raise RuntimeError(f"the server has ended:\n{process.tail()}")
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1.0):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}:\n{process.tail() if process else ''}")


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads; 0 for a process that is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()  # the program's name before it may hold spaces
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def memory(pid: int) -> dict[str, int]:
    """Bytes resident (Rss) and the same with shared pages divided among their users (Pss)."""
    found = {"Rss": 0, "Pss": 0}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in found:
                found[name] = int(value.split()[0]) * 1024
    return found


@contextlib.contextmanager
def workdir() -> Iterator[Path]:
    """A temporary folder for sockets, databases, configurations and logs of one trial."""
    with tempfile.TemporaryDirectory(prefix="queuecast-bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)
