"""`holdfast market`: exit codes and where its words go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("polars", reason="the market needs polars: install the extra [train]")

from market_kit import US_HEADER, market, run, us_row, write


def test_ingest_speaks_to_people_on_stderr_and_to_machines_on_stdout(tmp_path: Path) -> None:
    path = write(tmp_path / "one.csv", US_HEADER, [us_row(1), us_row(2), us_row(3, SELLINGPRICE="0")])
    done = market("ingest", path, "--into", tmp_path / "m", "--json")
    assert done.returncode == 0
    (entry,) = json.loads(done.stdout)
    assert (entry["added"], entry["rows"]) == (2, 3)
    assert "one.csv: 2 sales added (2014-12-18 to 2014-12-18)" in done.stderr
    assert "refused 1: a price of zero or below" in done.stderr
    again = run("ingest", path, "--into", tmp_path / "m")
    assert again.exit_code == 0 and "all 2 sales are there already, nothing added" in again.stderr
    assert again.stdout == ""


def test_what_cannot_be_meant_ends_with_two(tmp_path: Path) -> None:
    path = write(tmp_path / "one.csv", ["a", "b"], [["1", "2"]])
    folder = tmp_path / "m"
    for args, said in (
        (("ingest", tmp_path / "none.csv", "--into", folder), "no file none.csv"),
        (("ingest", path, "--into", folder), "no built-in mapping fits its columns (a, b)"),
        (
            ("ingest", path, "--into", folder, "--outliers", "maybe"),
            "--outliers is one of refuse, drop, keep",
        ),
        (("generate", "--into", folder, "--from", "2024"), "days are written 2024-06-30"),
        (("mapping", tmp_path / "none.csv"), "no file none.csv"),
    ):
        done = run(*args)
        assert done.exit_code == 2, args
        assert said in done.stderr and done.stdout == ""
    assert not (folder / "sales.parquet").exists()


def test_an_empty_folder_ends_with_one(tmp_path: Path) -> None:
    done = run("report", tmp_path)
    assert done.exit_code == 1 and "holds no sales; fill it with" in done.stderr


def test_a_mapping_to_fill_in_goes_to_stdout_and_works(tmp_path: Path) -> None:
    header = ["Make", "Model", "Sold", "Price", "Fahrgestell", "Mileage"]
    rows = [["B", "S", f"0{n}.02.2024", "9000", f"wvgzzz5nzew{n:06d}", "88000"] for n in range(1, 6)]
    path = write(tmp_path / "cars.csv", header, rows)
    done = run("mapping", path)
    assert done.exit_code == 0 and "wvgzzz" not in done.stdout.lower()
    (tmp_path / "cars.toml").write_text(done.stdout, "utf-8")
    taken = run("ingest", path, "--into", tmp_path / "m", "--mapping", tmp_path / "cars.toml")
    assert taken.exit_code == 0, taken.stderr
    assert "5 sales added (2024-02-01 to 2024-02-05)" in taken.stderr
