"""Starting, dying and stopping: gateway and worker as real processes."""

import json
import os
import re
import signal
import socket
import sys
import urllib.request

import pytest

from .making import SHOP, cli, free_port, shop_running, started, url_of

SEVERAL = ("--workers", 2)


def submit(folder, port, *arguments):
    return cli("submit", "reports", *arguments, folder=folder, QUEUECAST_URL=url_of(port))


def pid_of_worker(folder, port):
    return int(submit(folder, port, "pid", "--watch").stdout)


def test_a_killed_worker_is_started_again_and_its_task_runs_again(tmp_path):
    port = free_port()
    with shop_running(tmp_path, port) as shop:
        first = pid_of_worker(tmp_path, port)
        arguments = ("render", "--arg", "report_id=6", "--arg", "steps=40", "--watch", "--url", url_of(port))
        with started("submit", "reports", *arguments, folder=tmp_path) as watching:
            watching.until(r"running \d+/40")
            os.kill(first, signal.SIGKILL)
            shop.until("SIGKILL: starting it again at once")
            watching.until("running 0/40")
            assert watching.wait() == 0
            assert watching.process.stdout.read() == '{"report":6}\n'
        assert pid_of_worker(tmp_path, port) != first


def test_a_worker_that_dies_again_and_again_is_started_more_slowly(tmp_path):
    port = free_port()
    with shop_running(tmp_path, port) as shop:
        for when in ("at once", "in 0.5 seconds", "in 1 seconds"):
            os.kill(pid_of_worker(tmp_path, port), signal.SIGKILL)
            shop.until(f"starting it again {when}")


@pytest.mark.parametrize("options", [(), SEVERAL])
def test_nobody_outlives_the_parent_however_that_ends(tmp_path, options):
    port = free_port()
    with shop_running(tmp_path, port, *options) as shop:
        submit(tmp_path, port, "block")
        shop.send(signal.SIGKILL)
        # The children hold the same stderr, which ends only when all are gone.
        assert "Traceback" not in shop.rest()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_both_and_the_running_task_finishes(tmp_path, number):
    port = free_port()
    with shop_running(tmp_path, port) as shop:
        arguments = ("render", "--arg", "report_id=6", "--arg", "steps=100", "--json")
        task = json.loads(submit(tmp_path, port, *arguments).stdout)
        with started("watch", "reports", "--task", task["id"], "--url", url_of(port), folder=tmp_path) as watching:
            watching.until(r"running \d+/100")
        # With nobody watching the gateway is gone long before the task is done.
        shop.send(number)
        assert shop.wait() == 0
        assert "starting it again" not in shop.rest()
        with shop_running(tmp_path, port):
            told = cli("watch", "reports", "--task", task["id"], "--json", "--url", url_of(port), folder=tmp_path)
            runs = {event["run"] for event in map(json.loads, told.stdout.splitlines()) if event.get("run")}
            assert (told.returncode, len(runs)) == (0, 1)


def test_a_second_signal_stops_a_worker_at_once(tmp_path):
    port = free_port()
    submitting = ("submit", "reports", "stubborn", "--watch", "--url", url_of(port))
    with shop_running(tmp_path, port) as shop, started(*submitting, folder=tmp_path) as watching:
        watching.until("^running")
        shop.send(signal.SIGTERM)
        shop.until("stopping")
        shop.send(signal.SIGTERM)
        assert shop.wait() == 0


@pytest.mark.parametrize("name", ["stubborn", "block"])
def test_a_handler_that_refuses_to_end_does_not_hold_up_the_end(tmp_path, name):
    port = free_port()
    program = "import queuecast.cli.working as w; w.STOP_SECONDS = 0.2; from queuecast.cli import main; main()"
    argv = [sys.executable, "-c", program, "worker", SHOP]
    with (
        started("gateway", SHOP, "--port", port, folder=tmp_path) as gateway,
        started(argv=argv, folder=tmp_path) as worker,
    ):
        gateway.until("listening")
        worker.until("is ready")
        with started("submit", "reports", name, "--watch", "--url", url_of(port), folder=tmp_path) as watching:
            watching.until("^running")
            worker.send(signal.SIGTERM)
            assert worker.wait() == 128 + signal.SIGTERM


def test_nothing_is_missed_or_repeated_while_the_gateway_is_killed_and_comes_back(tmp_path):
    port = free_port()
    serving = ("gateway", SHOP, "--port", port)
    with started("worker", SHOP, folder=tmp_path) as worker, started(*serving, folder=tmp_path) as gateway:
        worker.until("is ready")
        gateway.until("listening")
        arguments = ("render", "--arg", "report_id=1", "--arg", "steps=100", "--watch", "--json")
        with started("submit", "reports", *arguments, "--url", url_of(port), folder=tmp_path) as watching:
            events = [json.loads(watching.process.stdout.readline()) for _ in range(10)]
            gateway.send(signal.SIGKILL)
            watching.until("the stream is interrupted")
            with started(*serving, folder=tmp_path):
                events += map(json.loads, watching.process.stdout)
                assert watching.wait() == 0
                watching.until("connected again")
    assert events[-1]["type"] == "result"
    assert [event["seq"] for event in events if event.get("run")] == list(range(1, events[-1]["seq"] + 1))


def test_a_gateway_without_the_application_learns_its_queues_from_the_worker(tmp_path):
    port = free_port()
    broker = f"sqlite:///{tmp_path}/elsewhere.db"
    with (
        started("worker", SHOP, "--broker", broker, folder=tmp_path) as worker,
        started("gateway", "--port", port, folder=tmp_path, QUEUECAST_BROKER=broker) as gateway,
    ):
        worker.until("is ready")
        gateway.until("listening")
        assert submit(tmp_path, port, "render", "--arg", "report_id=3", "--watch").stdout == '{"report":3}\n'
    assert not (tmp_path / "queuecast.db").exists()


def test_the_demo_serves_its_page_and_runs_its_queues(tmp_path):
    port = free_port()
    with started("demo", "--folder", tmp_path / "here", "--port", port, folder=tmp_path) as demo:
        demo.until("is ready")
        with urllib.request.urlopen(url_of(port), timeout=10) as page:
            assert page.headers.get_content_type() == "text/html"
        spoken = cli(
            "submit", "stream", "speak", "--arg", "text=a b", "--watch", "--url", url_of(port), folder=tmp_path
        )
        assert spoken.stdout.splitlines() == ["a ", "b ", "null"]
        demo.send(signal.SIGINT)
        assert demo.wait() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "shopp:qc"], 3, "there is no module 'shopp'"),
        (["run", "shop.py:qc"], 3, "as in shop:qc"),
        (["run", "shop"], 3, "write shop:qc"),
        (["run", "shop:q"], 3, "did you mean shop:qc?"),
        (["run", "shop:other"], 3, "shop:other is no Queuecast but of type object: write shop:qc"),
        (["run", "broken:qc"], 3, "broken.py, line 2: ZeroDivisionError"),
        (["run", "unreadable:qc"], 3, "unreadable.py, line 1"),
        (["run", "needy:qc"], 3, "No module named 'not_installed'"),
        (["run"], 2, "MODULE:QC"),
        (["run", SHOP, "--port", "many"], 2, "'--port'"),
        (["run", "misnamed:qc"], 3, "misnamed.py, line 2"),
        (["run", SHOP, "--broker", "redis://x"], 2, "no broker for 'redis://x'"),
        (["run", SHOP, "--host", "0.0.0.0"], 2, "--insecure"),
        (["gateway", "--host", "::"], 2, "authenticate="),
        (["demo", "--host", "192.0.2.1"], 2, "--insecure"),
        (["gateway", "--workers", "2", "--broker", "memory://"], 2, "use sqlite:///work.db"),
        (["worker", SHOP, "--queue", "nope"], 2, "no queue named nope"),
        (["worker", SHOP, "--concurrency", "0"], 2, ">= 1"),
    ],
)
def test_what_cannot_start_says_what_to_do(tmp_path, arguments, code, words):
    (tmp_path / "broken.py").write_text("\n1 / 0\n")
    (tmp_path / "unreadable.py").write_text("def\n")
    (tmp_path / "needy.py").write_text("import not_installed\n")
    (tmp_path / "misnamed.py").write_text("from queuecast import Queuecast\nqc = Queuecast().queue('No Name')\n")
    answer = cli(*arguments, folder=tmp_path)
    assert answer.returncode == code
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("options", [(), SEVERAL])
def test_a_worker_that_cannot_start_ends_the_whole(tmp_path, options):
    answer = cli("run", SHOP, "--port", free_port(), "--queue", "nope", *options, folder=tmp_path)
    assert answer.returncode == 3
    assert "no queue named nope" in answer.stderr
    assert "the worker cannot start" in answer.stderr


def test_a_gateway_that_cannot_start_ends_the_whole(tmp_path):
    (tmp_path / "moody.py").write_text(
        "import sys\nfrom shop import qc\nif '--parent' in sys.argv: raise ValueError('not here')\n"
    )
    answer = cli("gateway", "moody:qc", "--port", free_port(), *SEVERAL, folder=tmp_path)
    assert answer.returncode == 3
    assert "moody.py, line 3: ValueError: not here" in answer.stderr
    assert re.search("error: gateway [12] cannot start", answer.stderr)
    assert "starting it again" not in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "processes"), [(("worker",), 1), (("run", "--port", 0), 1), (("run", "--port", 0, *SEVERAL), 3)]
)
def test_a_database_that_is_taken_away_ends_a_worker_that_says_what_to_do(tmp_path, arguments, processes):
    (tmp_path / "hasty.py").write_text(
        "from queuecast.brokers.sqlite import duties\nduties.LEASE_SECONDS = 1.0\nfrom shop import qc\n"
    )
    command, *options = [free_port() if each == 0 else each for each in arguments]
    with started(command, "hasty:qc", *options, folder=tmp_path) as program:
        for _ in range(processes):
            # Whoever is not there yet would make a new one.
            program.until("is ready|accepts connections")
        (tmp_path / "queuecast.db").unlink()
        assert program.wait() == 8
        said = program.rest()
        assert "error: " + str(tmp_path / "queuecast.db") + " was deleted, moved or replaced" in said
        assert "starting it again" not in said


def test_each_of_several_processes_answers_on_the_one_port(tmp_path):
    port = free_port()
    with started("gateway", SHOP, "--port", port, *SEVERAL, folder=tmp_path) as gateway:
        gateway.until(f"listening on {url_of(port)} with sqlite:.*, in 2 processes")
        pids = [int(gateway.until("accepts connections").split("process ")[1].split()[0]) for _ in range(2)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            # Who answers is the other one.
            with urllib.request.urlopen(f"{url_of(port)}/livez", timeout=10) as alive:
                assert alive.status == 200
            os.kill(pid, signal.SIGCONT)
        gateway.send(signal.SIGTERM)
        assert gateway.wait() == 0
        assert len({*pids, gateway.process.pid}) == 3
        assert gateway.rest() == ""


def test_a_process_that_does_not_stop_is_killed(tmp_path):
    port = free_port()
    program = "import queuecast.cli.child as c; c.STOP_SECONDS = 0.5; from queuecast.cli import main; main()"
    argv = [sys.executable, "-c", program, "gateway", SHOP, "--port", str(port), "--workers", "2"]
    with started(argv=argv, folder=tmp_path) as gateway:
        lines = [gateway.until("accepts connections") for _ in range(2)]
        os.kill(int(lines[0].split("process ")[1].split()[0]), signal.SIGSTOP)
        gateway.send(signal.SIGTERM)
        gateway.until("gateway [12] did not stop within")
        assert gateway.wait() == 0
        assert gateway.rest() == ""


@pytest.mark.parametrize("options", [(), SEVERAL])
def test_an_address_that_is_taken(tmp_path, options):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = cli("run", SHOP, "--port", port, *options, folder=tmp_path)
    assert answer.returncode == 3
    assert f"cannot listen on 127.0.0.1:{port}: address already in use. Stop what listens there" in answer.stderr
    assert "listening" not in answer.stderr
    assert "Traceback" not in answer.stderr


def test_with_a_login_of_its_own_an_application_may_listen_anywhere(tmp_path):
    (tmp_path / "guarded.py").write_text(
        "from queuecast import Queuecast\n"
        "async def who(connection): return None\n"
        "qc = Queuecast(authenticate=who)\n"
        "qc.queue('reports')\n"
    )
    port = free_port()
    with started("gateway", "guarded:qc", "--host", "0.0.0.0", "--port", port, folder=tmp_path) as gateway:
        gateway.until("listening")
        answer = cli("queues", "--url", url_of(port), folder=tmp_path)
        assert (answer.returncode, answer.stderr) == (2, "error: log in first\n")


@pytest.mark.parametrize("scheme", ["amqp", "kafka"])
def test_a_broker_that_nobody_runs_is_told_with_what_to_do(tmp_path, scheme):
    answer = cli("gateway", "--broker", f"{scheme}://127.0.0.1:{free_port()}", "--port", free_port(), folder=tmp_path)
    assert answer.returncode == 4
    error, what_to_do = answer.stderr.splitlines()[-2:]
    assert error.startswith("error: ")
    assert what_to_do == "Is the broker running? Start it, or choose another with --broker or QUEUECAST_BROKER."
    assert "%3|" not in answer.stderr, "what Kafka's client would say by itself"
