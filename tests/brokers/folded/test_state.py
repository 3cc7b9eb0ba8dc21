"""Where a process keeps what it has folded: a slot of its own, which its successor takes over."""

import logging
import os
import subprocess
import sys
from stat import S_IMODE

import pytest

from queuecast.brokers.folded.state import cache_folder, state_for

URL = "amqp://guest:secret@localhost/"


@pytest.fixture
def claim(tmp_path, cleanup):
    claimed = []

    def claim(url: str = URL):
        claimed.append(state := state_for(url, str(tmp_path)))
        return state

    yield claim
    for state in claimed:
        state.close()


def test_a_process_takes_over_the_slot_of_its_predecessor(claim):
    first = claim()
    first.close()
    assert claim().folder == first.folder


def test_processes_at_the_same_time_have_a_slot_each(claim):
    one, two = claim(), claim()
    assert one.folder != two.folder
    one.close()
    assert claim().folder == one.folder


def test_a_slot_is_free_when_its_process_is_killed(claim, tmp_path):
    code = (
        "import sys; from queuecast.brokers.folded.state import state_for;"
        f"print(state_for({URL!r}, {str(tmp_path)!r}).folder, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        folder = other.stdout.readline().strip()
        assert str(claim().folder) != folder
        other.kill()
        other.wait()
        assert str(claim().folder) == folder


def test_each_broker_has_a_folder_of_its_own_whatever_the_password(claim):
    one = claim()
    assert claim("amqp://guest:secret@localhost/other").folder.parent != one.folder.parent
    assert claim("amqp://guest:changed@localhost/?state=x").folder.parent == one.folder.parent
    assert "secret" not in str(one.folder)


def test_only_the_user_may_read_it(claim):
    state = claim()
    table = state.table("reports")
    table.open()
    table.close()
    assert S_IMODE(os.stat(state.folder).st_mode) == S_IMODE(os.stat(state.folder.parent).st_mode) == 0o700
    assert {S_IMODE(os.stat(file).st_mode) for file in state.folder.iterdir()} == {0o600}


def test_a_folder_that_cannot_be_used_is_replaced_by_a_temporary_one(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        state = state_for(URL, str(tmp_path / "file"))
    assert len(caplog.messages) == 1
    assert state.folder.is_dir()
    state.close()
    assert not state.folder.exists()
    state.close()


def test_it_lies_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "queuecast"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "queuecast"
