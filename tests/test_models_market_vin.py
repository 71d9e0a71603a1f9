"""Vehicle numbers at the door of a market: form, check digit, hashes that need the key."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.market import vin

KEY = bytes(range(32))
ALPHABET = "0123456789ABCDEFGHJKLMNPRSTUVWXYZ"
vins = st.text(ALPHABET, min_size=13, max_size=13).flatmap(
    lambda head: st.integers(0, 9999).map(lambda tail: f"{head}{tail:04d}")
)


def test_check_digits_of_north_america_and_elsewhere() -> None:
    # 49 CFR 565.15's own rule on numbers whose digits are right by construction (X included), and one wrong.
    right = ["LTESTAAA5N0000001", "LTESTAAAXN0000009"]
    assert vin.check_digits_fail(right, "CN") == 0
    assert vin.check_digits_fail(["LTESTAAA1N0000001"], "CN") == 1
    assert vin.check_digits_fail(["WVGZZZ5NZEW000000"], "") == 0  # European: position 9 is free
    assert vin.check_digits_fail(["WVGZZZ5NZEW000000"], "US") == 1
    assert vin.check_digits_fail(["4T1TESTS0DU000001"], "") == 1  # North American by its first digit
    assert vin.check_digits_fail([], "US") == 0


def test_fillers_are_no_vehicle() -> None:
    texts = ["00000000000000000", "11111111111111111", "12345678901234567", "LTESTAAA5N0000001"]
    assert vin.made_up(texts).tolist() == [True, True, True, False]


def test_shared_numbers_fall_as_expected(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("field/F31.csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cn = [row["vin"] for row in rows if row["market"] == "CN"]
    normal = [one.strip().upper() for one in cn]
    formed = [one for one in normal if len(one) == 17 and one.isascii() and set(one) <= set(ALPHABET)]
    # Rows 1, 4, 5 are one car; 2 is good; 3 has a wrong digit; 11, 12 are fillers; 6, 13, 14 no form.
    assert len(formed) == 7 and len(set(formed)) == 5
    assert vin.made_up(formed).sum() == 2
    fillers = vin.made_up(formed)
    kept = [one for one, bad in zip(formed, fillers, strict=True) if not bad]
    assert vin.check_digits_fail(kept, "CN") == 1


@given(vins, st.binary(min_size=32, max_size=32))
def test_a_hash_needs_the_key_and_has_no_number_in_it(number: str, key: bytes) -> None:
    car = vin.hash_vin(number, key)
    assert len(car) == vin.CAR_HEX and int(car, 16) >= 0
    assert car == vin.hash_vin(number, key)
    assert car != vin.hash_vin(number, bytes(32) if key != bytes(32) else KEY)


@given(st.lists(st.text(max_size=12), min_size=3, max_size=6), vins)
def test_row_ids_sort_alike_whatever_the_key(fields: list[str], number: str) -> None:
    row = [number, *fields]
    whole = vin.SEPARATOR.join(row)
    one, two = (vin.row_id(row, whole, 0, key) for key in (KEY, bytes(32)))
    assert one >> 24 == two >> 24
    assert 0 <= one < 1 << 64
    assert vin.row_id(row, whole, None, KEY) == vin.row_id(row, whole, None, bytes(32))


def test_the_number_enters_a_row_id_only_under_the_key() -> None:
    rows = [[f"4T1TESTS0DU{number:06d}", "a", "b"] for number in (1, 2)]
    ids = [vin.row_id(row, vin.SEPARATOR.join(row), 0, KEY) for row in rows]
    assert ids[0] != ids[1] and ids[0] >> 24 == ids[1] >> 24


@pytest.mark.parametrize(
    ("text", "seen"),
    [("4t1tests0du000001", "9a9aaaaa9aa999999"), ("13,500 $", "99,999 $"), ("x" * 40, "a" * 23 + "…")],
)
def test_a_shape_says_nothing_of_the_text(text: str, seen: str) -> None:
    assert vin.shape(text) == seen
