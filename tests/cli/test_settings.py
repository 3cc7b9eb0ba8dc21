"""Flag before variable before file before default, and nothing unknown."""

import pytest

from queuecast.errors import ConfigurationError
from queuecast.settings import Settings, load_settings


def test_defaults_where_nothing_is_said(tmp_path):
    assert load_settings({}, {}, tmp_path) == Settings()


def test_each_source_beats_the_one_below(tmp_path):
    (tmp_path / "queuecast.toml").write_text('port = 1\nhost = "a"\nurl = "http://file"\nlog_level = "debug"\n')
    environ = {"QUEUECAST_PORT": "2", "QUEUECAST_HOST": "b", "PORT": "9"}
    settings = load_settings({"port": 3, "host": None, "queue": []}, environ, tmp_path)
    assert settings == Settings(port=3, host="b", url="http://file", log_level="debug")


def test_pyproject_counts_without_a_file_of_our_own(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.queuecast]\nqueue = ["a", "b"]\n[tool.other]\nx = 1\n')
    assert load_settings({}, {}, tmp_path).queue == ("a", "b")
    (tmp_path / "queuecast.toml").write_text("concurrency = 5\n")
    assert load_settings({}, {}, tmp_path) == Settings(concurrency=5)


def test_variables_are_read_as_their_type(tmp_path):
    environ = {"QUEUECAST_QUEUE": "a,b", "QUEUECAST_INSECURE": "true", "QUEUECAST_CONCURRENCY": "7"}
    assert load_settings({}, environ, tmp_path) == Settings(queue=("a", "b"), insecure=True, concurrency=7)


def test_what_our_processes_hand_to_each_other_is_no_mistake(tmp_path):
    assert load_settings({}, {"QUEUECAST_DEMO_FOLDER": "7"}, tmp_path) == Settings()


@pytest.mark.parametrize(
    ("flags", "environ", "file", "words"),
    [
        ({}, {"QUEUECAST_BROKR": "x"}, "", ["QUEUECAST_BROKR", "did you mean QUEUECAST_BROKER?"]),
        ({}, {}, "prot = 1", ["queuecast.toml: prot", "did you mean port?"]),
        ({}, {}, "zzz = 1", ["queuecast.toml: zzz", "there are broker, host, port"]),
        ({}, {}, 'log-level = "info"', ["did you mean log_level?"]),
        ({}, {"QUEUECAST_PORT": "many"}, "", ["QUEUECAST_PORT = 'many'", "int"]),
        ({}, {"QUEUECAST_PORT": "70000"}, "", ["QUEUECAST_PORT = '70000'", "<= 65535"]),
        ({"port": 0}, {}, "", ["--port = 0", ">= 1"]),
        ({"workers": 0}, {}, "", ["--workers = 0", ">= 1"]),
        ({}, {"QUEUECAST_WORKERS": "many"}, "", ["QUEUECAST_WORKERS = 'many'", "int"]),
        ({}, {}, "workers = -1", ["queuecast.toml: workers = -1", ">= 1"]),
        ({"log_level": "loud"}, {}, "", ["--log-level = 'loud'"]),
        ({}, {}, 'host = ""', ["host = ''", "length >= 1"]),
        ({}, {}, "port = ", ["queuecast.toml cannot be read"]),
    ],
)
def test_what_is_unknown_or_unusable_is_refused_by_name(tmp_path, flags, environ, file, words):
    if file:
        (tmp_path / "queuecast.toml").write_text(file)
    with pytest.raises(ConfigurationError) as refused:
        load_settings(flags, environ, tmp_path)
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize("text", ["tool = 5\n", "[tool]\nqueuecast = 5\n"])
def test_a_pyproject_without_a_table_of_ours_is_told_so(tmp_path, text):
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"tool\.queuecast"):
        load_settings({}, {}, tmp_path)
