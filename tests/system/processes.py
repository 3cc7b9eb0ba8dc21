"""Processes of queuecast on one broker: started, killed and started again, and never left behind."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

SECONDS = 60
"""A failure bound: what a process has not said or done by then it will not."""

HEIRS_SECONDS = 10
"""A failure bound: how long what a process has started may outlive it."""

TESTS = Path(__file__).parents[1]

APPLICATION = "system.workload:qc"


class Lines:
    """What a process says on one of its pipes, line by line; the pipe ends when all its heirs are gone, too."""

    def __init__(self, pipe):
        self.all = []
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, args=[pipe], daemon=True)
        self._thread.start()

    def wait_for(self, words, after=0, times=1):
        """Until so many lines contain these words that come after so many others; these lines."""
        with self._news:
            self._news.wait_for(lambda: self._ended or len(self._said(words, after)) >= times, SECONDS)
        said = self._said(words, after)
        assert len(said) >= times, f"{words!r} was not said {times} times, but:\n{self}"
        return said

    def ends(self):
        """Whether nobody is left who could say anything."""
        self._thread.join(HEIRS_SECONDS)
        return not self._thread.is_alive()

    def __str__(self):
        return "\n".join(self.all)

    def _said(self, words, after):
        return [line for line in self.all[after:] if words in line]

    def _read(self, pipe):
        with pipe:
            for line in pipe:
                with self._news:
                    self.all.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


class Process:
    """One process. `ready` is what it says once it is."""

    def __init__(self, name, arguments, ready, environment, folder, *, nice=0):
        self.name = name
        self._ready = ready
        self._popen = subprocess.Popen(
            ["nice", "-n", str(nice), sys.executable, "-m", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=folder,
            env=environment,
        )
        self.out = Lines(self._popen.stdout)
        self.err = Lines(self._popen.stderr)

    def __repr__(self):
        return f"<{self.name} {self.pid}>"

    @property
    def pid(self):
        return self._popen.pid

    def ready(self):
        self.err.wait_for(self._ready)
        return self

    def signal(self, number):
        self._popen.send_signal(number)

    def wait(self):
        """Its exit code, once it has ended."""
        return self._popen.wait(SECONDS)

    def kill(self):
        """As the out-of-memory killer does it."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self):
        """As a supervisor does it; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def end(self):
        """However it is; everything that it started must end with it."""
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait(SECONDS)

    def heirs_end(self):
        return self.out.ends() and self.err.ends()


class Machine:
    """One broker, and all processes that share it."""

    def __init__(self, folder, broker, *, nice=0):
        """`nice` is how far its processes stand back for others, such as servers that have machines of their own."""
        self.folder = folder
        self.broker = broker
        self._nice = nice
        self.judged = broker
        """Where the judge finds it, whatever lies between it and the processes."""
        self.witness = folder / "witness"
        self._processes = []

    def gateway(self, port, *, application=APPLICATION, workers=1):
        named = [application] if application else []
        arguments = ("gateway", *named, "--port", port, "--workers", workers)
        return self.start("gateway", "queuecast", *arguments, ready="listening on")

    def worker(self, *, concurrency=3, application=APPLICATION, broker=None):
        elsewhere = ["--broker", broker] if broker else []
        arguments = ("worker", application, "--concurrency", concurrency, *elsewhere)
        return self.start("worker", "queuecast", *arguments, ready="is ready")

    def demo(self, port):
        arguments = ("demo", "--port", port, "--folder", self.folder, "--broker", self.broker)
        return self.start("demo", "queuecast", *arguments, ready="listening on")

    @property
    def variables(self):
        """What its processes find in their environment."""
        return {
            "QUEUECAST_BROKER": self.broker,
            "WITNESS": str(self.witness),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, name, *arguments, ready="", folder=TESTS):
        """`python -m ARGUMENTS` in a folder, with the environment of this machine and nothing of who runs the tests."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("QUEUECAST_")}
        process = Process(name, arguments, ready, inherited | self.variables, folder, nice=self._nice)
        self._processes.append(process)
        return process

    def witnessed(self):
        """What the handlers themselves say: (task id, attempt) of each time one was begun."""
        if not self.witness.exists():
            return []
        return [(id, int(attempt)) for id, attempt in map(str.split, self.witness.read_text().splitlines())]

    def clean_up(self):
        """End everything. What it said is shown if the test has failed."""
        for process in self._processes:
            process.end()
        survived = [process for process in self._processes if not process.heirs_end()]
        for process in self._processes:
            print(f"--- {process}\n{process.err}")
        assert not survived, f"what these had started was left behind: {survived}"
