"""Files into a market folder: whole or not at all, once, and with no vehicle number behind the door."""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import gzip
import io
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("polars", reason="the market needs polars: install the extra [train]")

import numpy as np
import polars as pl
from market_kit import (
    CN_HEADER,
    US_HEADER,
    cn_row,
    command,
    contents,
    environment,
    market,
    run,
    text,
    us_row,
    us_vin,
    write,
)  # fmt: skip
from polars.testing import assert_frame_equal

from models.errors import Busy, MappingError, MarketError
from models.market.cleaning import Reason
from models.runtime import market_store as store
from models.runtime.market_ingest import ingest

VIN = re.compile(rb"[A-HJ-NPR-Z0-9]{13}[0-9]{4}", re.IGNORECASE)
KEY = bytes(range(32))


def us_file(path: Path, numbers: range, **changes: str) -> Path:
    return write(path, US_HEADER, [us_row(number, **changes) for number in numbers])


def assert_no_number(data: bytes, numbers: list[str]) -> None:
    """None of these vehicle numbers stands in `data`, in any case."""
    windows = set(re.findall(rb"(?=([0-9a-z]{17}))", data.lower()))
    assert not windows & {one.lower().encode() for one in numbers}


# --- the shared files ---------------------------------------------------------------------------------


def test_chinese_listings(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    (done,) = ingest([shared_data("cars/cn_listings.csv.gz")], tmp_path / "m")
    assert (done.mapping, done.rows, done.added) == ("cn", 24_938, 24_934)
    assert done.refused == {Reason.PRICE_RATIO.value: 4}
    sales = store.read_sales(tmp_path / "m")
    assert sales["brand"].n_unique() == 119 and sales["model"].n_unique() == 7928
    assert sales["region"].n_unique() == 88
    assert str(sales["seen_on"].min()) == "2020-01-01" and str(sales["seen_on"].max()) == "2021-05-20"
    again = sales.height - sales["car"].n_unique()
    assert abs(again / sales.height - 0.099) < 0.001
    assert sales["seen_on"].is_sorted()


def test_american_auctions(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    files = [
        shared_data(f"cars/us_auction_{name}_sales.csv.gz") for name in ("toyota_camry", "honda_odyssey")
    ]
    folder = tmp_path / "m"
    done = ingest(files, folder)
    assert [one.added for one in done] == [8680, 2672]
    assert all(not one.refused for one in done)
    sales = store.read_sales(folder)
    assert sales["odometer_km"].null_count() == 26 and sales["condition"].null_count() == 349
    assert sales["condition"].min() == 10.0 and sales["condition"].max() == 50.0
    numbers = [
        row["VIN"]
        for file in files
        for row in csv.DictReader(io.StringIO(gzip.decompress(file.read_bytes()).decode("utf-8-sig")))
    ]
    assert len(numbers) == 11_352 and len(set(numbers)) == sales["car"].n_unique()
    assert_no_number(contents(folder), numbers)
    assert_no_number(sales.write_csv().encode(), numbers)
    rest = sales.drop("car", "row_id").write_csv().encode()
    assert not VIN.search(rest)


def test_shifted_columns_of_the_field(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    path, folder = shared_data("field/F29.csv"), tmp_path / "m"
    done = market("ingest", path, "--into", folder, "--json")
    assert done.returncode == 0, done.stderr
    record = store.read_record(folder)
    assert record is not None
    (entry,) = record.ingests
    # Lines 3 and 4 of the file are its rows 2 and 3.
    assert [(line, reason) for line, reason, _, _ in entry.listed] == [
        (3, Reason.FIELDS.value),
        (4, Reason.VIN_ELSEWHERE.value),
    ]
    sales = store.read_sales(folder)
    assert sorted(sales["price"].to_list()) == [13500.0, 17400.0, 20100.0]
    by_price = {row["price"]: row for row in sales.iter_rows(named=True)}
    assert by_price[20100.0]["seller"] == "example, motors inc"
    assert by_price[17400.0]["gearbox"] is None and by_price[17400.0]["colour"] is None
    numbers = [one.decode() for one in VIN.findall(path.read_bytes())]
    assert len(numbers) == 5
    report = run("report", folder, "--json", tmp_path / "r.json")
    for said in (done.stdout, done.stderr, report.stdout, report.stderr):
        assert_no_number(said.encode(), numbers)
    assert_no_number(contents(tmp_path), numbers)


# --- once, and in any order ---------------------------------------------------------------------------


def test_the_same_file_again_adds_nothing_and_a_second_adds_its_rows(tmp_path: Path) -> None:
    one = us_file(tmp_path / "one.csv", range(30))
    two = us_file(tmp_path / "two.csv", range(20, 50))
    folder = tmp_path / "m"
    assert ingest([one], folder)[0].added == 30
    before = contents(folder)
    again = ingest([one], folder)[0]
    assert (again.added, again.again) == (0, 30)
    assert contents(folder) == before
    second = ingest([two], folder)[0]
    assert (second.added, second.again) == (20, 10)
    assert store.read_sales(folder).height == 50


def test_the_order_of_files_and_of_rows_does_not_show(tmp_path: Path) -> None:
    rows = [us_row(number, SALEDATE=f"2015-01-{1 + number % 9:02d}") for number in range(40)]
    parts = [write(tmp_path / f"{at}.csv", US_HEADER, rows[at * 20 : at * 20 + 20]) for at in range(2)]
    whole = write(tmp_path / "whole.csv", US_HEADER, rows[::-1])
    ingest(parts, tmp_path / "a", key=KEY)
    ingest(parts[::-1], tmp_path / "b", key=KEY)
    ingest([whole], tmp_path / "c", key=KEY)
    first = store.read_sales(tmp_path / "a")
    assert_frame_equal(first, store.read_sales(tmp_path / "b"))
    assert_frame_equal(first, store.read_sales(tmp_path / "c"))


def test_rows_sort_alike_under_another_key(tmp_path: Path) -> None:
    path = us_file(tmp_path / "one.csv", range(40))
    ingest([path], tmp_path / "a", key=KEY)
    ingest([path], tmp_path / "b")
    one, two = (store.read_sales(tmp_path / name).drop("car", "row_id") for name in "ab")
    assert_frame_equal(one, two)


def test_the_same_row_twice_in_a_file_counts_once(tmp_path: Path) -> None:
    path = write(tmp_path / "one.csv", US_HEADER, [us_row(1), us_row(2), us_row(1)])
    done = ingest([path], tmp_path / "m")[0]
    assert (done.added, done.again) == (2, 1)


def test_extra_numbers_of_files_are_united(tmp_path: Path) -> None:
    base = (
        'currency = "EUR"\n[columns.seen_on]\ncolumn = "d"\n[columns.price]\ncolumn = "p"\n[columns.brand]\n'
        'column = "b"\n[columns.series]\ncolumn = "s"\n[extra]\n'
    )
    for name, extra in (("one", "x_doors"), ("two", "x_weight")):
        (tmp_path / f"{name}.toml").write_text(f'{base}{extra} = "e"\n', "utf-8")
        write(tmp_path / f"{name}.csv", ["d", "p", "b", "s", "e"], [["2024-01-02", "900", "B", name, "4"]])
        ingest([tmp_path / f"{name}.csv"], tmp_path / "m", tmp_path / f"{name}.toml")
    sales = store.read_sales(tmp_path / "m")
    assert sales["x_doors"].null_count() == sales["x_weight"].null_count() == 1


# --- one writer, killed at any point --------------------------------------------------------------------


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path, folder = us_file(tmp_path / "one.csv", range(5)), tmp_path / "m"
    with store.writing(folder):
        with pytest.raises(Busy, match="another process writes"):
            ingest([path], folder)
        assert run("ingest", path, "--into", folder).exit_code == 12
    assert ingest([path], folder)[0].added == 5


@pytest.mark.crash
@pytest.mark.timeout(240)
@pytest.mark.parametrize("sign", ["key", "sales.parquet", "sales.parquet.part"])
def test_killed_at_any_point_the_folder_is_before_or_after(tmp_path: Path, sign: str) -> None:
    files = [us_file(tmp_path / f"{at}.csv", range(at * 4000, at * 4000 + 4000)) for at in range(2)]
    folder = tmp_path / "m"
    child = subprocess.Popen(
        command("ingest", *files, "--into", folder), env=environment(), stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 100
    while not (folder / sign).exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGKILL)
    child.wait()
    record = store.read_record(folder)
    held = store.read_sales(folder).height if record else 0
    assert held == sum(one.added for one in record.ingests) if record else held == 0
    assert held in (0, 4000, 8000)
    ingest(files, folder)
    assert store.read_sales(folder).height == 8000
    assert store.read_sales(folder)["car"].n_unique() == 8000


def test_a_disk_that_refuses_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "m"
    ingest([us_file(tmp_path / "one.csv", range(5))], folder)
    before = (folder / store.SALES).read_bytes()

    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(MarketError, match="No space left on device; free space"):
        ingest([us_file(tmp_path / "two.csv", range(5, 9))], folder)
    monkeypatch.undo()
    assert (folder / store.SALES).read_bytes() == before


# --- what is refused whole ------------------------------------------------------------------------------


def test_no_mapping_fits(tmp_path: Path) -> None:
    path = write(tmp_path / "cars.csv", ["Marke", "Preis", "WVGZZZ5NZEW000017"], [["B", "1", "x"]])
    with pytest.raises(MappingError) as caught:
        ingest([path], tmp_path / "m")
    assert "Marke, Preis, aaaaaa9aaaa999999" in str(caught.value)
    assert "holdfast market mapping cars.csv" in str(caught.value)


def test_a_mapping_of_another_file(tmp_path: Path) -> None:
    path = us_file(tmp_path / "one.csv", range(3))
    with pytest.raises(MappingError, match="reads columns that are not there: tradetime"):
        ingest([path], tmp_path / "m", "cn")
    with pytest.raises(MappingError, match="name a TOML file, or one of cn, us"):
        ingest([path], tmp_path / "m", "de")


def test_labels_shifted_by_a_column(tmp_path: Path) -> None:
    rows = [cn_row(number) for number in range(300)]
    path = write(tmp_path / "cn.csv", CN_HEADER, [[row[-1], *row[:-1]] for row in rows])
    with pytest.raises(MarketError, match=r"300 of 300 rows would be refused .* Nothing was taken in"):
        ingest([path], tmp_path / "m")
    assert store.read_record(tmp_path / "m") is None


def test_mileage_in_another_unit(tmp_path: Path) -> None:
    path = write(tmp_path / "cn.csv", CN_HEADER, [cn_row(n, mileage=str(50_000 + n)) for n in range(300)])
    with pytest.raises(MarketError, match="odometer_km lies outside its range in 300 of 300 rows"):
        ingest([path], tmp_path / "m")


def test_prices_in_another_unit(tmp_path: Path) -> None:
    rows = [cn_row(number, price=str(70_000 + number), newprice="169800") for number in range(300)]
    with pytest.raises(MarketError, match="300 x an absurd price"):
        ingest([write(tmp_path / "cn.csv", CN_HEADER, rows)], tmp_path / "m")


def test_another_currency(tmp_path: Path) -> None:
    ingest([us_file(tmp_path / "us.csv", range(5))], tmp_path / "m")
    path = write(tmp_path / "cn.csv", CN_HEADER, [cn_row(number) for number in range(5)])
    with pytest.raises(MarketError, match="its prices are CNY, the folder's are USD"):
        ingest([path], tmp_path / "m")
    assert store.read_sales(tmp_path / "m").height == 5


def test_a_poisoned_batch(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    ingest([write(tmp_path / "old.csv", US_HEADER, [us_row(number) for number in range(1200)])], folder)
    rows = [
        us_row(number, SELLINGPRICE="1350" if number % 20 == 0 else "13500") for number in range(2000, 2400)
    ]
    path = write(tmp_path / "new.csv", US_HEADER, rows)
    with pytest.raises(MarketError, match=r"20 of 400 prices are under a quarter .* poisoned file"):
        ingest([path], folder)
    assert store.read_sales(folder).height == 1200
    done = ingest([path], folder, outlier_policy="drop")[0]
    assert (done.added, done.refused) == (380, {Reason.OUTLIER.value: 20})
    assert store.read_sales(folder)["price"].min() == 13000.0


def test_a_poisoned_first_batch_is_seen_too(tmp_path: Path) -> None:
    rows = [us_row(number, SELLINGPRICE="1350" if number % 20 == 0 else "13500") for number in range(400)]
    with pytest.raises(MarketError, match="20 of 400 prices"):
        ingest([write(tmp_path / "new.csv", US_HEADER, rows)], tmp_path / "m")
    assert ingest([tmp_path / "new.csv"], tmp_path / "m", outlier_policy="keep")[0].added == 400


def test_a_crash_is_no_poison(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    ingest([write(tmp_path / "old.csv", US_HEADER, [us_row(number) for number in range(1200)])], folder)
    rows = [us_row(number, SELLINGPRICE="9450", SALEDATE="2015-01-05") for number in range(2000, 2300)]
    assert ingest([write(tmp_path / "new.csv", US_HEADER, rows)], folder)[0].added == 300


def test_a_file_mapped_before_is_not_mapped_anew(tmp_path: Path) -> None:
    path = us_file(tmp_path / "one.csv", range(3))
    from models.market import builtin

    (tmp_path / "own.toml").write_text(builtin.US.replace("factor = 1.609344", "factor = 1"), "utf-8")
    ingest([path], tmp_path / "m")
    with pytest.raises(MarketError, match="taken in before with another mapping"):
        ingest([path], tmp_path / "m", tmp_path / "own.toml")


def test_a_header_without_rows(tmp_path: Path) -> None:
    with pytest.raises(MarketError, match="a header and no rows"):
        ingest([write(tmp_path / "one.csv", US_HEADER, [])], tmp_path / "m")


def test_binary_rows_are_refused_one_by_one(tmp_path: Path) -> None:
    good = text(US_HEADER, [us_row(number) for number in range(6)])
    lines = good.splitlines()
    lines[3] = lines[3].replace("example rental", "example\x00rental")
    (tmp_path / "one.csv").write_text("\n".join(lines) + "\n", "utf-8")
    done = ingest([tmp_path / "one.csv"], tmp_path / "m")[0]
    assert (done.added, done.refused) == (5, {Reason.DAMAGED.value: 1})


def test_chinese_in_gb18030_behind_semicolons(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(
        'currency = "CNY"\n[columns.seen_on]\ncolumn = "成交日期"\n'
        'formats = ["%Y年%m月%d日"]\n[columns.price]\n'
        'column = "价格"\nfactor = 10000\n[columns.brand]\ncolumn = "品牌"\n'
        '[columns.series]\ncolumn = "车系"\n',
        "utf-8",
    )
    rows = [["2024年03月05日", "8.5", "上汽大众", "朗逸"]] * 3
    rows += [["2024年03月06日", "8,6", "上汽", "朗逸"]] * 3
    path = tmp_path / "cn.csv"
    path.write_bytes(text(["成交日期", "价格", "品牌", "车系"], rows, ";").encode("gb18030"))
    done = ingest([path], tmp_path / "m", tmp_path / "m.toml")[0]
    assert (done.encoding, done.delimiter) == ("gb18030", ";")
    assert done.refused == {Reason.PRICE_UNREADABLE.value: 3}
    sales = store.read_sales(tmp_path / "m")
    assert sales["brand"].to_list() == ["上汽大众"] and sales["seen_on"].to_list() == [dt.date(2024, 3, 5)]


# --- the folder -----------------------------------------------------------------------------------------


def test_the_key_is_its_owners_alone_and_is_missed(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    ingest([us_file(tmp_path / "one.csv", range(3))], folder)
    key = folder / store.KEY
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_bytes()) == 32
    key.write_bytes(b"short")
    with pytest.raises(MarketError, match="holds 5 bytes"):
        ingest([us_file(tmp_path / "two.csv", range(3, 6))], folder)
    key.unlink()
    with pytest.raises(MarketError, match="is gone"):
        ingest([us_file(tmp_path / "two.csv", range(3, 6))], folder)


def test_two_folders_name_a_car_differently(tmp_path: Path) -> None:
    path = us_file(tmp_path / "one.csv", range(3))
    for name in "ab":
        ingest([path], tmp_path / name)
    cars = [set(store.read_sales(tmp_path / name)["car"].to_list()) for name in "ab"]
    assert not cars[0] & cars[1]


@pytest.mark.parametrize("cut", [0, 8, 200])
def test_a_damaged_table_is_said(tmp_path: Path, cut: int) -> None:
    folder = tmp_path / "m"
    ingest([us_file(tmp_path / "one.csv", range(3))], folder)
    path = folder / store.SALES
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(MarketError, match="cannot be read"):
        store.read_record(folder)
    with pytest.raises(MarketError, match="cannot be read"):
        store.read_sales(folder)


def test_a_table_of_somebody_else_is_not_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    pl.DataFrame({"a": [1]}).write_parquet(folder / store.SALES)
    with pytest.raises(MarketError, match=r"another folder|is gone"):
        ingest([us_file(tmp_path / "one.csv", range(3))], folder)


def test_arrays_of_the_table(tmp_path: Path) -> None:
    ingest([us_file(tmp_path / "one.csv", range(3), CONDITION="", TRANSMISSION="")], tmp_path / "m")
    arrays = store.as_arrays(store.read_sales(tmp_path / "m"))
    assert arrays["row_id"].dtype == np.uint64 and arrays["seen_on"].dtype == np.dtype("datetime64[D]")
    assert arrays["price"].dtype == np.float64 and np.isnan(arrays["condition"]).all()
    assert arrays["gearbox"].tolist() == ["", "", ""] and arrays["brand"].tolist() == ["toyota"] * 3
    assert np.isnan(arrays["electric"]).all() and arrays["registered"].dtype == np.dtype("datetime64[D]")


def test_messages_mask_a_number_in_a_files_name(tmp_path: Path) -> None:
    path = us_file(tmp_path / f"{us_vin(7)}.csv", range(3))
    entry = ingest([path], tmp_path / "m")[0]
    assert entry.file == "(vehicle number).csv"
    assert_no_number(contents(tmp_path / "m"), [us_vin(number) for number in range(3)])
