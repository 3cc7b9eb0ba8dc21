"""A real Chromium for tests, driven by Playwright: the system's own, because none is downloaded.

`from browser import chromium, page` in a test module, and take `page` as a parameter. Such tests are plain functions,
in modules without others: Playwright's synchronous calls run an event loop of their own until the module's end.
"""

import os
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

APPLICATIONS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)

FLAGS = (
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-gpu",
)

MILLISECONDS = 15_000
"""A failure bound: what a page waits for longer will not happen."""


def executable():
    """The path of the machine's Chromium, or None."""
    found = (shutil.which(name) for name in NAMES)
    installed = (path for path in APPLICATIONS if Path(path).exists())
    return next(filter(None, (*found, *installed)), None)


@pytest.fixture(scope="module")
def chromium():
    """A running browser. Where there is none the test is skipped, and in CI it fails."""
    path = executable()
    if path is None:
        missing = "no Chromium on this machine: install it (Debian: chromium) to run the browser tests"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox does not work for root, which is who runs in a container.
    sandbox = os.geteuid() != 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS), chromium_sandbox=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """An empty page in a session of its own. What it complains about (scripts, CSP) fails the test."""
    context = chromium.new_context()
    context.set_default_timeout(MILLISECONDS)
    page = context.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if is_complaint(message) else None)
    yield page
    context.close()
    assert not complaints, complaints


def is_complaint(message):
    """An error of the page's own; that a request was refused or found nobody is for the page to handle."""
    return message.type == "error" and "Failed to load resource" not in message.text
