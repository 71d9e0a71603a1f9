"""The quality report: what it finds, and that it says what it found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("polars", reason="the market needs polars: install the extra [train]")

from market_kit import US_HEADER, run, us_row, us_vin, write

from models.errors import MarketError
from models.runtime import market_report
from models.runtime.market_ingest import ingest


def report(tmp_path: Path, rows: list[list[str]], **options: Any) -> dict[str, Any]:
    """The figures of a folder with these auction sales."""
    ingest([write(tmp_path / "one.csv", US_HEADER, rows)], tmp_path / "m", **options)
    return market_report.measure(tmp_path / "m")


def week(number: int) -> str:
    """A Wednesday, `number` weeks after the first."""
    import datetime as dt

    return str(dt.date(2014, 1, 1) + dt.timedelta(weeks=number))


def test_span_gaps_and_thin_weeks(tmp_path: Path) -> None:
    rows, number = [], 0
    for at, count in enumerate([20, 20, 0, 0, 20, 2, 20, 20]):
        for _ in range(count):
            rows.append(us_row(number, SALEDATE=week(at)))
            number += 1
    figures = report(tmp_path, rows)
    assert figures["span"] == {
        "first": week(0), "last": week(7), "days": 50, "needed_days": 730, "enough": False,
    }  # fmt: skip
    assert [one["sales"] for one in figures["weeks"]] == [20, 20, 0, 0, 20, 2, 20, 20]
    assert figures["gaps"]["runs"] == [{"from": "2014-01-13", "to": "2014-01-20", "weeks": 2}]
    assert figures["gaps"]["thin"] == ["2014-02-03"]
    said = " ".join(figures["notices"])
    assert (
        "span 50 days; a region needs 730" in said
        and "2 weeks have no sale (2014-01-13 to 2014-01-20)" in said
    )


def test_regions_that_lack_two_years_are_named(tmp_path: Path) -> None:
    rows = [us_row(n, SALEDATE=week(n)) for n in range(110)]
    rows += [us_row(200 + n, SALEDATE=week(n), STATE="tx") for n in range(20)]
    figures = report(tmp_path, rows)
    assert figures["span"]["enough"] and figures["regions"]["with_two_years"] == 1
    lines = {one["name"]: one for one in figures["regions"]["list"]}
    assert (
        lines["ca"]["two_years"] and not lines["tx"]["two_years"] and lines["tx"]["weeks_without_sales"] == 90
    )
    assert "1 of 2 regions span less than two years." in figures["notices"]


def test_a_crash_of_a_third_in_one_week_is_named_once(tmp_path: Path) -> None:
    rows = [
        us_row(at * 30 + n, SALEDATE=week(at), SELLINGPRICE=str(13_000 + n if at < 10 else 9_100 + n))
        for at in range(16)
        for n in range(30)
    ]
    figures = report(tmp_path, rows)
    falls = [one for one in figures["notices"] if "prices fell by" in one]
    assert len(falls) == 1 and "week of 2014-03-10 prices fell by 30%" in falls[0]


def test_cars_seen_again_and_mileage_that_falls(tmp_path: Path) -> None:
    rows = [us_row(n) for n in range(10)]
    rows.append(us_row(1, SALEDATE="2015-01-08", SELLINGPRICE="12350", ODOMETER="39000"))
    rows.append(us_row(2, SALEDATE="2015-01-08", SELLINGPRICE="13002", ODOMETER="20000"))
    figures = report(tmp_path, rows)
    again = figures["again"]
    assert (again["rows"], again["median_days"], again["mileage_falls"]) == (2, 21.0, 1)
    assert again["price_difference_mean"] == pytest.approx(0.025, abs=0.001)
    assert "1 cars came back with fewer kilometres than before." in figures["notices"]


def test_what_was_dropped_and_why(tmp_path: Path) -> None:
    rows = [us_row(n) for n in range(10)] + [us_row(11, SELLINGPRICE="0"), us_row(12, SALEDATE="never")]
    figures = report(tmp_path, rows)
    assert figures["dropped"]["reasons"] == {
        "a price of zero or below": 1,
        "a date of sale that cannot be read": 1,
    }
    text = market_report.text(figures)
    assert "one.csv line 12: a price of zero or below, price (0)" in text
    assert "Dropped: 2 of 12 rows read" in text
    assert us_vin(11) not in text and us_vin(11) not in json.dumps(figures)


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(MarketError, match="holds no sales; fill it with"):
        market_report.measure(tmp_path)


def test_the_command_writes_text_json_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib: install the extra [train]")
    report(tmp_path, [us_row(n, SALEDATE=week(n % 9)) for n in range(60)])
    done = run("report", tmp_path / "m", "--json", tmp_path / "r.json", "--pictures", tmp_path / "p")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("Sales: 60 of 60 cars") and "Notices" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text("utf-8"))["sales"] == 60
    names = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert names == ["ageing.png", "brands.png", "dropped.png", "level.png", "regions.png", "weeks.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "p").iterdir())
    out = run("report", tmp_path / "m", "--json", "-")
    assert json.loads(out.stdout)["currency"] == "USD" and "Notices" in out.stderr


def test_the_shared_listings_are_short_and_thin(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    ingest([shared_data("cars/cn_listings.csv.gz")], tmp_path / "m")
    figures = market_report.measure(tmp_path / "m")
    assert figures["span"]["days"] == 506 and figures["regions"]["count"] == 88
    assert abs(figures["regions"]["share_of_12_largest"] - 0.91) < 0.01
    assert abs(figures["again"]["share"] - 0.099) < 0.001
    assert abs(figures["again"]["price_difference_median"] - 0.016) < 0.002
    assert any("needs 730" in one for one in figures["notices"])
