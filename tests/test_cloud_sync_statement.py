"""Statements: signed, strict, and nothing but what the grammar allows."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from cloud_sync.statement import (
    MAX_STATEMENT_BYTES,
    TITLE,
    make_statement,
    parse_statement,
    peek_statement,
)
from edge.errors import FormatError
from firmware_bridge.errors import SignatureError, WireError
from firmware_bridge.wire import cbor, cose

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
KID = cose.key_id(KEY.public_key())


def resolve(kid: bytes) -> cose.PublicKey | None:
    return KEY.public_key() if kid == KID else None


def sign(value: cbor.Value) -> bytes:
    return cose.sign1(cbor.encode(value), KEY, KID)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.binary(max_size=40)
    | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 1000), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.integers(0, 1000), values, max_size=6), st.integers(0, 1 << 47))
def test_what_is_signed_is_read(body: dict[int, Any], wall_ms: int) -> None:
    data = make_statement(TITLE, "fund-a", wall_ms, body, KEY)
    statement = parse_statement(data, resolve)
    assert (statement.type, statement.tenant, statement.wall_ms, statement.body) == (
        TITLE,
        "fund-a",
        wall_ms,
        body,
    )
    assert statement.kid == KID
    assert statement.hash == hashlib.sha256(data).digest()
    assert peek_statement(data) == statement


def test_every_changed_byte_is_noticed() -> None:
    data = make_statement(TITLE, "fund-a", 1, {1: b"x" * 32}, KEY)
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises((WireError, FormatError)):
            parse_statement(changed, resolve)


def test_every_cut_and_every_tail_is_noticed() -> None:
    data = make_statement(TITLE, "fund-a", 1, {1: "x"}, KEY)
    for end in range(len(data)):
        with pytest.raises((WireError, FormatError)):
            parse_statement(data[:end], resolve)
    with pytest.raises(WireError):
        parse_statement(data + b"\x00", resolve)


def test_another_key_is_refused() -> None:
    data = make_statement(TITLE, "fund-a", 1, {}, OTHER)
    with pytest.raises(SignatureError, match="not known"):
        parse_statement(data, resolve)
    forged = make_statement(TITLE, "fund-a", 1, {}, OTHER, KID)
    with pytest.raises(SignatureError, match="does not verify"):
        parse_statement(forged, resolve)


@pytest.mark.parametrize(
    "payload",
    [
        [1, TITLE, "fund-a", 1, {}],
        {0: 2, 1: TITLE, 2: "fund-a", 3: 1, 4: {}},
        {0: 1, 1: "Title", 2: "fund-a", 3: 1, 4: {}},
        {0: 1, 1: TITLE, 2: "Fund A", 3: 1, 4: {}},
        {0: 1, 1: TITLE, 2: "", 3: 1, 4: {}},
        {0: 1, 1: TITLE, 2: "fund-a", 3: -1, 4: {}},
        {0: 1, 1: TITLE, 2: "fund-a", 3: 1 << 60, 4: {}},
        {0: 1, 1: TITLE, 2: "fund-a", 3: None, 4: {}},
        {0: 1, 1: TITLE, 2: "fund-a", 3: True, 4: {}},
        {0: 1, 1: TITLE, 2: "fund-a", 3: 1, 4: []},
        {0: 1, 1: TITLE, 2: "fund-a", 3: 1, 4: {}, 5: 0},
        {0: 1, 1: TITLE, 2: "fund-a", 3: 1},
        None,
    ],
)
def test_other_payloads_are_refused(payload: cbor.Value) -> None:
    with pytest.raises(FormatError):
        parse_statement(sign(payload), resolve)


def test_payload_that_is_not_cbor_is_refused() -> None:
    with pytest.raises(FormatError):
        parse_statement(cose.sign1(b"\xff\x00", KEY, KID), resolve)


def test_what_cannot_be_signed() -> None:
    with pytest.raises(FormatError, match="at most"):
        make_statement(TITLE, "fund-a", 1, {1: b"x" * MAX_STATEMENT_BYTES}, KEY)
    with pytest.raises(FormatError, match="tenant"):
        make_statement(TITLE, "fund/../a", 1, {}, KEY)
    with pytest.raises(FormatError, match="type"):
        make_statement("<b>", "fund-a", 1, {}, KEY)
    with pytest.raises(FormatError, match="wall time"):
        make_statement(TITLE, "fund-a", -1, {}, KEY)
    with pytest.raises(WireError, match="float"):
        make_statement(TITLE, "fund-a", 1, {1: 0.5}, KEY)  # type: ignore[dict-item]


def test_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(FormatError, match="at most"):
        parse_statement(b"\xd2" + b"\x00" * MAX_STATEMENT_BYTES, resolve)
