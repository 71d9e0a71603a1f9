"""Time to sale and price cuts: the curve of Kaplan and Meier, the file, the table and its forced sale."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import Misfit, ValuationError
from models.runtime.value_histories import read_histories
from models.runtime.value_run import forced_sale_table
from models.valuation.forced import forced_sale
from models.valuation.survival import (
    DAYS,
    Histories,
    SaleTable,
    kaplan_meier,
    quantile_range,
    read_table,
    sale_table,
)

NAMES = ("cheap", "dear")


def table(n: int = 600, seed: int = 1, dear: float = 0.5) -> SaleTable:
    draw = np.random.default_rng(seed)
    price = np.where(draw.random(n) < dear, 200e3, 50e3)
    days = draw.exponential(np.where(price > 100e3, 40.0, 15.0)).astype(np.int32)
    found = Histories(
        draw.integers(0, 100, n).astype(np.int32),
        price,
        days,
        draw.random(n) < 0.8,
        draw.exponential(0.02, n),
    )
    return sale_table(found, (100e3,), "XTS", NAMES, 300)


def test_it_is_the_curve_of_kaplan_and_meier() -> None:
    # Freireich's remission times in weeks (1963), the example of the textbooks.
    weeks = [6, 6, 6, 7, 10, 13, 16, 22, 23, *(6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35)]
    over = np.array([True] * 9 + [False] * 12)
    times = np.array(weeks, np.int32)
    for week, survival in ((6, 0.857), (7, 0.807), (10, 0.753), (13, 0.690), (22, 0.538), (23, 0.448)):
        assert 1.0 - kaplan_meier(times, over, week)[0] == pytest.approx(survival, abs=5e-4)
    _, low, high = kaplan_meier(times, over, 10)
    assert (1.0 - high, 1.0 - low) == pytest.approx(
        (0.503, 0.889), abs=2e-3
    )  # R survfit, conf.type="log-log"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 120), st.booleans()), min_size=5, max_size=80))
def test_more_time_sells_more_and_the_range_holds_the_value(cars: list[tuple[int, bool]]) -> None:
    days, sold = np.array([d for d, _ in cars], np.int32), np.array([s for _, s in cars])
    before = 0.0
    for at in DAYS:
        found, low, high = kaplan_meier(days, sold, at)
        if math.isnan(found):
            assert (low, high) == (0.0, 1.0) and days.max() < at
            break
        assert 0.0 <= low <= found + 1e-12 and found <= high + 1e-12 <= 1.0 + 1e-9
        assert found >= before
        assert found >= (sold & (days <= at)).mean() - 1e-12  # cars withdrawn early may have sold yet
        before = found


@given(st.lists(st.floats(-0.1, 0.5), min_size=1, max_size=100), st.sampled_from([0.9, 0.95]))
def test_a_quantile_lies_in_its_range(cuts: list[float], share: float) -> None:
    found, low, high = quantile_range(np.array(cuts), share)
    assert low <= found + 1e-12
    assert found <= high + 1e-12


def test_bands_are_told_apart_and_a_thin_one_borrows() -> None:
    found = table()
    cheap, dear = found.bands
    assert cheap.own and dear.own and cheap.within[0][0] > dear.within[0][0] + 0.2
    thin = table(dear=0.05)
    assert not thin.bands[1].own and thin.bands[1].within == thin.whole.within and thin.bands[1].n < 100
    assert found.of(99_999.0).name == "cheap" and found.of(100_000.0).name == "dear"


def test_a_table_comes_back_from_its_json() -> None:
    found = table()
    raw = json.loads(json.dumps(found.as_json()))
    again = read_table(raw)
    assert again.as_json() == found.as_json()
    assert "assumed" in raw["assumption"] and "ordinary" in raw["data"]


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"bands": []},
        {"edges": [2.0, 1.0]},
        {"bands": None},
        {"currency": None, "whole": 3},
        {"total": "x"},
    ],
)
def test_a_damaged_table_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValuationError, match="sale table"):
        read_table({**json.loads(json.dumps(table().as_json())), **change})


def test_late_listings_and_few_ones_are_not_judged() -> None:
    few = Histories(*(np.zeros(50, t) for t in (np.int32, float, np.int32, bool, float)))
    with pytest.raises(ValuationError, match="0 of 50 histories are old enough"):
        sale_table(few, (), "XTS", ("all",), 100)


def test_a_forced_sale_is_the_bound_less_an_assumed_discount() -> None:
    found = table()
    sale = forced_sale(found, 50_000.0, 40_000.0, "XTS")
    assert sale.value == pytest.approx(40_000.0 * (1.0 - found.bands[0].cut_p90[0]))
    said = sale.as_json()
    assert "assumed" in said["assumption"]["is"] and said["data"]["cars"] == found.bands[0].n
    assert "which is an assumption" in sale.sentence("XTS")
    assert forced_sale(found, 50_000.0, 40_000.0, "XTS", "p95").value < sale.value
    with pytest.raises(Misfit, match="same market"):
        forced_sale(found, 50_000.0, 40_000.0, "CNY")


HEADER = "carid,pushDate,pushPrice,upd,pullDate,withdrawDate\n"
SOLD = '1,2021-01-05,10,"{""2021-01-10"": ""9.5"", ""2021-01-12"": ""9""}",2021-01-25,2021-01-25\n'
UNSOLD = "2,2021-01-05,8.5,{},2021-03-05,\n"


def test_the_file_is_read_with_its_cuts_and_its_unsold(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    path.write_text(HEADER + SOLD + UNSOLD, "utf-8-sig")
    found, end, refused = read_histories(path, 10_000.0)
    assert list(found.days) == [20, 59] and list(found.sold) == [True, False]
    assert list(found.price) == [100_000.0, 85_000.0] and found.cut[0] == pytest.approx(0.1)
    assert end == 18_639 and refused == 0
    packed = tmp_path / "h.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_histories(packed, 1.0)[0].days) == [20, 59]


@pytest.mark.parametrize(
    "line",
    [
        "3,2021-01-05,abc,{},2021-02-05,\n",
        "3,2021-02-05,8,{},2021-01-05,\n",
        "3,05.01.2021,8,{},2021-02-05,\n",
        "3,2021-01-05,8,[],2021-02-05,\n",
        '3,2021-01-05,8,"{""x"": 3}",2021-02-05,\n',
        "3,2021-01-05,0,{},2021-02-05,\n",
        "3,2021-01-05\n",
    ],
)
def test_a_line_without_sense_is_counted_and_left_out(tmp_path: Path, line: str) -> None:
    path = tmp_path / "h.csv"
    path.write_text(HEADER + SOLD * 9 + line)
    found, _, refused = read_histories(path, 1.0)
    assert len(found) == 9 and refused == 1
    path.write_text(HEADER + SOLD + line)
    with pytest.raises(ValuationError, match="1 of 2 lines"):
        read_histories(path, 1.0)


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValuationError, match="no column pushDate"):
        read_histories(path, 1.0)
    path.write_bytes(HEADER.encode("utf-16"))
    with pytest.raises(ValuationError, match="UTF-8"):
        read_histories(path, 1.0)
    path.write_bytes(gzip.compress(b"x" * 100)[:-12])
    with pytest.raises(ValuationError, match="cannot be read"):
        read_histories(path, 1.0)
    with pytest.raises(ValuationError, match="cannot be read"):
        read_histories(tmp_path / "none", 1.0)


def test_real_store_histories_give_the_shares_that_were_counted_by_hand(
    shared_data: Callable[[str], Path],
) -> None:
    histories, end, refused = read_histories(shared_data("cars/cn_store_histories.csv.gz"), 10_000.0)
    assert len(histories) == 5814 and refused == 0
    found = sale_table(histories, (), "CNY", ("all",), end)
    assert [round(s, 2) for s in found.whole.at_least] == [0.61, 0.75, 0.78]
    assert found.whole.cut_p90[0] == pytest.approx(0.07, abs=0.01)
    assert found.whole.within[0][0] > found.whole.at_least[0]


def history_lines(count: int) -> str:
    """Cars listed in 2020 and one at the end of 2021, which lets the others be judged."""
    lines = [f"{n},2020-{1 + n % 12:02d}-05,{3 + n % 9},{{}},2020-12-30,2020-12-28\n" for n in range(count)]
    return HEADER + "".join(lines) + "9,2021-12-31,8,{},2021-12-31,\n"


def test_the_command_writes_a_table_that_a_valuation_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "h.csv", tmp_path / "table.json"
    file.write_text(history_lines(300))
    assert forced_sale_table(file, out, "CNY", 10_000.0, "60000,90000") == 0
    found = read_table(json.loads(out.read_text()))
    assert found.edges == (60_000.0, 90_000.0) and found.bands[0].name == "below 60,000"
    said = capsys.readouterr().out
    assert "300 of 301 histories used" in said and "is assumed" in said
    assert forced_sale_table(file, out, "XTS", 1.0, None) == 0
    assert read_table(json.loads(out.read_text())).edges == ()
    with pytest.raises(ValuationError, match="no numbers"):
        forced_sale_table(file, out, "CNY", 1.0, "cheap,dear")
    with pytest.raises(ValuationError, match="rise"):
        forced_sale_table(file, out, "CNY", 1.0, "9,3")
