"""The rules a row must meet, and what becomes of values that cannot be read."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("polars", reason="the market needs polars: install the extra [train]")

import polars as pl
from market_kit import CN_HEADER, US_HEADER, cn_row, us_row, us_vin

from models.market import builtin, schema
from models.market.cleaning import Cleaned, Cleaner, Reason, parse_day
from models.market.mapping import Mapping, folded, parse

KEY = bytes(range(32))
TODAY = dt.date(2026, 6, 1)


def clean(header: list[str], rows: list[list[str]], mapping: Mapping, today: dt.date = TODAY) -> Cleaned:
    """The rows through the mapping."""
    columns = {folded(name): [row[at] for row in rows] for at, name in enumerate(header)}
    frame = pl.DataFrame({name: pl.Series(name, values, dtype=pl.String) for name, values in columns.items()})
    frame = frame.with_columns(row_id=pl.int_range(pl.len(), dtype=pl.UInt64))
    return Cleaner(mapping, KEY, today).clean(frame)


def us(*rows: list[str]) -> Cleaned:
    return clean(US_HEADER, list(rows), builtin.builtin("us"))


def cn(*rows: list[str]) -> Cleaned:
    return clean(CN_HEADER, list(rows), builtin.builtin("cn"))


def reasons(done: Cleaned) -> list[tuple[int, Reason]]:
    return [(row, reason) for row, reason, _ in done.refused]


def test_an_auction_sale_in_our_units() -> None:
    row = us(us_row(1)).kept.row(0, named=True)
    assert (
        row["seen_on"] == dt.date(2014, 12, 18) and row["price"] == 13001.0 and row["trade_value"] == 13200.0
    )
    assert (row["brand"], row["series"], row["model"], row["trim"]) == ("toyota", "camry", "camry le", "le")
    assert row["odometer_km"] == pytest.approx(38882 * 1.609344)
    assert row["registered"] == dt.date(2012, 7, 1) and row["model_year"] == 2012
    assert row["condition"] == 38.0 and row["region"] == "ca" and row["new_price"] is None
    assert len(row["car"]) == 32


def test_a_listing_in_our_units() -> None:
    row = cn(cn_row(4, mileage="26.39", price="3.44")).kept.row(0, named=True)
    assert row["price"] == pytest.approx(34_400) and row["new_price"] == pytest.approx(169_800)
    assert (
        row["odometer_km"] == pytest.approx(263_900) and row["gearbox"] == "6" and row["launched"] == 201303
    )
    assert (row["length_mm"], row["width_mm"], row["height_mm"]) == (4345.0, 1797.0, 1730.0)
    assert row["registered"] == dt.date(2014, 5, 1) and row["region"] == "1"


def test_codes_are_unknown_and_mixed_grades_are_one_scale() -> None:
    done = us(
        us_row(1, ODOMETER="1", CONDITION="5"), us_row(2, ODOMETER="999999", CONDITION="2.5"),
        us_row(3, CONDITION="—", COLOR="—", TRANSMISSION=""), us_row(4, CONDITION="49"),
    )  # fmt: skip
    assert done.refused == []
    assert done.kept["odometer_km"].is_null().to_list() == [True, True, False, False]
    assert done.kept["condition"].to_list() == [50.0, 25.0, None, 49.0]
    assert done.counts.unreadable == {} and done.counts.out_of_range == {}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"SELLINGPRICE": ""}, Reason.PRICE_MISSING),
        ({"SELLINGPRICE": "call us"}, Reason.PRICE_UNREADABLE),
        ({"SELLINGPRICE": "1e999"}, Reason.PRICE_UNREADABLE),
        ({"SELLINGPRICE": "0"}, Reason.PRICE_ZERO),
        ({"SELLINGPRICE": "-5"}, Reason.PRICE_ZERO),
        ({"SELLINGPRICE": "1"}, Reason.PRICE_RANGE),
        ({"SELLINGPRICE": "99999999"}, Reason.PRICE_RANGE),
        ({"SELLINGPRICE": "600"}, Reason.PRICE_TRADE),
        ({"SALEDATE": ""}, Reason.DATE_MISSING),
        ({"SALEDATE": "soon"}, Reason.DATE_UNREADABLE),
        ({"SALEDATE": "16750"}, Reason.DATE_UNREADABLE),
        ({"SALEDATE": "Wed Dec 30 2099 12:00:00"}, Reason.DATE_FUTURE),
        ({"SALEDATE": "Thu Jan 01 1970 00:00:00"}, Reason.DATE_OLD),
        ({"STATE": "3vwtests0fm000003"}, Reason.VIN_ELSEWHERE),
        ({"SELLER": "traded 4T1TESTS0DU000009 in"}, Reason.VIN_ELSEWHERE),
        ({"SELLER": "4T1-TESTS0-DU 000009"}, Reason.VIN_ELSEWHERE),
        ({"VIN": "automatic"}, Reason.VIN_FORM),
        ({"VIN": "4t1testsOdu000001"}, Reason.VIN_FORM),
        ({"VIN": "4t1tests0du00001"}, Reason.VIN_FORM),
        ({"VIN": "4t1testsаdu000001"}, Reason.VIN_FORM),
        ({"STATE": "sedan"}, Reason.DOMAIN),
        ({"TRANSMISSION": "Sedan"}, Reason.DOMAIN),
        ({"COLOR": "16633"}, Reason.DOMAIN),
        ({"SELLER": "x" * 300}, Reason.DOMAIN),
        ({"MAKE": ""}, Reason.NAME),
    ],
)
def test_each_rule_refuses_its_row_and_no_other(changes: dict[str, str], reason: Reason) -> None:
    assert reasons(us(us_row(1), us_row(2, **changes), us_row(3))) == [(1, reason)]


def test_a_sale_of_tomorrow_is_of_another_time_zone() -> None:
    mapping = builtin.builtin("us")
    rows = [us_row(1, SALEDATE="2026-06-02"), us_row(2, SALEDATE="2026-06-03")]
    assert reasons(clean(US_HEADER, rows, mapping)) == [(1, Reason.DATE_FUTURE)]


def test_absurd_against_the_price_when_new() -> None:
    done = cn(cn_row(1, price="0.05"), cn_row(2, price="678.8"), cn_row(3), cn_row(4, newprice=""))
    assert reasons(done) == [(0, Reason.PRICE_RATIO), (1, Reason.PRICE_RATIO)]


def test_case_blanks_and_hyphens_are_one_car() -> None:
    spellings = [us_vin(7), us_vin(7).upper(), f" {us_vin(7)} ", "4T1-TESTS0 DU000007"]
    done = us(*(us_row(7, VIN=one) for one in spellings))
    assert done.refused == [] and done.kept["car"].n_unique() == 1


def test_without_a_number_each_sale_is_a_car_of_its_own() -> None:
    done = us(us_row(1, VIN=""), us_row(2, VIN="00000000000000000"), us_row(3, VIN="n/a"), us_row(4))
    assert done.refused == [] and done.kept["car"].n_unique() == 4
    assert done.counts.no_vin == 3 and done.counts.check_digits == 1


def test_the_same_listing_by_version_day_and_colour_is_one_car() -> None:
    done = cn(cn_row(1, price="9.0"), cn_row(1, price="8.5", carid="77", color="2.0"), cn_row(1, color="3"))
    cars = done.kept["car"].to_list()
    assert cars[0] == cars[1] != cars[2]


def test_units_that_cannot_be_meant_become_unknown_and_are_counted() -> None:
    done = cn(cn_row(1, mileage="26390"), cn_row(2, modelyear="13"), cn_row(3, transferCount="many"))
    assert done.counts.out_of_range == {"odometer_km": 1, "model_year": 1}
    assert done.counts.unreadable == {"transfers": 1}
    assert done.kept["odometer_km"].null_count() == done.kept["transfers"].null_count() == 1


def test_registered_after_the_sale_is_not_believed() -> None:
    done = cn(cn_row(1, licenseDate="2022-01-01"))
    assert done.counts.before_registration == 1
    assert done.kept["registered"].to_list() == [dt.date(2013, 7, 1)]


def test_a_price_in_another_currency_is_refused() -> None:
    mapping = parse(
        'currency = "EUR"\ncurrency_column = "cur"\n[columns.seen_on]\ncolumn = "d"\n'
        '[columns.price]\ncolumn = "p"\nstrip = "€"\ndecimal = ","\n[columns.brand]\ncolumn = "b"\n'
        '[columns.series]\ncolumn = "s"\n[columns.electric]\ncolumn = "e"\n'
    )
    rows = [
        ["2024-01-02", "1.250,50 €", "B", "S", "eur", "Yes"],
        ["2024-01-02", "900", "B", "S", "USD", "no"],
    ]
    done = clean(["d", "p", "b", "s", "cur", "e"], rows, mapping)
    assert reasons(done) == [(1, Reason.CURRENCY)]
    assert done.kept["price"].to_list() == [1250.5] and done.kept["model"].to_list() == ["S"]
    assert done.kept["electric"].to_list() == [True]


@pytest.mark.parametrize(
    ("text", "pattern", "day"),
    [
        ("Thu Dec 18 2014 11:30:00 GMT-0800 (PST)", "%a %b %d %Y*", dt.date(2014, 12, 18)),
        ("2021-05-20T08:00:00Z", "%Y-%m-%d*", dt.date(2021, 5, 20)),
        ("2021-05-20 08:00", "%Y-%m-%d*", dt.date(2021, 5, 20)),
        ("2021-05-20 08:00", "%Y-%m-%d", None),
        ("31.12.2024", "%d.%m.%Y", dt.date(2024, 12, 31)),
        ("2023-02-29", "%Y-%m-%d", None),
        ("", "%Y*", None),
    ],
)
def test_days(text: str, pattern: str, day: dt.date | None) -> None:
    assert parse_day(text, pattern) == day


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.text(max_size=20), min_size=16, max_size=16), min_size=1, max_size=4))
def test_no_text_crashes_and_what_is_kept_is_whole(rows: list[list[str]]) -> None:
    done = us(*rows)
    assert done.kept.height + len(done.refused) == len(rows)
    assert done.kept.height == 0 or min(done.kept["price"].to_list()) > 0


numbers: st.SearchStrategy[Any] = st.one_of(
    st.floats(allow_nan=True), st.integers(), st.text("0123456789.,e-+", max_size=9)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=6))
def test_numbers_stay_within_their_ranges(values: list[tuple[Any, Any, Any]]) -> None:
    rows = [
        us_row(at, SELLINGPRICE=str(a), ODOMETER=str(b), CONDITION=str(c))
        for at, (a, b, c) in enumerate(values)
    ]
    kept = us(*rows).kept
    for name in ("price", "odometer_km", "condition"):
        column = schema.BY_NAME[name]
        inside = kept[name].drop_nulls().is_between(column.low, column.high)
        assert inside.all(), name
    assert kept["price"].is_between(100, 5_000_000).all()


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(8)))
def test_a_row_is_judged_for_itself(order: list[int]) -> None:
    rows = [us_row(at, SELLINGPRICE="0" if at % 3 == 0 else "13000") for at in range(8)]
    done = us(*(rows[at] for at in order))
    assert {order[row] for row, _ in reasons(done)} == {0, 3, 6}
