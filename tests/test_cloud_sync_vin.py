"""VINs: the field's cases, the rule by market, and that no two spellings give two tokens."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_sync.ledger.errors import VinError
from cloud_sync.ledger.vin import Market, check_digit, normalise, reference, token_id, validate

KEY = bytes(range(32))
ALPHABET = "0123456789ABCDEFGHJKLMNPRSTUVWXYZ"

bodies = st.text(ALPHABET, min_size=13, max_size=13)
serials = st.integers(0, 9999).map(lambda n: f"{n:04d}")
eu_vins = st.builds(lambda body, serial: body + serial, bodies, serials).filter(
    lambda vin: len(set(vin)) >= 4
)


def with_check_digit(vin: str) -> str:
    return vin[:8] + check_digit(vin) + vin[9:]


def accepted(vin: str, market: Market) -> bool:
    try:
        validate(vin, market)
    except VinError:
        return False
    return True


def test_field_case_f31(shared_data: Callable[[str], Path]) -> None:
    expected = json.loads(shared_data("field/F31.expected.json").read_text("utf-8"))["expect"]
    with shared_data("field/F31.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    outcomes = dict(zip(expected.values(), rows, strict=True))
    assert len(rows) == 14
    for number, (wanted, row) in enumerate(outcomes.items(), 1):
        ok = accepted(row["vin"], Market(row["market"]))
        assert ok is wanted.startswith(("accept", "as row")), f"row {number}: {row} must {wanted}"
    assert len({token_id(rows[n]["vin"], KEY) for n in (0, 3, 4)}) == 1


@pytest.mark.parametrize(
    "vin",
    ["1M8GDM9AXKP042788", "11111111111111111"],
)
def test_published_check_digits(vin: str) -> None:
    assert check_digit(vin) == vin[8]


@pytest.mark.parametrize("position", [p for p in range(17) if p != 8])
def test_one_wrong_digit_is_caught(position: int) -> None:
    good = "LTESTAAA5N0000001"
    assert accepted(good, Market.CN)
    other = "2" if good[position] != "2" else "4"
    changed = good[:position] + other + good[position + 1 :]
    assert not accepted(changed, Market.CN) or check_digit(changed) == good[8]
    assert token_id(changed, KEY) != token_id(good, KEY)


@pytest.mark.parametrize("market", list(Market))
@pytest.mark.parametrize(
    ("vin", "says"),
    [
        ("", "17 characters"),
        ("LTESTAAA5N000000", "17 characters"),
        ("LTESTAAA5N00000011", "17 characters"),
        ("LTESTAAA5NO000001", "I, O or Q"),
        ("LTESTAAA5NI000001", "I, O or Q"),
        ("LTESTAAAQN0000001", "I, O or Q"),
        ("LTESTАAA5N0000001", "ASCII"),
        ("ＬTESTAAA5N0000001", "ASCII"),
        ("LTESTAAA5N000000１", "ASCII"),
        ("LTESTAAA5N\u00a00000001", "ASCII"),
        ("LTESTAAA5N\u200b0000001", "ASCII"),
        ("LTESTAAA5N0000.01", "letter or digit"),
        ("<script>alert(1)<", "letter or digit"),
        ("LTESTAAA5N\x000000001", "17 characters|letter or digit"),
        ("11111111111111111", "made up"),
        ("00000000000000000", "made up"),
        ("ZZZZZZZZZZZZZZZZZ", "made up"),
        ("00000000000000001", "made up"),
        ("12345678901234567", "made up"),
        ("23456789012345678", "made up"),
        ("WVGZZZ5NZEW00000A", "digits"),
        ("L" * 100_000, "17 characters"),
    ],
)
def test_refused_in_every_market(vin: str, says: str, market: Market) -> None:
    with pytest.raises(VinError, match=says):
        validate(vin, market)


@given(eu_vins, st.sampled_from([Market.CN, Market.US]))
def test_check_digit_decides_where_there_is_one(vin: str, market: Market) -> None:
    assert accepted(with_check_digit(vin), market) or with_check_digit(vin) in "1234567890" * 3
    wrong = "0" if check_digit(vin) != "0" else "1"
    assert not accepted(vin[:8] + wrong + vin[9:], market)


@given(eu_vins, st.data())
def test_no_two_spellings_give_two_tokens(vin: str, data: st.DataObject) -> None:
    spelled = "".join(
        data.draw(st.sampled_from(["", " ", "-", "\t"])) + data.draw(st.sampled_from([char, char.lower()]))
        for char in vin
    )
    assert normalise(spelled) == vin
    assert token_id(spelled, KEY) == token_id(vin, KEY)


@given(eu_vins, eu_vins)
def test_two_vehicles_have_two_tokens(one: str, other: str) -> None:
    assert (token_id(one, KEY) == token_id(other, KEY)) is (one == other)


@given(st.text(max_size=80))
def test_whatever_is_typed_is_a_vin_or_refused(text: str) -> None:
    try:
        vin = normalise(text)
    except VinError:
        return
    assert len(vin) == 17
    assert set(vin) <= set(ALPHABET)
    assert normalise(vin) == vin


def test_token_is_keyed_and_hides_the_vin() -> None:
    vin = "LTESTAAA5N0000001"
    assert token_id(vin, KEY) != token_id(vin, bytes(32))
    assert vin not in token_id(vin, KEY)
    assert len(token_id(vin, KEY)) == 64
    with pytest.raises(ValueError, match="32 bytes"):
        token_id(vin, b"short")


def test_references_of_different_kinds_differ() -> None:
    assert reference("owner", "17", KEY) != reference("loan", "17", KEY)
    assert reference("owner", " 17 ", KEY) == reference("owner", "17", KEY)
    assert reference("owner", "17", KEY) != token_id("LTESTAAA5N0000001", KEY)
