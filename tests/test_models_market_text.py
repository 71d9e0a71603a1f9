"""Files of unknown making: compression, encoding, separators, quotes, broken lines."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("polars", reason="the market needs polars: install the extra [train]")

from market_kit import text

from models.errors import MarketError
from models.market.cleaning import Reason
from models.runtime.market_text import MAX_RECORD_LINES, Broken, Table, probe, unpacked_size

Rows = list[tuple[int, list[str]]]


def read(path: Path) -> tuple[list[str], Rows, list[Broken]]:
    """Header, rows and broken lines as the ingest sees them."""
    table = Table(path, probe(path, lambda _: None).encoding)
    items = list(table)
    table.close()
    rows = [item for item in items if not isinstance(item, Broken)]
    return table.header, rows, [item for item in items if isinstance(item, Broken)]


@pytest.mark.parametrize(
    ("encoding", "word", "found"),
    [
        ("utf-8", "上海 é", "utf-8"),
        ("utf-8-sig", "上海", "utf-8"),
        ("gb18030", "上海大众", "gb18030"),
        ("cp1252", "Citroën Coupé", "cp1252"),
        ("utf-16", "上海", "utf-16"),
        ("ascii", "plain", "utf-8"),
    ],
)
def test_encodings_are_told_apart(tmp_path: Path, encoding: str, word: str, found: str) -> None:
    path = tmp_path / "sales.csv"
    path.write_bytes(text(["a", "b"], [[word, str(number)] for number in range(30)]).encode(encoding))
    assert probe(path, lambda _: None).encoding == found
    header, rows, broken = read(path)
    assert header == ["a", "b"] and rows[3][1] == [word, "3"] and not broken


def test_one_damaged_byte_does_not_make_a_file_chinese(tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    data = text(["a", "b"], [["上海大众", str(number)] for number in range(200)]).encode()
    path.write_bytes(data.replace("上".encode(), b"\xe4\xb8", 1))
    assert probe(path, lambda _: None).encoding == "utf-8"
    _, rows, _ = read(path)
    assert rows[5][1] == ["上海大众", "5"]


def test_gzip_bom_crlf_and_a_quoted_line_break(tmp_path: Path) -> None:
    path = tmp_path / "sales.csv.gz"
    path.write_bytes(gzip.compress('\ufeffa,b\r\n"one\r\ntwo",2\r\n\r\n"x ""y""",3\r\n'.encode()))
    header, rows, broken = read(path)
    assert header == ["a", "b"] and not broken
    assert rows == [(2, ["one\r\ntwo", "2"]), (5, ['x "y"', "3"])]
    assert unpacked_size(path) == len(gzip.decompress(path.read_bytes()))


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_separators(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "sales.csv"
    path.write_text(text(["a", "b", "c"], [["1,5", "x", "y"]], delimiter), "utf-8")
    assert read(path)[1] == [(2, ["1,5", "x", "y"])]


def test_too_few_and_too_many_fields_are_named_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    path.write_text("a,b,c\n1,2,3\n1,2\n1,2,3,4\n4,5,6\n", "utf-8")
    _, rows, broken = read(path)
    assert [line for line, _ in rows] == [2, 5]
    assert [(one.line, one.reason) for one in broken] == [(3, Reason.FIELDS), (4, Reason.FIELDS)]
    assert "4 fields, the header has 3" in broken[1].detail


@pytest.mark.parametrize("tail", [0, 5, MAX_RECORD_LINES * 3])
def test_a_quotation_mark_nobody_closed_costs_one_row(tmp_path: Path, tail: int) -> None:
    path = tmp_path / "sales.csv"
    lines = ["a,b", "1,2", '3,"4', *(f"{number},x" for number in range(tail))]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    _, rows, broken = read(path)
    assert [fields for _, fields in rows] == [["1", "2"], *([str(number), "x"] for number in range(tail))]
    assert [one.line for one in broken] == [3]


@pytest.mark.parametrize("data", [b"", b"\n", b"one column\n1\n", b"a,a\n1,2\n"])
def test_what_is_no_table_is_said(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "sales.csv"
    path.write_bytes(data)
    with pytest.raises(MarketError, match=r"no header of a table|a column twice"):
        Table(path, "utf-8")


def test_a_compressed_file_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sales.csv.gz"
    whole = gzip.compress(text(["a", "b"], [[str(n * 7919 % 10007), str(n)] for n in range(5000)]).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MarketError, match="cut off or damaged"):
        probe(path, lambda _: None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_crash_the_reader(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "sales.csv"
    path.write_bytes(b"a,b,c\n" + data)
    header, rows, broken = read(path)
    assert all(len(fields) == len(header) for _, fields in rows)
    assert all(one.line >= 1 for one in broken)


plain = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(st.tuples(plain, plain, plain), min_size=1, max_size=8))
def test_what_is_written_is_read(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    path = tmp_path / "sales.csv"
    path.write_text(text(["a", "b", "c"], rows), "utf-8")
    table = Table(path, "utf-8")
    items = list(table)
    table.close()
    assert [list(item[1]) for item in items if not isinstance(item, Broken)] == [list(row) for row in rows]
