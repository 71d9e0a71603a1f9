"""A vehicle to be valued: read from its file, made coarse, and packed into a vector that lets anyone value it
again.

A valuation is always made from the vector, never from the file, so that whoever holds model, pack and vector
gets the same bytes. Coarse: month of registration, mileage to 1,000 km, list price to the unit, trade value
to 3 digits; no VIN, no plate, no owner. The vector is deterministic CBOR (RFC 8949 section 4.2.1) in
base64url (RFC 4648 section 5), at most 400 bytes.

The file is a JSON object of the market schema's column names:

    {"brand": "...", "series": "...", "model": "...", "registered": "2019-03-01", "odometer_km": 61000,
     "new_price": 158000, "region": "...", "electric": false,
     "attestations": [{"kind": "accident", "effect": -0.06, "uncertainty": 0.03, "source": "..."}]}
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from firmware_bridge.errors import WireError
from firmware_bridge.wire import cbor
from models.errors import ValuationError
from models.market.schema import BY_NAME, EXTRA_PREFIX

VERSION: Final = 1
MAX_VECTOR: Final = 400
"""Bytes of the vector in base64: what a valuation event may carry."""
MAX_WORD: Final = 48
"""Characters of one word; the longest name of a version in the developers' files has 41."""
MAX_AGE_YEARS: Final = 30.0
"""Older cars are collectors' or scrap; no market here has enough of them to learn a price from."""
MAX_KM: Final = 600_000.0
"""Beyond it the odometer is a slip or the car a taxi; the network saw none."""
MAX_KM_A_YEAR: Final = 150_000.0
"""More than a car can be driven: two drivers, day and night."""
KM_STEP: Final = 1_000
NUMBER_STEP: Final = 1_000
"""Fractions are kept to a thousandth."""
ATTESTATIONS: Final = 4
MAX_EFFECT: Final = 0.5
"""A declared effect beyond a half is not an adjustment but another price."""
KINDS: Final = ("accident", "maintenance", "insurance")
WORDS: Final = ("brand", "series", "model", "trim", "gearbox", "region", "colour", "seller", "body")
NUMBERS: Final = (
    "model_year", "transfers", "displacement_l", "condition", "seats", "length_mm", "width_mm", "height_mm",
    "launched",
)  # fmt: skip
MONEY: Final = ("new_price", "trade_value")
EPOCH: Final = dt.date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Attestation:
    """A declared adjustment: `effect` and `uncertainty` are shares of the price, of the source's own
    making."""

    kind: str
    effect: float
    uncertainty: float
    source: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """The coarse inputs. `day` of the valuation since 1970-01-01; `registered`: months since 1970-01, None
    unknown."""

    day: int
    words: Mapping[str, str]
    numbers: Mapping[str, float]
    money: Mapping[str, float]
    extras: Mapping[str, float]
    odometer_km: float | None
    registered: int | None
    electric: bool | None
    attestations: tuple[Attestation, ...] = ()

    def encode(self) -> str:
        """The vector. Raises ValuationError: the words are too long for it."""
        body: dict[int, cbor.Value] = {
            0: VERSION,
            1: self.day,
            2: [self.words.get(name) for name in WORDS],
            3: [_scaled(self.numbers.get(name)) for name in NUMBERS],
            4: [None if name not in self.money else round(self.money[name]) for name in MONEY],
            5: None if self.odometer_km is None else round(self.odometer_km / KM_STEP),
            6: self.registered,
            7: self.electric,
        }
        if self.extras:
            body[8] = [
                [name.removeprefix(EXTRA_PREFIX), _scaled(v)] for name, v in sorted(self.extras.items())
            ]
        if self.attestations:
            body[9] = [
                [KINDS.index(a.kind), _scaled(a.effect), _scaled(a.uncertainty), a.source]
                for a in self.attestations
            ]
        text = base64.urlsafe_b64encode(cbor.encode(body)).rstrip(b"=").decode("ascii")
        if len(text) > MAX_VECTOR:
            raise ValuationError(
                f"the coarse inputs take {len(text)} bytes of {MAX_VECTOR}; shorten names or sources"
            )
        return text

    def arrays(self) -> dict[str, Any]:
        """The columns of the market schema, one row."""
        found: dict[str, Any] = {name: np.array([self.words.get(name, "")], dtype=object) for name in WORDS}
        for name in NUMBERS:
            found[name] = np.array([self.numbers.get(name, math.nan)])
        for name in MONEY:
            found[name] = np.array([self.money.get(name, math.nan)])
        for name, value in self.extras.items():
            found[name] = np.array([value])
        found["odometer_km"] = np.array([math.nan if self.odometer_km is None else self.odometer_km])
        found["electric"] = np.array([math.nan if self.electric is None else float(self.electric)])
        found["seen_on"] = np.array([np.datetime64(self.day, "D")])
        found["registered"] = np.array(
            [np.datetime64("NaT") if self.registered is None else np.datetime64(self.registered, "M")]
        ).astype("datetime64[D]") + np.timedelta64(14, "D")
        return found

    @property
    def age_years(self) -> float | None:
        """From mid month of registration (else mid model year) to the day of the valuation."""
        if self.registered is not None:
            return (self.day - (30.4369 * self.registered + 14.0)) / 365.2425
        year = self.numbers.get("model_year")
        return None if year is None else self.day / 365.2425 - (year + 0.5 - 1970.0)


def _scaled(value: float | None) -> int | None:
    return None if value is None else round(value * NUMBER_STEP)


def coarse(inputs: Inputs) -> Inputs:
    """What the vector says of the inputs: the only thing a valuation is made from."""
    return decode(inputs.encode())


def decode(vector: str) -> Inputs:
    """The inputs of a vector, checked as if they came from a file. Raises ValuationError."""
    if len(vector) > MAX_VECTOR:
        raise ValuationError(f"a vector has at most {MAX_VECTOR} characters; this one has {len(vector)}")
    try:
        data = base64.b64decode(vector + "=" * (-len(vector) % 4), altchars=b"-_", validate=True)
        body = cbor.decode(data)
        inputs = _inputs_of(body)
        if inputs.encode() != vector:
            raise ValueError("it is not the one text of its inputs")
    except (binascii.Error, WireError, ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise ValuationError(f"the input vector is damaged ({error}); copy it whole") from None
    check(inputs)
    return inputs


def _inputs_of(body: Any) -> Inputs:
    if not isinstance(body, dict) or body.get(0) != VERSION:
        raise ValueError(f"not of version {VERSION}")

    def back(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("a number is missing")
        return value / NUMBER_STEP

    def whole(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 10**12:
            raise ValueError("a whole number is missing")
        return value

    words = {n: str(w) for n, w in zip(WORDS, body[2], strict=True) if w is not None}
    numbers = {n: back(v) for n, v in zip(NUMBERS, body[3], strict=True) if v is not None}
    money = {n: float(whole(v)) for n, v in zip(MONEY, body[4], strict=True) if v is not None}
    extras = {EXTRA_PREFIX + str(name): back(value) for name, value in body.get(8, [])}
    attestations = tuple(
        Attestation(KINDS[whole(kind)], back(effect), back(doubt), str(source))
        for kind, effect, doubt, source in body.get(9, [])
    )
    return Inputs(
        whole(body[1]), words, numbers, money, extras,
        None if body[5] is None else float(whole(body[5]) * KM_STEP),
        None if body[6] is None else whole(body[6]),
        None if body[7] is None else bool(body[7]), attestations,
    )  # fmt: skip


# --- from a file ---------------------------------------------------------------------------------------


def read_vehicle(raw: Any, day: int) -> Inputs:
    """The coarse inputs of a vehicle's file, for a valuation on `day`. Raises ValuationError with what to
    do."""
    if not isinstance(raw, dict):
        raise ValuationError("a vehicle's file is a JSON object of column names and values")
    known = {*WORDS, *NUMBERS, *MONEY, "odometer_km", "registered", "electric", "attestations"}
    unknown = sorted(n for n in raw if n not in known and not str(n).startswith(EXTRA_PREFIX))
    if unknown:
        raise ValuationError(
            f"unknown in a vehicle's file: {', '.join(map(str, unknown[:5]))}; known are "
            f"{', '.join(sorted(known))} and {EXTRA_PREFIX}*"
        )
    odometer = _number(raw, "odometer_km", 0.0, math.inf)
    electric = raw.get("electric")
    if electric is not None and not isinstance(electric, bool):
        raise ValuationError("electric is true, false or left out")
    inputs = Inputs(
        day,
        {name: _word(raw, name) for name in WORDS if raw.get(name) not in (None, "")},
        {name: v for name in NUMBERS if (v := _number(raw, name)) is not None},
        {name: _digits(name, v) for name in MONEY if (v := _number(raw, name, 1.0)) is not None},
        {str(n): v for n in raw if str(n).startswith(EXTRA_PREFIX) and (v := _free(raw, n)) is not None},
        odometer,
        _month(raw.get("registered")),
        electric,
        _attestations(raw.get("attestations", [])),
    )
    check(inputs)
    return coarse(inputs)


def check(inputs: Inputs) -> None:
    """Refuse a vehicle that no price can be told of: unnamed, ageless, absurdly old or far driven."""
    for name in ("brand", "series"):
        if not inputs.words.get(name):
            raise ValuationError(f"the vehicle has no {name}; without it no market can be chosen")
    if not 0 < inputs.day < 60_000:
        raise ValuationError("the day of the valuation is not between 1970 and 2134")
    age = inputs.age_years
    if age is None:
        raise ValuationError("the vehicle has neither registered nor model_year: its age is not known")
    if not -0.6 <= age <= MAX_AGE_YEARS:
        raise ValuationError(
            f"an age of {age:.1f} years cannot be valued (0 to {MAX_AGE_YEARS:.0f}); check registered and day"
        )
    if inputs.odometer_km is not None:
        most = min(MAX_KM, MAX_KM_A_YEAR * max(age, 0.0) + 20_000.0)
        if not 0.0 <= inputs.odometer_km <= most:
            raise ValuationError(
                f"{inputs.odometer_km:,.0f} km at an age of {max(age, 0.0):.1f} years cannot be valued "
                f"(at most {most:,.0f}); check odometer_km and its unit"
            )
    for name, value in inputs.numbers.items():
        _in_range(name, value)
    for name, value in inputs.money.items():
        _in_range(name, value)
    if len(inputs.attestations) > ATTESTATIONS:
        raise ValuationError(f"at most {ATTESTATIONS} attestations are taken into account")


def _in_range(name: str, value: float) -> None:
    column = BY_NAME[name]
    low = -math.inf if column.low is None else column.low
    high = math.inf if column.high is None else column.high
    if not low <= value <= high:
        raise ValuationError(
            f"{name} of {value:g} is outside {low:g} to {high:g} {column.unit}; check its unit"
        )


def _word(raw: Mapping[str, Any], name: str) -> str:
    value = raw[name]
    if not isinstance(value, str) or len(value) > MAX_WORD or not value.isprintable():
        raise ValuationError(f"{name} must be a text of at most {MAX_WORD} printable characters")
    return " ".join(value.split())


def _free(raw: Mapping[str, Any], name: Any) -> float | None:
    value = raw[name]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e9:
        raise ValuationError(f"{name} must be a number")
    return float(value)


def _number(
    raw: Mapping[str, Any], name: str, low: float = -math.inf, high: float = math.inf
) -> float | None:
    if raw.get(name) is None:
        return None
    value = _free(raw, name)
    if value is None or not low <= value <= high:
        raise ValuationError(f"{name} of {value} is outside {low:g} to {high:g}; check its unit")
    return value


def _digits(name: str, value: float) -> float:
    """A list price to the unit; a trade value, which may tell one car from others, to three digits."""
    if name == "new_price" or value <= 0:
        return float(round(value))
    step = 10.0 ** max(math.floor(math.log10(value)) - 2, 0)
    return float(round(value / step) * step)


def _month(value: Any) -> int | None:
    if value is None:
        return None
    try:
        day = dt.date.fromisoformat(value if len(value) > 7 else f"{value}-01")
    except (ValueError, TypeError):
        raise ValuationError(f"registered of {value!r} is no date; write YYYY-MM-DD or YYYY-MM") from None
    return (day.year - 1970) * 12 + day.month - 1


def _attestations(raw: Any) -> tuple[Attestation, ...]:
    if not isinstance(raw, list):
        raise ValuationError("attestations is a list of objects")
    found = []
    for one in raw:
        if not isinstance(one, dict) or set(one) != {"kind", "effect", "uncertainty", "source"}:
            raise ValuationError("an attestation has kind, effect, uncertainty and source, and nothing else")
        if one["kind"] not in KINDS:
            raise ValuationError(f"kind of an attestation is one of {', '.join(KINDS)}")
        effect = _number(one, "effect", -MAX_EFFECT, MAX_EFFECT)
        doubt = _number(one, "uncertainty", 0.0, MAX_EFFECT)
        if effect is None or doubt is None:
            raise ValuationError(
                "an attestation declares its effect and its uncertainty as shares of the price"
            )
        source = one["source"]
        if not isinstance(source, str) or not 0 < len(source) <= MAX_WORD or not source.isprintable():
            raise ValuationError(f"the source of an attestation is a text of 1 to {MAX_WORD} characters")
        found.append(Attestation(one["kind"], effect, doubt, source))
    return tuple(found)
