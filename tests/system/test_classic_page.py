"""The page of `examples/classic/` in a browser, with a plain worker behind it."""

import pytest
from browser import chromium, page  # noqa: F401 - fixtures
from servers.ports import free_port

pytestmark = pytest.mark.browser


def shown(page, words):  # noqa: F811
    return page.locator("#tasks output", has_text=f'{{"words":{words}}}')


def submit_in(page, text):  # noqa: F811
    page.get_by_label("Text").fill(text)
    page.get_by_role("button", name="Submit").click()


@pytest.mark.parametrize("program", ["server", "server_own_route"])
def test_the_page_shows_each_result_while_its_server_is_killed(classic, page, program):  # noqa: F811
    port = free_port()
    server = classic.server(port, program).ready()
    classic.plain("worker")
    page.goto(f"http://127.0.0.1:{port}")
    submit_in(page, "one two three")
    shown(page, 3).wait_for()
    server.kill()
    classic.server(port, program).ready()
    submit_in(page, "four five")
    shown(page, 2).wait_for()
    assert page.locator("#tasks li").count() == 2
    page.reload()
    shown(page, 2).wait_for()
    shown(page, 3).wait_for()
    assert page.locator("#tasks li").count() == 2


def test_the_page_logs_a_type_that_it_does_not_know(classic, page):  # noqa: F811
    port = free_port()
    classic.server(port).ready()
    page.goto(f"http://127.0.0.1:{port}")
    with page.expect_console_message(lambda message: message.text == "unknown type: news"):
        page.evaluate("""stream.onmessage({ data: '{"type": "news"}' })""")
