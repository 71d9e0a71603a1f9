"""A vehicle's file and its input vector: coarse, small, the same text for the same inputs, and strict."""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.wire import cbor
from models.errors import ValuationError
from models.valuation.vehicle import MAX_VECTOR, Inputs, coarse, decode, read_vehicle
from tests.valuation_small import DAY, VEHICLE

words = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x9FA5, exclude_categories=["C", "Z"]),
    min_size=1,
    max_size=8,
)
vehicles = st.fixed_dictionaries(
    {
        "brand": words,
        "series": words,
        "registered": st.dates(
            min_value=dt.date(2005, 1, 1),
            max_value=dt.date(2022, 6, 1),
        ).map(str),
    },
    optional={
        "model": words,
        "region": words,
        "odometer_km": st.floats(0, 30_000),
        "new_price": st.floats(1_000, 1e7),
        "trade_value": st.floats(500, 1e6),
        "condition": st.floats(0, 50),
        "displacement_l": st.floats(0, 8),
        "transfers": st.integers(0, 20),
        "electric": st.booleans(),
        "x_f1": st.floats(-1e6, 1e6),
    },
)


@settings(max_examples=80, deadline=None)
@given(vehicles)
def test_a_vector_gives_its_inputs_back_and_is_the_only_text_of_them(raw: dict[str, Any]) -> None:
    inputs = read_vehicle(raw, DAY)
    vector = inputs.encode()
    assert len(vector) <= MAX_VECTOR
    assert decode(vector) == inputs
    assert coarse(inputs) == inputs
    assert inputs.encode() == vector


def test_a_vector_is_coarse() -> None:
    one = read_vehicle(
        {**VEHICLE, "registered": "2019-03-01", "odometer_km": 60_501, "trade_value": 81_234}, DAY
    )
    two = read_vehicle(
        {**VEHICLE, "registered": "2019-03-31", "odometer_km": 61_499, "trade_value": 81_160}, DAY
    )
    assert one == two
    assert one.odometer_km == 61_000 and one.money["trade_value"] == 81_200


def test_attestations_are_carried_as_declared() -> None:
    raw = {
        **VEHICLE,
        "attestations": [{"kind": "accident", "effect": -0.06, "uncertainty": 0.03, "source": "Insurer A"}],
    }
    found = decode(read_vehicle(raw, DAY).encode()).attestations[0]
    assert (found.kind, found.effect, found.uncertainty, found.source) == (
        "accident",
        -0.06,
        0.03,
        "Insurer A",
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"brand": None}, "no brand"),
        ({"series": ""}, "no series"),
        ({"registered": None, "model_year": None}, "age is not known"),
        ({"registered": "1960-01-01"}, "age of"),
        ({"registered": "2031-01-01"}, "age of"),
        ({"registered": "11.03.2019"}, "no date"),
        ({"registered": 2019}, "no date"),
        ({"odometer_km": 3_000_000}, "km at an age"),
        ({"odometer_km": -5}, "odometer_km"),
        ({"odometer_km": "61,234"}, "must be a number"),
        ({"odometer_km": True}, "must be a number"),
        ({"new_price": 0}, "new_price"),
        ({"new_price": float("nan")}, "must be a number"),
        ({"condition": 77}, "condition of 77"),
        ({"model_year": 19}, "model_year of 19"),
        ({"electric": "yes"}, "electric"),
        ({"model": "x" * 60}, "model must be"),
        ({"model": "a\nb"}, "model must be"),
        ({"vin": "WBA00000000000000"}, "unknown in a vehicle's file: vin"),
        ({"attestations": {}}, "list"),
        ({"attestations": [{"kind": "accident"}]}, "nothing else"),
        ({"attestations": [{"kind": "magic", "effect": 0, "uncertainty": 0, "source": "x"}]}, "one of"),
        ({"attestations": [{"kind": "accident", "effect": -0.9, "uncertainty": 0, "source": "x"}]}, "effect"),
        (
            {"attestations": [{"kind": "accident", "effect": None, "uncertainty": 0, "source": "x"}]},
            "declares",
        ),
        ({"attestations": [{"kind": "accident", "effect": 0, "uncertainty": 0, "source": ""}]}, "source"),
        (
            {
                "model": "m" * 48,
                "colour": "c" * 48,
                "attestations": [{"kind": "insurance", "effect": 0, "uncertainty": 0, "source": "x" * 48}]
                * 4,
            },
            "shorten names",
        ),
        (
            {"attestations": [{"kind": "insurance", "effect": 0, "uncertainty": 0, "source": "x"}] * 5},
            "at most 4",
        ),
    ],
)
def test_a_vehicle_that_cannot_be_meant_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValuationError, match=text):
        read_vehicle({**VEHICLE, **change}, DAY)


def test_a_file_that_is_no_object_is_refused() -> None:
    with pytest.raises(ValuationError, match="JSON object"):
        read_vehicle([VEHICLE], DAY)


def vector_of(body: Any) -> str:
    return base64.urlsafe_b64encode(cbor.encode(body)).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "vector",
    [
        "",
        "AAAA",
        "not base64!",
        "x" * 401,
        vector_of({0: 2}),
        vector_of([1, 2]),
        vector_of({0: 1, 1: DAY, 2: [], 3: [], 4: [], 5: None, 6: None, 7: None}),
    ],
)
def test_a_damaged_vector_is_refused(vector: str) -> None:
    with pytest.raises(ValuationError, match="vector"):
        decode(vector)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200), st.integers(0, 255))
def test_a_flipped_byte_gives_other_inputs_or_a_refusal(place: int, value: int) -> None:
    good = read_vehicle(VEHICLE, DAY)
    data = bytearray(base64.urlsafe_b64decode(good.encode() + "=="))
    data[place % len(data)] = value
    text = base64.urlsafe_b64encode(bytes(data)).rstrip(b"=").decode()
    try:
        found = decode(text)
    except ValuationError:
        return
    assert isinstance(found, Inputs) and (found == good) == (text == good.encode())
