"""The demo's own routes: what they answer, and whom they refuse."""

import json
import os
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest


def ask(site, path, *, method="GET", body=None, **headers):
    """Status, headers and body of an answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(site.url + path, body, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/demo/page.js", "text/javascript; charset=utf-8"),
        ("/demo/page.css", "text/css; charset=utf-8"),
        ("/demo/icon.svg", "image/svg+xml"),
    ],
)
def test_the_page_may_run_nothing_but_its_own_script(site, path, media_type):
    status, headers, _ = ask(site, path)
    assert (status, headers["content-type"]) == (200, media_type)
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_the_samples_are_there(site):
    _, _, body = ask(site, "/demo/samples")
    paths = json.loads(body)
    assert paths.keys() == {"words", "thumbs", "exports", "stream"}
    assert paths["exports"] == str(site.folder / "samples" / "orders.csv")


def test_everything_else_is_the_gateway(site):
    status, _, body = ask(site, "/queues")
    assert status == 200
    assert {queue["name"] for queue in json.loads(body)["queues"]} == {"words", "thumbs", "exports", "stream", "mail"}
    assert ask(site, "/demo/nothing")[0] == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec_Fetch_Site": "same-origin"}, 204),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
    ],
)
def test_only_the_demos_own_page_may_kill_the_worker(site, headers, status):
    before = site.kills
    assert ask(site, "/demo/kill-worker", method="POST", **headers)[0] == status
    assert site.kills - before == (status == 204)


def test_an_older_browser_is_known_by_its_origin(site):
    assert ask(site, "/demo/kill-worker", method="POST", Origin=site.url)[0] == 204


def test_killing_takes_a_post(site):
    before = site.kills
    assert ask(site, "/demo/kill-worker", Sec_Fetch_Site="same-origin")[0] == 404
    assert site.kills == before


def test_another_sites_name_for_this_machine_is_refused(site):
    port = urlsplit(site.url).port
    assert ask(site, "/queues", Host=f"evil.example:{port}")[0] == 400
    assert ask(site, "/queues", Host=f"localhost:{port}")[0] == 200


def test_files_are_only_ever_saved(site):
    (site.folder / "files" / "page.html").write_text("<script>alert(1)</script>")
    status, headers, _ = ask(site, "/demo/files/page.html")
    assert status == 200
    assert headers["content-disposition"] == "attachment"
    assert headers["content-security-policy"].startswith("sandbox")
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["../demo.db", "%2e%2e/demo.db", "..%2fdemo.db", "/etc/passwd", "missing.txt"])
def test_no_file_outside_the_files_is_given_out(site, path):
    assert ask(site, f"/demo/files/{path}")[0] == 404


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_read_aloud(site, tmp_path, make):
    """Opening a pipe waits for whoever writes to it, and all other tasks of the worker with it."""
    make(path := tmp_path / "odd")
    body = json.dumps({"name": "speak", "args": {"path": str(path)}}).encode()
    headers = {"content_type": "application/json", "prefer": "wait=10"}
    status, _, answer = ask(site, "/queues/stream/tasks", method="POST", body=body, **headers)
    assert status == 200
    assert json.loads(answer)["error"] == {"type": "ValueError", "message": f"{path} is no file"}
