"""A pack gives a node, bit for bit, the features that training saw; what is damaged is refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import cbor2
import numpy as np
import pytest

from models.valuation.dataset import build
from models.valuation.features import Features, features_hash, features_of
from models.valuation.pack import Cutter
from models.valuation.packfile import MAX_BYTES, PackError, read_pack, vehicle_columns, write_pack
from models.valuation.state import last_visible, monday, week_state
from models.valuation.table import NONE, make_table
from tests.models_valuation_world import market

TABLE, COLUMNS, ARRAYS = market(900)
WEEK = int(np.unique(monday(TABLE.day))[25])
STATE = week_state(TABLE, last_visible(TABLE), WEEK)


def packed(series: int) -> bytes:
    brand = int(TABLE.brand[TABLE.series == series][0])
    words = {code: word for word, code in COLUMNS.words["series"].items()}
    brands = {code: word for word, code in COLUMNS.words["brand"].items()}
    return write_pack(
        Cutter(STATE).cut(brand, series), COLUMNS, market="test", currency="XTS", synthetic=True, head=True,
        names=(brands[brand], words[series]),
    )  # fmt: skip


def vehicle(row: int) -> dict[str, Any]:
    """The row as a node is given it: without its price."""
    return {name: column[row : row + 1] for name, column in ARRAYS.items() if name != "price"}


def test_the_node_computes_what_training_saw() -> None:
    trained = build(TABLE, head=True, weeks=[WEEK]).features
    rows = np.flatnonzero(monday(TABLE.day) == WEEK)
    assert len(rows) > 10
    for row in rows:
        pack, meta = read_pack(packed(int(TABLE.series[row])))
        given = vehicle(int(row))
        one = features_of(make_table(given, vehicle_columns(meta, str(given["car"][0])), 1), pack)
        for field in fields(Features):
            if field.name != "chosen":
                mine, theirs = getattr(one, field.name)[0], getattr(trained, field.name)[row]
                assert np.array_equal(mine, theirs), (int(row), field.name, np.abs(mine - theirs).max())


def test_the_same_state_gives_the_same_bytes_and_they_are_small() -> None:
    data = packed(2)
    assert data == packed(2)
    assert len(data) < 200_000
    pack, meta = read_pack(data)
    assert (meta.market, meta.currency, meta.synthetic, meta.series) == (
        "test",
        "XTS",
        True,
        "brand 0/series 2",
    )
    assert meta.features == features_hash(COLUMNS, head=True)
    assert meta.monday == WEEK
    assert pack.cutoff == WEEK - 14


def test_a_pack_names_no_car() -> None:
    data = packed(2)
    for car in ARRAYS["car"][:50]:
        assert str(car).encode() not in data


def test_unknown_words_have_no_code() -> None:
    _, meta = read_pack(packed(2))
    given = vehicle(int(np.flatnonzero(TABLE.series == 2)[0])) | {
        "region": np.array(["nowhere"], dtype=object)
    }
    table = make_table(given, vehicle_columns(meta, None), 1)
    assert table.region[0] == NONE
    assert table.car[0] == NONE


def test_features_hash_tells_markets_and_lines_apart() -> None:
    other = features_hash(COLUMNS, head=False)
    assert other != features_hash(COLUMNS, head=True)


def change(**entries: Any) -> bytes:
    found = cbor2.loads(packed(2))
    return cbor2.dumps(found | entries, canonical=True)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "damaged"),
        (packed(2)[:-100], "damaged"),
        (b"\xa0", "no market pack"),
        (cbor2.dumps([1]), "no market pack"),
        (b"x" * (MAX_BYTES + 1), "more than"),
        (change(version=9), "version 9"),
        (change(curve=b"\0" * 8), "damaged"),
        (change(sales={}), "damaged"),
        (change(residual=b"\0" * 4), "damaged"),
        (change(anchor="guess"), "damaged"),
        (change(levels={}), "damaged"),
    ],
)
def test_what_is_no_pack_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(PackError, match=says):
        read_pack(data)
