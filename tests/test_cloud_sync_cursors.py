"""Cursors: what was signed comes back, and nothing else does."""

from __future__ import annotations

import base64
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_sync.errors import BadCursor, BadRequest, StoreError
from cloud_sync.runtime import cursors
from cloud_sync.runtime.store import Store

KEY = bytes(range(32))
VALUES = st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=40)), max_size=5)


@given(VALUES)
def test_what_was_encoded_is_decoded(values: list[str | int | None]) -> None:
    assert cursors.decode("list", cursors.encode("list", values, KEY), KEY) == tuple(values)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_byte_is_refused(at: int, change: int) -> None:
    raw = bytearray(base64.urlsafe_b64decode(cursors.encode("list", (-1800, "car-1"), KEY) + "=="))
    raw[at % len(raw)] ^= change
    forged = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    with pytest.raises(BadCursor, match="ask again without one"):
        cursors.decode("list", forged, KEY)


@pytest.mark.parametrize(
    "text", ["", "x", "====", "é", "a b", "../..", "AAAA" * 4, "A" * 100_000, "null", "\x00", "W10="]
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(BadCursor):
        cursors.decode("list", text, KEY)


def test_a_cursor_belongs_to_one_list_and_one_store() -> None:
    made = cursors.encode("vehicles of a", (1,), KEY)
    for kind, key in (("vehicles of b", KEY), ("vehicles of a", KEY[::-1]), ("vehicles", KEY)):
        with pytest.raises(BadCursor):
            cursors.decode(kind, made, key)
    assert issubclass(BadCursor, BadRequest)


def test_the_key_is_made_once_and_stays(tmp_path: Path) -> None:
    with Store(tmp_path / "store.db") as store:
        with pytest.raises(StoreError, match="holdfast collect"):
            cursors.secret(store.db)
        with store.transaction() as db:
            cursors.ensure_key(db)
        first = cursors.secret(store.db)
        with store.transaction() as db:
            cursors.ensure_key(db)
        assert cursors.secret(store.db) == first and len(first) == cursors.KEY_BYTES
    with Store(tmp_path / "store.db", read_only=True) as store:
        assert cursors.secret(store.db) == first
    with Store(tmp_path / "other.db") as store:
        with store.transaction() as db:
            cursors.ensure_key(db)
        assert cursors.secret(store.db) != first


def test_a_key_of_the_wrong_size_is_not_used() -> None:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB)")
    db.execute("INSERT INTO meta VALUES('cursor_key', x'00')")
    with pytest.raises(StoreError):
        cursors.secret(db)
