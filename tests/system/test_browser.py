"""The demo in a real browser: what a visitor sees while gateway and worker are killed behind the page's back."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection

import pytest
from browser import chromium, page  # noqa: F401 - fixtures
from servers.ports import free_port

from queuecast.demo import samples
from queuecast.demo.folder import FOLDER

from .checker import by_task, flaws_of_stream, flaws_of_task
from .client import whole_log

pytestmark = pytest.mark.browser

MILLISECONDS = 60_000
"""A failure bound: what a page waits for longer will not happen."""

QUEUES = ("words", "thumbs", "exports", "stream", "mail")

WORDS = 40
"""Those that the stream speaks, twenty a second."""

MANY_WORDS = 120
"""The same where it must be at it when the worker is killed, however slow the machine."""

ROWS = 60_000
WIDTH, HEIGHT = 320, 200

RECORDER = """
    window.streams = [];
    window.EventSource = class extends EventSource {
        constructor(url) {
            super(url);
            const record = { opened: 0, resets: [], events: [] };
            window.streams.push(record);
            this.addEventListener("open", () => (record.opened += 1));
            this.addEventListener("reset", ({ data }) => record.resets.push(data));
            this.addEventListener("message", ({ data }) => record.events.push(JSON.parse(data)));
        }
    };
"""
"""Keeps what each EventSource brings, before the page has seen it."""


class Demo:
    """`queuecast demo`, and a page that is open on it all the time."""

    def __init__(self, machine, page):  # noqa: F811
        self.page = page
        self.port = free_port()
        self.text = ""
        self._machine = machine
        self._process = None

    def start(self):
        self._process = self._machine.demo(self.port).ready()

    def open(self):
        self.page.add_init_script(RECORDER)
        self.page.goto(f"http://127.0.0.1:{self.port}")
        self.is_live()

    def is_live(self):
        self.page.locator("#connection[data-state=live]").wait_for()

    def start_one_of_each(self, words=WORDS):
        """The ids of the tasks, by queue."""
        self.text = " ".join(f"word-{number}" for number in range(words))
        self.page.locator("[data-queue=words] [name=path]").fill(str(samples.library() / "asyncio"))
        self.page.locator("[data-queue=stream] [name=text]").fill(self.text)
        self.page.locator("[data-queue=mail] [name=down_for]").fill("1")
        self.page.wait_for_function("[...document.forms].every((form) => form.checkValidity())")
        self.page.get_by_role("button", name="Run one of each").click()
        return {queue: self.page.locator(f"[data-queue={queue}] .task").get_attribute("data-id") for queue in QUEUES}

    def card(self, id):
        return self.page.locator(f".task[data-id='{id}']")

    def is_in_the_middle(self, ids):
        """Until some of the stream's words are there."""
        self.card(ids["stream"]).locator(".outputs", has_text="word-5").wait_for()

    def kill_worker(self):
        """By the page's own button, which sends a SIGKILL."""
        self.page.get_by_role("button", name="Kill the worker").click()
        self.page.locator("#notice", has_text="The worker was killed").wait_for()

    def kill_gateway(self):
        """Its worker does not outlive it."""
        self._process.kill()

    @contextmanager
    def gone(self):
        """The page notices that nobody is there any more, and afterwards that somebody is."""
        yield
        self.page.locator("#connection[data-state=connecting]").wait_for()
        self.start()
        self.is_live()

    def shows_each_result_once(self, ids):
        for id in ids.values():
            self.page.locator(f".task[data-id='{id}'][data-state=succeeded]").wait_for()
        assert self.page.locator(".task").count() == len(ids)
        assert "different, in" in self.card(ids["words"]).locator(".result").inner_text()
        assert f"{ROWS:,} of {ROWS:,} rows" in self.card(ids["exports"]).locator(".result").inner_text()
        assert "delivered to ann@example.org" in self.card(ids["mail"]).locator(".result").inner_text()
        # After a reload these two are fetched once more from their tasks' own streams.
        self.card(ids["stream"]).locator(".outputs", has_text="word-0 ").wait_for()
        assert self.card(ids["stream"]).locator(".outputs").text_content() == f"{self.text} "
        self.card(ids["thumbs"]).locator(".outputs img").nth(samples.PICTURES - 1).wait_for()
        assert self.card(ids["thumbs"]).locator(".outputs img").count() == samples.PICTURES

    def wait_for_end_of(self, queue, id):
        """A task's own stream ends with its result."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=MILLISECONDS / 1000)) as connection:
            connection.request("GET", f"/queues/{queue}/tasks/{id}/events")
            connection.getresponse().read()

    def streams(self):
        return self.page.evaluate("window.streams")

    def log(self):
        """All events, read anew by a client that is no browser."""

        async def read():
            return [event for queue in QUEUES for event in (await whole_log(self.port, queue)).events]

        # Playwright has an event loop in this thread.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, read()).result()


@pytest.fixture
def demo(machine, page, monkeypatch):  # noqa: F811
    monkeypatch.setenv(FOLDER, str(machine.folder))
    monkeypatch.setattr(samples, "ROWS", ROWS)
    monkeypatch.setattr(samples, "WIDTH", WIDTH)
    monkeypatch.setattr(samples, "HEIGHT", HEIGHT)
    samples.prepare()
    page.set_default_timeout(MILLISECONDS)
    demo = Demo(machine, page)
    demo.start()
    demo.open()
    return demo


def check(demo, ids, *, connections):
    """One EventSource has seen the whole log over so many connections, without being told to start anew."""
    demo.shows_each_result_once(ids)
    log = demo.log()
    told = by_task(log)
    assert told.keys() == set(ids.values())
    assert {id: flaws_of_task(events) for id, events in told.items()} == {id: [] for id in told}
    [stream] = demo.streams()
    assert flaws_of_stream(stream["events"], log) == []
    assert (stream["opened"], stream["resets"]) == (connections, [])


def test_a_reload_in_the_middle_loses_nothing(demo):
    ids = demo.start_one_of_each()
    demo.is_in_the_middle(ids)
    [before] = demo.streams()
    demo.page.reload()
    demo.shows_each_result_once(ids)
    [after] = demo.streams()
    log = demo.log()
    assert flaws_of_stream(before["events"], log, part="head") == []
    assert flaws_of_stream(after["events"], log, part="tail") == []
    assert before["resets"] == after["resets"] == []


def test_a_reload_shows_all_of_a_task_that_ends_before_the_lists_have_come(demo):
    ids = demo.start_one_of_each()
    demo.is_in_the_middle(ids)

    def list_late(route):
        demo.wait_for_end_of("stream", ids["stream"])
        route.continue_()

    demo.page.route("**/queues/stream/tasks?*", list_late)
    demo.page.reload()
    demo.shows_each_result_once(ids)


def test_the_button_kills_the_worker_and_its_tasks_run_again(demo):
    ids = demo.start_one_of_each(MANY_WORDS)
    demo.is_in_the_middle(ids)
    demo.kill_worker()
    demo.card(ids["stream"]).locator(".state", has_text="run 2").wait_for()
    check(demo, ids, connections=1)


@pytest.mark.parametrize("victims", ["gateway", "both"])
def test_an_open_page_comes_back_after_a_kill_and_ends_with_every_result_once(victims, demo):
    ids = demo.start_one_of_each()
    demo.is_in_the_middle(ids)
    with demo.gone():
        if victims == "both":
            demo.kill_worker()
        demo.kill_gateway()
    check(demo, ids, connections=2)
