"""CSV exports: filter, totals, both formats, and what is refused."""

import json
import sqlite3
from contextlib import closing

import pytest

from queuecast.demo.exporting import ROWS_PER_REPORT, Filter, export

ORDERS = '\ufefforder,region,note,price\n1,north,"two\nlines",2.5\n2,south,,1\n\n3,NORTH,x,0.25\n'


def quiet(current, total, note):
    pass


@pytest.fixture
def orders(tmp_path):
    source = tmp_path / "orders.csv"
    source.write_text(ORDERS, encoding="utf-8")
    return source


def test_to_json_lines(orders, tmp_path):
    done = export(orders, tmp_path / "x.jsonl", "jsonl", Filter(), quiet)
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert rows[0] == {"order": "1", "region": "north", "note": "two\nlines", "price": "2.5"}
    assert (done.rows, done.kept, len(rows)) == (3, 3, 3)
    assert done.totals == {"order": 6.0, "price": 3.75}
    assert done.bytes == (tmp_path / "x.jsonl").stat().st_size


def test_to_sqlite_with_a_filter(orders, tmp_path):
    done = export(orders, tmp_path / "x.sqlite", "sqlite", Filter("region", "North"), quiet)
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as database:
        assert database.execute('SELECT "order", price FROM rows').fetchall() == [("1", "2.5"), ("3", "0.25")]
    assert (done.rows, done.kept, done.totals) == (3, 2, {"order": 4.0, "price": 2.75})


def test_rows_of_another_length_are_filled_or_cut(tmp_path):
    source = tmp_path / "ragged.csv"
    source.write_text("a,b\n1\n1,2,3\n")
    export(source, tmp_path / "x.jsonl", "jsonl", Filter(), quiet)
    assert (tmp_path / "x.jsonl").read_text() == '{"a": "1", "b": ""}\n{"a": "1", "b": "2"}\n'


def test_a_second_run_writes_the_same_file(orders, tmp_path):
    for _ in range(2):
        export(orders, tmp_path / "x.sqlite", "sqlite", Filter(), quiet)
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM rows").fetchone() == (3,)


def test_what_is_no_number_in_json_is_no_total(tmp_path):
    source = tmp_path / "measured.csv"
    source.write_text("a,b,c,d\n1,nan,inf,1e308\n2,3,1,1e308\n")
    assert export(source, tmp_path / "x.jsonl", "jsonl", Filter(), quiet).totals == {"a": 3.0}


def test_nothing_is_left_of_an_export_that_was_stopped(tmp_path):
    source = tmp_path / "long.csv"
    source.write_text("a\n" + "1\n" * 2 * ROWS_PER_REPORT)

    def stop(current, total, note):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        export(source, tmp_path / "x.jsonl", "jsonl", Filter(), stop)
    assert list(tmp_path.iterdir()) == [source]


def test_progress_goes_up_to_all_rows(tmp_path):
    source = tmp_path / "long.csv"
    source.write_text("a\n" + "1\n" * 3 * ROWS_PER_REPORT)
    seen = []
    export(source, tmp_path / "x.jsonl", "jsonl", Filter(), lambda *report: seen.append(report))
    assert [current for current, _, _ in seen] == [ROWS_PER_REPORT * n for n in (1, 2, 3, 3)]
    assert {total for _, total, _ in seen} == {3 * ROWS_PER_REPORT}


@pytest.mark.parametrize(
    ("text", "kept", "why"),
    [
        ("", Filter(), "is empty"),
        ("a,A\n1,2\n", Filter(), "names a column twice"),
        ("a,b\n1,2\n", Filter("c", "x"), "there is no column 'c'; there are a, b"),
        ('a\n"' + "x" * 200_000 + '"\n', Filter(), "is no CSV: field larger"),
    ],
)
def test_what_is_no_usable_csv_says_why(tmp_path, text, kept, why):
    source = tmp_path / "bad.csv"
    source.write_text(text)
    with pytest.raises(ValueError, match=why):
        export(source, tmp_path / "x.jsonl", "jsonl", kept, quiet)
