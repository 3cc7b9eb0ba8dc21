"""The demo's page in a real browser: what a visitor sees."""

import re

import pytest
from browser import chromium, page  # noqa: F401 - fixtures

from queuecast.demo import samples

pytestmark = pytest.mark.browser

TEXT = " ".join(f"piece-{number}" for number in range(60))


@pytest.fixture
def demo(page, site):  # noqa: F811
    page.goto(site.url)
    page.locator("#connection[data-state=live]").wait_for()
    page.wait_for_function("document.querySelector('[data-queue=words] input').value")
    return page


def submit(demo, queue, **fields):
    """Submit a form, and the card of the task that came of it."""
    section = demo.locator(f"[data-queue={queue}]")
    for name, value in fields.items():
        section.locator(f"[name={name}]").fill(str(value))
    before = section.locator(".task").count()
    section.locator("form button").click()
    demo.wait_for_function(
        "([queue, before]) => document.querySelectorAll(`[data-queue=${queue}] .task`).length > before",
        arg=[queue, before],
    )
    id = section.locator(".task").first.get_attribute("data-id")
    return demo.locator(f".task[data-id='{id}']")


def reaches(card, state):
    card.and_(card.page.locator(f"[data-state={state}]")).wait_for()


def test_one_click_runs_every_queue(demo):
    demo.locator("[data-queue=words] [name=path]").fill(str(samples.story()))
    demo.locator("[data-queue=stream] [name=pause]").fill("0")
    demo.locator("[data-queue=mail] [name=down_for]").fill("0")
    demo.get_by_role("button", name="Run one of each").click()
    for queue in ("words", "thumbs", "exports", "stream", "mail"):
        demo.locator(f"[data-queue={queue}] .task[data-state=succeeded]").wait_for()
    assert re.search(r"\d+ words, \d+ different", demo.locator("[data-queue=words] .result").inner_text())
    pictures = demo.locator("[data-queue=thumbs] .outputs img")
    assert pictures.count() == 4
    demo.wait_for_function("[...document.querySelectorAll('.outputs img')].every((image) => image.naturalWidth > 0)")
    assert "2,000 of 2,000 rows" in demo.locator("[data-queue=exports] .result").inner_text()
    assert demo.locator("[data-queue=stream] .outputs").text_content().rstrip() == samples.TEXT.rstrip()


def test_a_result_is_downloaded(demo):
    card = submit(demo, "exports", column="region", contains="north")
    reaches(card, "succeeded")
    with demo.expect_download() as download:
        card.get_by_text("download").click()
    lines = download.value.path().read_text().splitlines()
    assert lines
    assert all('"region": "north"' in line for line in lines)


def test_a_reload_in_the_middle_of_a_stream_loses_and_repeats_nothing(demo):
    card = submit(demo, "stream", text=TEXT, pause=0.03)
    card.locator(".outputs", has_text="piece-9 ").wait_for()
    demo.reload()
    reaches(card, "succeeded")
    card.locator(".outputs", has_text="piece-0 ").wait_for()
    assert card.locator(".outputs").text_content() == f"{TEXT} "


def test_two_tabs_see_the_same(demo, site):
    other = demo.context.new_page()
    other.goto(site.url)
    other.locator("#connection[data-state=live]").wait_for()
    card = submit(demo, "stream", text=TEXT, pause=0)
    reaches(card, "succeeded")
    shown = other.locator(f".task[data-id='{card.get_attribute('data-id')}']")
    reaches(shown, "succeeded")
    assert shown.locator(".outputs").text_content() == card.locator(".outputs").text_content() == f"{TEXT} "


def test_a_path_that_is_not_there_fails_and_can_be_requeued(demo):
    card = submit(demo, "words", path="/no/such/<img src=x onerror=alert(1)>")
    reaches(card, "failed")
    assert "there is no file or folder '/no/such/<img" in card.locator(".trouble").inner_text()
    failed = demo.locator("[data-queue=words] .task[data-state=failed]")
    before = failed.count()
    card.get_by_role("button", name="Requeue").click()
    failed.nth(before).wait_for()


def test_a_refused_attempt_is_retried_in_sight(demo):
    card = submit(demo, "mail", down_for=1)
    reaches(card, "retrying")
    assert "ConnectionError: the mail server refused attempt 1" in card.locator(".trouble").inner_text()
    reaches(card, "succeeded")
    assert "attempt 2" in card.locator(".state").inner_text()


def test_a_running_task_is_cancelled(demo):
    card = submit(demo, "stream", text=TEXT, pause=5)
    reaches(card, "running")
    card.get_by_role("button", name="Cancel").click()
    reaches(card, "cancelled")


def test_a_bad_argument_is_named(page, site):  # noqa: F811
    page.goto(site.url)
    page.locator("#connection[data-state=live]").wait_for()
    page.locator("[data-queue=words] [name=path]").fill("x")
    page.locator("[data-queue=words] [name=top]").evaluate("field => Object.assign(field, { max: '', value: '1000' })")
    page.locator("[data-queue=words] form button").click()
    page.locator("#notice", has_text="top").wait_for()


def test_the_button_kills_the_worker(demo, site):
    before = site.kills
    demo.get_by_role("button", name="Kill the worker").click()
    demo.locator("#notice", has_text="killed").wait_for()
    assert site.kills == before + 1
