"""`queuecast demo` as a visitor starts it, and its worker killed in the middle of what it does."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
from browser import chromium, page  # noqa: F401 - fixtures

TEXT = " ".join(f"piece-{number}" for number in range(80))

SECONDS = 60
"""A failure bound: the command makes its samples first."""


class Demo:
    """The command's process. What it says is read until its end, so that it never waits for its reader."""

    def __init__(self, folder):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("QUEUECAST_")}
        command = [sys.executable, "-m", "queuecast", "demo", "--folder", str(folder), "--port", str(free_port())]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=clean)
        self.url = ""
        self.said = []
        self._listens = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.said.append(line)
            found = re.search(r"listening on (http://\S+)", line)
            if found:
                self.url = found[1]
                self._listens.set()
        self._listens.set()

    def wait_until_it_listens(self):
        assert self._listens.wait(SECONDS), "".join(self.said)
        assert self.url, "".join(self.said)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()
            self.process.stderr.close()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def demo(tmp_path):
    demo = Demo(tmp_path / "demo")
    try:
        demo.wait_until_it_listens()
        yield demo
    finally:
        demo.stop()


@pytest.mark.browser
def test_a_killed_workers_tasks_run_again_in_sight(demo, page):  # noqa: F811
    page.set_default_timeout(SECONDS * 1000)
    page.goto(demo.url)
    page.locator("#connection[data-state=live]").wait_for()
    section = page.locator("[data-queue=stream]")
    section.locator("[name=text]").fill(TEXT)
    section.locator("form button").click()
    card = section.locator(".task")
    card.locator(".outputs", has_text="piece-20 ").wait_for()
    page.get_by_role("button", name="Kill the worker").click()
    card.locator(".state", has_text="run 2").wait_for()
    page.reload()
    section.locator(".task[data-state=succeeded]").wait_for()
    card.locator(".outputs", has_text="piece-0 ").wait_for()
    assert card.count() == 1
    assert card.locator(".outputs").text_content() == f"{TEXT} "
