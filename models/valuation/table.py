"""The sales of one market, or vehicles to be valued, as plain numpy columns.

Words (brand, model, city...) become integer codes. A code is used for equality alone and never enters the
network, so that a brand or a model that was never seen has a value too. The same class holds sales (with a
price) and vehicles (without one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]

NONE: Final = -1
"""Code of a missing or unknown word. Two missing words are never equal."""

EPOCH: Final = np.datetime64("1970-01-01", "D")

WORDS: Final = ("car", "brand", "series", "model", "gearbox", "region", "colour", "seller", "body")
"""Columns that become codes. `model` joins the model and the trim."""

NUMBERS: Final = (
    "transfers",
    "displacement_l",
    "condition",
    "electric",
    "seats",
    "length_mm",
    "width_mm",
    "height_mm",
    "launched_age",
)
"""Numeric columns of every market; what a market adds (`x_*`) follows them in alphabetical order."""

KM_A_YEAR: Final = 16_000.0
"""Stands in for a missing odometer, times the age; the gap itself is a feature."""

Anchor = Literal["new_price", "trade_value", "none"]
"""What a price is divided by: the list price when new, the trade's own valuation, or nothing."""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of equal length. Ages in years, `km` in 10,000 km, `anchor` = ln of the anchor price (0 where
    there is none)."""

    day: Ints
    car: Ints
    brand: Ints
    series: Ints
    model: Ints
    gearbox: Ints
    region: Ints
    colour: Ints
    seller: Ints
    body: Ints
    age: Floats
    km: Floats
    km_missing: Floats
    year: Floats
    anchor: Floats
    y: Floats
    numbers: Floats

    def __len__(self) -> int:
        return len(self.day)

    def take(self, rows: Any) -> Table:
        """The given rows (indices or mask)."""
        return Table(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Columns:
    """What a table was made with: the anchor, the extra number columns and the words behind the codes."""

    anchor: Anchor
    extra: tuple[str, ...]
    words: Mapping[str, Mapping[str, int]]
    """Column -> word -> code."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the columns of `Table.numbers`, in order."""
        return NUMBERS + self.extra


def floats(column: Any, length: int) -> Floats:
    """Any numeric column with gaps as float64 with NaN; a missing column is all NaN."""
    if column is None:
        return np.full(length, np.nan)
    array = np.asarray(column)
    if array.dtype == object:
        array = np.array([np.nan if value is None else value for value in array])
    return array.astype(np.float64)


def days(column: Any, length: int) -> Floats:
    """Days since 1970-01-01, NaN where missing, from datetime64 or date objects or None."""
    if column is None:
        return np.full(length, np.nan)
    stamps = np.asarray(column)
    if stamps.dtype == object:
        stamps = np.array(
            [np.datetime64("NaT") if value is None else np.datetime64(value, "D") for value in stamps]
        )
    stamps = stamps.astype("datetime64[D]")
    whole = (stamps - EPOCH).astype(np.float64)
    whole[np.isnat(stamps)] = np.nan
    return whole


def words(column: Any, length: int) -> list[str | None]:
    """A column of text with None where missing."""
    if column is None:
        return [None] * length
    return [
        None if value is None or value == "" else str(value) for value in np.asarray(column, dtype=object)
    ]


def codes(column: Sequence[str | None], vocabulary: Mapping[str, int]) -> Ints:
    """Each word's code, `NONE` where missing or not in the vocabulary."""
    return np.array([NONE if word is None else vocabulary.get(word, NONE) for word in column], dtype=np.int32)


def whole_years(day: Floats) -> Floats:
    """Days since 1970 as a year with its fraction (mean Gregorian year)."""
    return 1970.0 + day / 365.2425


def joined(arrays: Mapping[str, Any], length: int) -> list[str | None]:
    """Model and trim in one word; None where there is neither."""
    models, trims = words(arrays.get("model"), length), words(arrays.get("trim"), length)
    return ["|".join(p for p in pair if p) or None for pair in zip(models, trims, strict=True)]


def extra_columns(arrays: Mapping[str, Any]) -> tuple[str, ...]:
    """The market's own number columns, in alphabetical order."""
    return tuple(sorted(name for name in arrays if name.startswith("x_")))


def word_columns(arrays: Mapping[str, Any], length: int) -> dict[str, list[str | None]]:
    """The text columns of `WORDS`; a series is told apart by its brand too."""
    found = {name: words(arrays.get(name), length) for name in WORDS}
    found["model"] = joined(arrays, length)
    brands = found["brand"]
    found["series"] = [s and f"{b or ''}/{s}" for b, s in zip(brands, found["series"], strict=True)]
    found["model"] = [m and f"{s or ''}/{m}" for s, m in zip(found["series"], found["model"], strict=True)]
    return found


def learn_columns(arrays: Mapping[str, Any], anchor: Anchor, length: int) -> Columns:
    """The vocabulary of a market: every word once, sorted (codes carry no order in time)."""
    found = word_columns(arrays, length)
    return Columns(
        anchor,
        extra_columns(arrays),
        {
            name: {word: code for code, word in enumerate(sorted({w for w in column if w is not None}))}
            for name, column in found.items()
        },
    )


def make_table(arrays: Mapping[str, Any], columns: Columns, length: int) -> Table:
    """Canonical columns (see the market schema) as a `Table`. Prices in the market's currency."""
    found = word_columns(arrays, length)
    coded = {name: codes(column, columns.words.get(name, {})) for name, column in found.items()}
    day = days(arrays.get("seen_on"), length)
    year = floats(arrays.get("model_year"), length)
    registered = days(arrays.get("registered"), length)
    registered = np.where(np.isnan(registered), (year + 0.5 - 1970.0) * 365.2425, registered)
    age = np.clip((day - registered) / 365.2425, 0.0, 40.0)
    year = np.where(np.isnan(year), np.floor(whole_years(registered)), year)
    km = floats(arrays.get("odometer_km"), length) / 10_000.0
    missing = np.isnan(km)
    km = np.where(missing, age * KM_A_YEAR / 10_000.0, np.clip(km, 0.0, 60.0))
    worth = floats(arrays.get(columns.anchor), length) if columns.anchor != "none" else np.ones(length)
    anchor = np.log(np.where(worth > 0, worth, np.nan))
    price = floats(arrays.get("price"), length)
    y = np.log(np.where(price > 0, price, np.nan)) - anchor
    return Table(
        day=day.astype(np.int32),
        **coded,
        age=age,
        km=km,
        km_missing=missing.astype(np.float64),
        year=year,
        anchor=anchor,
        y=y,
        numbers=number_columns(arrays, columns, day, length),
    )


def number_columns(arrays: Mapping[str, Any], columns: Columns, day: Floats, length: int) -> Floats:
    """The matrix of `Columns.numbers`, NaN where missing."""
    launched = floats(arrays.get("launched"), length)
    launch_year = np.floor(launched / 100.0) + ((launched % 100.0) - 0.5) / 12.0
    found = []
    for name in columns.numbers:
        if name == "launched_age":
            found.append(np.clip(whole_years(day) - launch_year, -2.0, 40.0))
        else:
            found.append(floats(arrays.get(name), length))
    return np.stack(found, axis=1)
