"""Claim codes: typed and scanned in every way people do, judged by one rule, guessed by nobody."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning import claim
from provisioning.ca import Purpose
from provisioning.claim import Claim, Label, WrongCodes
from provisioning.errors import ClaimError, IdentityError, Refusal
from provisioning.identity import Identity

NOW = datetime(2026, 11, 25, tzinfo=UTC)
CAR = Identity("fund", "car-1")
CODE = "0123456789ABCDEFGHJK"
OPEN = Claim(CAR, NOW + timedelta(days=90))
CHANCE = st.binary(min_size=13, max_size=13)


@given(CHANCE)
def test_a_code_is_read_as_it_is_shown(chance: bytes) -> None:
    code = claim.make_code(chance)
    assert len(code) == 20
    assert set(code) <= set(claim.ALPHABET)
    for shown in (
        code,
        claim.grouped(code),
        claim.grouped(code).lower(),
        f" {code.lower()} ",
        code.replace("0", "O"),
    ):
        assert claim.read_code(shown) == code


@given(CHANCE, CHANCE)
def test_a_code_holds_all_of_its_hundred_bits(one: bytes, other: bytes) -> None:
    same_bits = int.from_bytes(one, "big") >> 4 == int.from_bytes(other, "big") >> 4
    assert (claim.make_code(one) == claim.make_code(other)) == same_bits


def test_letters_that_look_like_digits_are_forgiven() -> None:
    assert claim.read_code("o1lI0-23456-789AB-CDEFG") == "0111023456789ABCDEFG"


@pytest.mark.parametrize(
    "text", ["", "0123", CODE + "0", CODE[:-1] + "U", CODE[:-1] + "!", "Ä" * 20, "0" * 5000]
)
def test_what_is_no_code_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ClaimError) as caught:
        claim.read_code(text)
    assert len(text) < 4 or text not in str(caught.value)


def test_chance_of_another_length_is_refused() -> None:
    with pytest.raises(ClaimError, match="13 random bytes"):
        claim.make_code(b"0" * 12)


def test_the_label_is_read_back() -> None:
    text = claim.qr_text("car-1", "V2", CODE)
    assert text == f"HF1:car-1:V2:{CODE}"
    assert claim.read_label(text) == Label(CODE, "car-1", "V2")
    assert claim.read_label(claim.qr_text("car-1", "", CODE)) == Label(CODE, "car-1", "")
    assert claim.read_label(claim.grouped(CODE)) == Label(CODE)


@pytest.mark.parametrize(
    "text",
    [
        f"HF2:car-1:V2:{CODE}", f"HF1:car/1:V2:{CODE}", f"HF1:+:V2:{CODE}", f"HF1:#:V2:{CODE}",
        f"HF1:car-1:V 2:{CODE}", f"HF1:car-1:V2:{CODE}:", "https://example/x", f"HF1:car-1:{CODE}",
        "HF1:" + "a" * 300,
    ],
)  # fmt: skip
def test_other_labels_are_refused(text: str) -> None:
    with pytest.raises(ClaimError):
        claim.read_label(text)


def test_a_models_name_cannot_break_the_label() -> None:
    with pytest.raises(ClaimError, match="model"):
        claim.qr_text("car-1", "V2:x", CODE)


@pytest.mark.parametrize("identity", [Identity("fund", "collector"), Identity("cloud", "car-1")])
def test_reserved_names_are_not_claimed(identity: Identity) -> None:
    with pytest.raises(IdentityError, match="reserved"):
        claim.check_claimable(identity)


def judged(
    found: Claim | None, asked: Identity = CAR, purpose: Purpose = Purpose.TLS, key: bytes = b"k"
) -> bool:
    return claim.judge(found, asked, purpose, key, NOW, Identity("fund", "any"))


def test_an_open_code_is_good_once_and_for_its_key_again() -> None:
    assert judged(OPEN) is True
    used = replace(OPEN, tls_key=b"k")
    assert judged(used) is False
    assert judged(used, purpose=Purpose.EVENT) is True
    assert judged(replace(used, event_key=b"e"), purpose=Purpose.EVENT, key=b"e") is False


@pytest.mark.parametrize(
    ("found", "asked", "purpose", "status", "code"),
    [
        (None, CAR, Purpose.TLS, 401, "code_unknown"),
        (OPEN, Identity("fund", "car-2"), Purpose.TLS, 403, "code_foreign"),
        (OPEN, Identity("other", "car-1"), Purpose.TLS, 403, "foreign_tenant"),
        (replace(OPEN, tls_key=b"x"), CAR, Purpose.TLS, 409, "code_used"),
        (replace(OPEN, tls_key=b"k", event_key=b"x"), CAR, Purpose.EVENT, 409, "code_used"),
        (replace(OPEN, withdrawn=True), CAR, Purpose.TLS, 403, "code_withdrawn"),
        (replace(OPEN, not_after=NOW - timedelta(seconds=1)), CAR, Purpose.TLS, 403, "code_expired"),
    ],
)
def test_every_other_code_is_refused_and_says_what_to_do(
    found: Claim | None, asked: Identity, purpose: Purpose, status: int, code: str
) -> None:
    with pytest.raises(Refusal) as caught:
        judged(found, asked, purpose)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert caught.value.remedy


def test_wrong_codes_make_address_and_device_wait() -> None:
    wrong = WrongCodes(most=3, window_s=60)
    for second in range(3):
        assert wrong.wait_s(second, "a", "car") == 0
        wrong.wrong(second, "a", "car")
    assert wrong.wait_s(3, "a") == 57
    assert wrong.wait_s(3, "b", "car") == 57
    assert wrong.wait_s(3, "b", "other") == 0
    assert wrong.wait_s(60.5, "a") == 0


def test_those_who_are_watched_are_bounded() -> None:
    wrong = WrongCodes(most=1)
    for number in range(claim.MAX_WATCHED + 10):
        wrong.wrong(0, f"address {number}")
    assert len(wrong._seen) == claim.MAX_WATCHED
    assert wrong.wait_s(0, f"address {claim.MAX_WATCHED}") > 0
