"""Deterministic CBOR: exactly one encoding a value, and nothing else is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.errors import WireError
from firmware_bridge.wire import cbor

OUTSIDE = ("f9", "fa", "fb", "c0", "c1", "c2", "c3", "d7", "d8", "f7", "f0", "f8")
"""Heads of what has no place in signed CBOR: floats, tags, undefined, other simple values."""
UNREAD = {
    bytes.fromhex(text)
    for text in (
        "3bffffffffffffffff",  # -2^64: below 64 bits with a sign
        "a26161016162820203",  # text keys
        "826161a161626163",
        "a56161614161626142616361436164614461656145",
    )
}


def test_every_appendix_a_vector_is_read_exactly_or_refused(shared_data: Callable[[str], Path]) -> None:
    vectors = json.loads(shared_data("cbor/appendix_a.json").read_text())
    read = refused = 0
    for vector in vectors:
        data = bytes.fromhex(vector["hex"])
        head = vector["hex"][:2]
        outside = head in OUTSIDE or data in UNREAD
        if outside or not vector["roundtrip"]:
            with pytest.raises(WireError):
                cbor.decode(data)
            refused += 1
            continue
        value = cbor.decode(data)
        assert cbor.encode(value) == data
        if "decoded" in vector:
            assert value == vector["decoded"]
        else:  # what JSON cannot hold: byte strings, and a map with numbers as keys
            assert value in (b"", b"\x01\x02\x03\x04", {1: 2, 3: 4})
        read += 1
    assert read >= 25
    assert refused >= 40


ints = st.integers(-(1 << 63), (1 << 64) - 1)
values: st.SearchStrategy[cbor.Value] = st.recursive(
    st.one_of(st.none(), st.booleans(), ints, st.binary(max_size=20), st.text(max_size=20)),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.integers(0, (1 << 64) - 1), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(values)
def test_round_trip(value: cbor.Value) -> None:
    data = cbor.encode(value)
    assert cbor.decode(data) == value
    assert cbor.encode(cbor.decode(data)) == data
    assert cbor2.loads(data) == value


@given(st.binary(max_size=60))
def test_anything_that_decodes_is_its_own_only_encoding(data: bytes) -> None:
    try:
        value = cbor.decode(data)
    except WireError:
        return
    assert cbor.encode(value) == data


@given(st.dictionaries(st.integers(0, 1 << 40), st.integers(), max_size=6).filter(lambda d: len(d) > 1))
def test_keys_are_sorted_whatever_their_order(value: dict[int, int]) -> None:
    value = {key: abs(item) % (1 << 60) for key, item in value.items()}
    backwards = dict(sorted(value.items(), reverse=True))
    assert cbor.encode(value) == cbor.encode(backwards)
    with pytest.raises(WireError, match="deterministic"):
        cbor.decode(cbor2.dumps(backwards, canonical=False))


@pytest.mark.parametrize(
    "data",
    [
        "",
        "1801",  # 1 in two bytes
        "190001",
        "1b0000000000000001",
        "5801ff",  # length in two bytes
        "9f01ff",  # indefinite
        "bf0001ff",
        "5f4101ff",
        "7f6161ff",
        "a2000100" + "02",  # the same key twice
        "a201000000",  # keys out of order
        "0000",  # a byte follows
        "a1200" + "1",  # negative key
        "a1616101",  # text key
        "a1f501",  # true as a key
        "a1410001",
        "fb3ff0000000000000",
        "f97e00",
        "f7",
        "f0",  # simple values, which the library hands out as tuples
        "f818",
        "81f8ff",
        "c11a514b67b0",
        "d9d9f7a0",  # self-described CBOR
        "d81c81d81d00",  # a list that holds itself
        "c249010000000000000000",
        "62c328",  # not UTF-8
        "61",  # cut short
        "ff",
        "81" * 20 + "00",  # too deep
        "9b7fffffffffffffff",
        "5b7fffffffffffffff",
        "c482" + "1b7fffffffffffffff" + "01",  # a decimal of astronomic size
    ],
)
def test_whatever_else_is_refused_with_our_own_error(data: str) -> None:
    with pytest.raises(WireError):
        cbor.decode(bytes.fromhex(data))


def test_hostile_depth_and_size() -> None:
    with pytest.raises(WireError):
        cbor.decode(b"\x81" * 100_000 + b"\x00")
    with pytest.raises(WireError, match="at most"):
        cbor.decode(b"\x00" * (cbor.MAX_BYTES + 1))
    with pytest.raises(WireError, match="at most 10"):
        cbor.decode(cbor.encode(b"x" * 10), max_bytes=10)


@pytest.mark.parametrize(
    "value",
    [1.0, float("nan"), {"a": 1}, {-1: 1}, {True: 1}, {1.0: 1}, 1 << 64, -(1 << 63) - 1, object(), {1, 2}],
)
def test_encoding_refuses_what_has_no_place(value: object) -> None:
    with pytest.raises(WireError):
        cbor.encode(value)  # type: ignore[arg-type]
    with pytest.raises(WireError):
        cbor.encode([{0: value}])  # type: ignore[dict-item]


def test_depth_is_bounded_on_encoding_too() -> None:
    value: cbor.Value = 0
    for _ in range(cbor.MAX_DEPTH):
        value = [value]
    assert cbor.decode(cbor.encode(value)) == value
    with pytest.raises(WireError, match="deeper"):
        cbor.encode([value])
