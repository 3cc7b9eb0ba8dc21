"""The data commands against a real gateway, worker and SQLite file."""

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from .making import cli, command, environment, free_port, shop_running, started, url_of


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The folder and the URL of a shop that runs."""
    folder, port = tmp_path_factory.mktemp("shop"), free_port()
    with shop_running(folder, port):
        yield folder, url_of(port)


@pytest.fixture
def ask(shop):
    folder, url = shop
    return lambda *arguments, given=None: cli(*arguments, folder=folder, given=given, QUEUECAST_URL=url)


def submitted(ask, *arguments):
    return ask("submit", "reports", *arguments).stdout.strip()


def test_submit_prints_the_id_and_says_how_to_follow_it(ask):
    answer = ask("submit", "reports", "render", "--arg", "report_id=7")
    assert answer.returncode == 0
    id = answer.stdout.strip()
    assert f"queuecast watch reports --task {id}" in answer.stderr
    assert f"queuecast tasks reports --cancel {id}" in answer.stderr


def test_submit_and_watch_prints_the_result_alone_on_stdout(ask):
    answer = ask("submit", "reports", "render", "--arg", "report_id=7", "--watch")
    assert (answer.returncode, answer.stdout) == (0, '{"report":7}\n')
    assert "running 2/3 rows" in answer.stderr


def test_outputs_are_printed_as_they_come(ask):
    answer = ask("submit", "reports", "speak", "--args", '{"text": "not yet"}', "--arg", "text=one two", "--watch")
    assert answer.stdout.splitlines() == ["one", '{"length":3}', "two", '{"length":3}', "null"]


def test_as_json_every_line_is_an_event(ask):
    answer = ask("submit", "reports", "speak", "--args", "-", "--watch", "--json", given='{"text": "one"}')
    events = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [event["type"] for event in events] == ["task", "task", "output", "output", "result"]


def test_text_is_text_where_it_is_no_json(ask):
    answer = ask("submit", "reports", "fail", "--arg", "reason=because 7", "--watch")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "failed: ValueError: because 7" in answer.stderr


def test_options_go_by_their_own_names(ask):
    accepted = json.loads(ask("submit", "reports", "fail", "--option", "delay=600", "--json").stdout)
    assert accepted["state"] == "scheduled"
    cancelled = ask("tasks", "reports", "--cancel", accepted["id"])
    assert (cancelled.returncode, cancelled.stderr) == (0, f"{accepted['id']} is cancelled\n")
    assert ask("watch", "reports", "--task", accepted["id"]).returncode == 7


def test_a_running_task_is_cancelled_from_outside(shop):
    folder, url = shop
    with started("submit", "reports", "forever", "--watch", "--url", url, folder=folder) as watching:
        id = watching.until("submitted").split()[1]
        watching.until("^running")
        told = cli("tasks", "reports", "--cancel", id, "--url", url, folder=folder).stderr
        assert re.search("asked to stop|is cancelled", told)  # as it is by then
        assert watching.wait() == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_the_task_running_and_says_so(shop, ask, number):
    folder, url = shop
    with started("submit", "reports", "forever", "--watch", "--url", url, folder=folder) as watching:
        id = watching.until("submitted").split()[1]
        watching.until("^running")
        watching.send(number)
        assert watching.wait() == 128 + number
        assert f"queuecast tasks reports --cancel {id} --url {url}" in watching.rest()
    assert json.loads(ask("tasks", "reports", id, "--json").stdout)["state"] == "running"
    ask("tasks", "reports", "--cancel", id)


def test_a_timeout_is_no_end_of_the_task(ask):
    answer = ask("submit", "reports", "forever", "--watch", "--timeout", "0.3")
    id = answer.stderr.split()[1]
    assert answer.returncode == 6
    assert "has not ended within 0.3 seconds" in answer.stderr
    assert json.loads(ask("tasks", "reports", id, "--json").stdout)["state"] in {"queued", "running"}
    ask("tasks", "reports", "--cancel", id)


def test_watching_a_task_that_has_ended_tells_its_end_again(ask):
    id = submitted(ask, "render", "--arg", "report_id=8")
    assert ask("watch", "reports", "--task", id).stdout == '{"report":8}\n'
    status = json.loads(ask("tasks", "reports", id, "--json").stdout)
    told = ask("watch", "reports", "--task", id, "--after", status["cursor"])
    assert (told.returncode, told.stdout) == (0, '{"report":8}\n')


def test_a_queue_is_watched_from_its_beginning(ask):
    id = submitted(ask, "render", "--arg", "report_id=9")
    ask("watch", "reports", "--task", id)
    answer = ask("watch", "reports", "--after", "first", "--timeout", "0.5")
    assert answer.returncode == 6
    assert "watched for 0.5 seconds" in answer.stderr
    assert any(f"{id}  succeeded: " in line for line in answer.stdout.splitlines())


def test_lists_are_tables_or_lines_of_json(ask):
    id = submitted(ask, "render", "--arg", "report_id=1")
    ask("watch", "reports", "--task", id)
    assert ask("queues").stdout.split()[0] == "QUEUE"
    (queue,) = map(json.loads, ask("queues", "--json").stdout.splitlines())
    assert (queue["name"], "render" in queue["handlers"]) == ("reports", True)
    assert any(line.split()[:3] == [id, "render", "succeeded"] for line in ask("tasks", "reports").stdout.splitlines())
    newest = json.loads(ask("tasks", "reports", "--state", "succeeded", "--limit", "1", "--json").stdout)
    assert newest["id"] == id
    assert 'result  {"report":1}' in ask("tasks", "reports", id).stdout


def test_dead_letters_are_listed_and_submitted_again(ask):
    id = submitted(ask, "fail")
    ask("watch", "reports", "--task", id)
    assert any(line.split()[0] == id for line in ask("dead", "reports").stdout.splitlines())
    again = ask("dead", "reports", "--requeue", id).stdout.strip()
    assert again != id
    assert again in ask("dead", "reports", "--requeue-all").stdout.splitlines()
    assert ask("watch", "reports", "--task", again).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["submit", "report", "render"], 5, "did you mean 'reports'?"),
        (["submit", "reports", "rendr"], 2, "did you mean 'render'?"),
        (["submit", "reports", "render"], 2, "/args/report_id"),
        (["submit", "reports", "render", "--arg", "report_id=x"], 2, "/args/report_id: Expected `int`"),
        (["submit", "reports", "render", "--arg", "report_id"], 2, "is no KEY=VALUE"),
        (["submit", "reports", "render", "--args", "[7]"], 2, "--args is no JSON object"),
        (["submit", "reports", "render", "--option", "dely=1"], 2, "dely"),
        (["submit", "reports"], 2, "NAME"),
        (["submit", "reports", "render", "--timeout", "3"], 2, "--option timeout=SECONDS"),
        (["submit", "reports", "fail", "--arg", "reason=\udcff"], 2, "is not UTF-8"),
        (["tasks", "report\udcff"], 2, "is not UTF-8"),
        (["watch", "report"], 5, "did you mean 'reports'?"),
        (["watch", "reports", "--task", "nobody"], 5, "there is no task 'nobody'"),
        (["tasks", "reports", "nobody"], 5, "there is no task 'nobody'"),
        (["tasks", "reports", "--state", "done"], 2, "state is one of"),
        (["tasks", "reports", "a", "--cancel", "b"], 2, "not both"),
        (["dead", "reports", "--requeue", "nobody"], 5, "nobody"),
        (["queues", "--url", "ftp://x"], 2, "is no gateway"),
        (["queues", "--url", "http://x:many"], 2, "is no gateway"),
        (["quues"], 2, "queues"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(ask, arguments, code, words):
    answer = ask(*arguments)
    assert (answer.returncode, answer.stdout) == (code, "")
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr


def test_arguments_from_stdin_that_are_no_text_are_refused(shop):
    folder, url = shop
    argv = command("submit", "reports", "render", "--args", "-", "--url", url)
    answer = subprocess.run(argv, cwd=folder, env=environment(), input=b'{"\xff": 1}', capture_output=True, check=False)
    assert (answer.returncode, answer.stdout) == (2, b"")
    assert b"--args is no JSON object" in answer.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_what_cannot_be_written_is_told_without_a_traceback(shop):
    folder, url = shop
    with open("/dev/full", "w") as full:
        argv = command("queues", "--url", url)
        answer = subprocess.run(
            argv, cwd=folder, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (answer.returncode, answer.stderr) == (
        2,
        "error: what was asked for cannot be written: No space left on device\n",
    )


def test_what_has_ended_is_neither_cancelled_nor_requeued(ask):
    id = submitted(ask, "render", "--arg", "report_id=1")
    ask("watch", "reports", "--task", id)
    for refused in (ask("tasks", "reports", "--cancel", id), ask("dead", "reports", "--requeue", id)):
        assert refused.returncode == 2
        assert "succeeded" in refused.stderr


def test_no_gateway(tmp_path):
    answer = cli("queues", "--url", url_of(free_port()), folder=tmp_path)
    assert answer.returncode == 4
    assert "cannot be reached" in answer.stderr
    assert "queuecast run" in answer.stderr


def test_unknown_settings_are_refused(tmp_path):
    answer = cli("queues", folder=tmp_path, QUEUECAST_ULR="x")
    assert answer.returncode == 2
    assert "did you mean QUEUECAST_URL?" in answer.stderr


def test_version_and_help(tmp_path):
    assert cli("--version", folder=tmp_path).stdout.startswith("queuecast 0.")
    for words in ([], ["submit"], ["watch"]):
        help = " ".join(cli(*words, "--help", folder=tmp_path).stdout.split())
        assert "Exit codes: 0 succeeded, 1 the task failed" in help
    for words in (["gateway"], ["run"]):
        help = " ".join(cli(*words, "--help", folder=tmp_path).stdout.split())
        assert "Gateway processes that share the port." in help
