"""Word statistics, checked against texts one can count by hand."""

import pytest

from queuecast.demo import wordcount
from queuecast.demo.wordcount import BLOCK, count


def quiet(current, total, note):
    pass


def test_a_text_file(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The ship, the SHIP's lamp\nand don't 42!\n")
    found = count(text, 2, quiet)
    assert (found.files, found.lines, found.words, found.distinct) == (1, 2, 7, 6)
    assert found.top[0] == ("the", 2)
    assert len(found.top) == 2
    assert found.bytes == text.stat().st_size


def test_every_text_in_a_folder_but_hidden_and_foreign_ones(tmp_path):
    for name in ("a.txt", "deep/b.txt", ".git/c.txt", "node_modules/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("word ")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0word")
    found = count(tmp_path, 1, quiet)
    assert (found.files, found.skipped, found.top) == (2, 1, [("word", 2)])


@pytest.mark.parametrize("shift", range(6))
def test_a_word_across_two_blocks_is_one_word(tmp_path, shift):
    text = tmp_path / "long.txt"
    text.write_text("x" * 7 + " " * (BLOCK - 10 - shift) + "smörgåsbord" + " end")
    assert dict(count(text, 9, quiet).top) == {"xxxxxxx": 1, "smörgåsbord": 1, "end": 1}


def test_a_file_without_any_space_is_read_in_bounded_pieces(tmp_path):
    text = tmp_path / "one.txt"
    text.write_bytes(b"x" * (3 * BLOCK))
    assert count(text, 1, quiet).words == 3


def test_progress_goes_up_to_all_bytes(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(b"word " * BLOCK)
    seen = []
    count(tmp_path, 1, lambda current, total, note: seen.append((current, total, note)))
    currents = [current for current, _, _ in seen]
    assert currents == sorted(currents)
    assert {total for _, total, _ in seen} == {15 * BLOCK}
    assert currents[-1] == 15 * BLOCK
    assert seen[-1][2] == "c"


def test_what_cannot_be_counted_says_why(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="holds no files"):
        count(tmp_path, 1, quiet)
    monkeypatch.setattr(wordcount, "MAX_FILES", 1)
    for name in "ab":
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match="more than 1 files"):
        count(tmp_path, 1, quiet)
