"""The sales table: one row a sale, whoever sold it. Columns, types, units, ranges and meanings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final


@unique
class Kind(StrEnum):
    """How a column is stored; the value is its name in reports."""

    U64 = "u64"
    I16 = "i16"
    I32 = "i32"
    F32 = "f32"
    F64 = "f64"
    TEXT = "text"
    DATE = "date"
    BOOL = "bool"

    @property
    def is_number(self) -> bool:
        """Whether a mapping reads it as a number."""
        return self in (Kind.I16, Kind.I32, Kind.F32, Kind.F64)


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `low` and `high` are the closed range in `unit`; what lies outside becomes unknown."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    required: bool = False
    """Never null: a row that lacks it is refused."""
    made: bool = False
    """Made at the door; no mapping may fill it."""


MIN_RATIO: Final = 0.02
"""Lowest price over price when new that can be meant: below it, a typing error or a wreck sold for parts."""
MAX_RATIO: Final = 2.5
"""Highest: above it the unit is wrong; the dearest collector cars of the listings stay below."""
MAX_TRADE_RATIO: Final = 20.0
"""Price over (or under) the trade's valuation at which a column has slipped; auctions stay within 11."""
OLDEST: Final = "1990-01-01"
"""No file of sales is older; an earlier date is a counter that started at an epoch."""
EXTRA_PREFIX: Final = "x_"
"""Numbers without a meaning of their own (anonymous features) keep this before their name."""

_TEXT_COLUMNS: Final = {
    "brand": "make, as the mapping spells it",
    "series": "line within the brand",
    "model": "the finest name of the version; the series where a file has none",
}
_OPTIONAL_TEXT: Final = {
    "region": "city or state of the sale",
    "gearbox": "kind of gearbox, as given",
    "colour": "outer colour",
    "seller": "dealer or company that sold",
    "body": "kind of body",
    "trim": "equipment line",
    "fuel": "kind of fuel, as given",
    "country": "where the maker is at home, as given",
}

COLUMNS: Final[tuple[Column, ...]] = (
    Column("row_id", Kind.U64, "names the source row: the same row, the same id", made=True, required=True),
    Column(
        "car", Kind.TEXT, "keyed hash of the vehicle, 32 hexadecimal digits; the key stays in the folder",
        made=True, required=True,
    ),
    Column("seen_on", Kind.DATE, "the day the price became visible", required=True),
    Column("price", Kind.F64, "price of this sale", "currency", 0.0, 1e9, required=True),
    Column("new_price", Kind.F64, "list price when new", "currency", 1.0, 1e9),
    Column("trade_value", Kind.F64, "the trade's own valuation", "currency", 1.0, 1e9),
    *(Column(name, Kind.TEXT, meaning, required=True) for name, meaning in _TEXT_COLUMNS.items()),
    Column("model_year", Kind.I16, "model year", "year", 1950, 2100),
    Column("registered", Kind.DATE, "first registration; mid model year where a file has none"),
    Column("odometer_km", Kind.F64, "distance driven", "km", 0.0, 2e6),
    *(Column(name, Kind.TEXT, meaning) for name, meaning in _OPTIONAL_TEXT.items()),
    Column("transfers", Kind.I16, "how often it changed hands", "times", 0, 99),
    Column("displacement_l", Kind.F32, "engine displacement; 0 where there is no engine", "l", 0.0, 20.0),
    Column("condition", Kind.F32, "condition grade, 50 is best", "grade", 0.0, 50.0),
    Column("electric", Kind.BOOL, "whether it drives by battery alone"),
    Column("length_mm", Kind.F32, "length", "mm", 1000.0, 20000.0),
    Column("width_mm", Kind.F32, "width", "mm", 500.0, 4000.0),
    Column("height_mm", Kind.F32, "height", "mm", 500.0, 5000.0),
    Column("launched", Kind.I32, "month the version was launched, YYYYMM", "month", 195001, 210012),
    Column("seats", Kind.I16, "seats", "count", 1, 99),
)  # fmt: skip
"""Every column but the `x_` ones, in the order of storage."""

BY_NAME: Final = {column.name: column for column in COLUMNS}


def extra(name: str) -> Column:
    """The column of an anonymous number; `name` begins with `x_`."""
    return Column(name, Kind.F32, "a number of the source without a meaning of its own")


def column(name: str) -> Column:
    """The column called `name`. Raises KeyError for a name that is neither known nor begins with `x_`."""
    return extra(name) if name.startswith(EXTRA_PREFIX) else BY_NAME[name]
