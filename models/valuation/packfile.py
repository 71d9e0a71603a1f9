"""Market packs as bytes: deterministic CBOR (RFC 8949 section 4.2), arrays as little-endian float32 or int32.

    {"holdfast": "pack", "version": 1, "market", "currency", "synthetic", "anchor", "features" (hash),
    "extra", "monday", "cutoff", "brand", "series", "words": {column: [word, ...]}, "levels": {name: [codes,
    count, total]}, "sales": {column: bytes}, and one entry for each array of `Pack`}

Codes in the file are places in the lists of words. A sale's `car` is 31 bits of the keyed hash of its car.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import cbor2
import numpy as np

from models.errors import ValuationError
from models.valuation.features import features_hash
from models.valuation.pack import LEVELS, Level, Pack
from models.valuation.state import REGIONS, SEGMENTS, SEQUENCE_WEEKS
from models.valuation.table import NONE, NUMBERS, Anchor, Columns, Floats, Ints, Table

VERSION: Final = 1
MAX_BYTES: Final = 1_000_000
"""Largest pack that is read: with its model it must stay within what a node downloads over a bad link."""

KEPT: Final = [NUMBERS.index("displacement_l"), NUMBERS.index("condition")]
"""Number columns of past sales that features look at; the others stay behind."""

CODED: Final = ("brand", "series", "model", "gearbox", "region", "colour", "seller", "body")
SPECIAL: Final = {"year": None, "brand_region": "region"}
"""Levels whose codes are not the words of their own name."""

SHAPES: Final[dict[str, tuple[int, ...]]] = {
    "curve": (12,),
    "head": (3,),
    "centre": (5,),
    "edges": (SEGMENTS - 1,),
    "brand_sum": (2,),
    "series_sum": (2,),
    "sequence_all": (SEQUENCE_WEEKS, 2),
    "sequence_segment": (SEGMENTS, SEQUENCE_WEEKS, 2),
    "sequence_brand": (SEQUENCE_WEEKS, 2),
    "sequence_series": (SEQUENCE_WEEKS, 2),
    "sequence_region": (REGIONS, SEQUENCE_WEEKS, 2),
    "region_panel": (REGIONS, 3),
}


class PackError(ValuationError):
    """A market pack that is damaged, or not a pack; the text says what to do."""


@dataclass(frozen=True, slots=True)
class PackMeta:
    """What a pack says about itself. `columns` turns a vehicle's words into the pack's codes."""

    market: str
    currency: str
    synthetic: bool
    features: str
    head: bool
    brand: str
    series: str
    columns: Columns
    monday: int
    sha256: str = ""


def tag_of(car: str) -> int:
    """31 bits of a car's keyed hash (32 hexadecimal digits)."""
    return int(hashlib.blake2b(car.encode(), digest_size=4).hexdigest(), 16) & 0x7FFFFFFF


def local(used: Ints, words: Mapping[int, str]) -> tuple[dict[int, int], list[str]]:
    """Global code -> place in the list of words, in the order of the global codes; and that list."""
    codes = sorted({int(code) for code in np.unique(used) if code >= 0})
    return {code: place for place, code in enumerate(codes)}, [words[code] for code in codes]


def moved(codes: Ints, places: Mapping[int, int]) -> Ints:
    """Codes as places; what has none keeps its negative code."""
    return np.array([places.get(int(code), min(int(code), NONE)) for code in codes], dtype=np.int32)


def used_codes(pack: Pack, name: str) -> Ints:
    """Codes of a column that occur anywhere in a pack."""
    parts = [getattr(pack.sales, name)]
    parts += [item.codes for key, item in pack.levels.items() if SPECIAL.get(key, key) == name]
    if name == "region":
        parts.append(pack.regions)
    if name in ("brand", "series"):
        parts.append(np.array([getattr(pack, name)], dtype=np.int32))
    return np.concatenate(parts).astype(np.int32)


def localised(pack: Pack, columns: Columns) -> tuple[Pack, dict[str, list[str]]]:
    """The pack with its own small codes, and the words behind them. Features of it are the same."""
    words: dict[str, list[str]] = {}
    places: dict[str, dict[int, int]] = {}
    for name in CODED:
        back = {code: word for word, code in columns.words.get(name, {}).items()}
        places[name], words[name] = local(used_codes(pack, name), back)
    cars = {code: word for word, code in columns.words["car"].items()}
    sales = pack.sales
    table = {field.name: getattr(sales, field.name) for field in fields(Table)}
    table |= {name: moved(table[name], places[name]) for name in CODED}
    table["car"] = np.array(
        [tag_of(cars[int(code)]) if code >= 0 else NONE for code in sales.car], dtype=np.int32
    )
    levels = {}
    for name, item in pack.levels.items():
        column = SPECIAL.get(name, name)
        levels[name] = (
            item if column is None else Level(moved(item.codes, places[column]), item.count, item.total)
        )
    whole = {field.name: getattr(pack, field.name) for field in fields(Pack)}
    whole |= {
        "brand": places["brand"].get(pack.brand, NONE),
        "series": places["series"].get(pack.series, NONE),
        "regions": moved(pack.regions, places["region"]),
        "levels": levels,
        "sales": Table(**table),
    }
    return Pack(**whole), words


def as_bytes(values: Any) -> bytes:
    """int32 or float32, little-endian, row by row."""
    array = np.asarray(values)
    return array.astype("<i4" if array.dtype.kind in "iu" else "<f4").tobytes()


def write_pack(
    pack: Pack,
    columns: Columns,
    *,
    market: str,
    currency: str,
    synthetic: bool,
    head: bool,
    names: tuple[str, str],
) -> bytes:
    """A pack as bytes. `names`: the words of its brand and series, also where the market knows neither."""
    own, words = localised(pack, columns)
    return cbor2.dumps(
        {
            "holdfast": "pack",
            "version": VERSION,
            "market": market,
            "currency": currency,
            "synthetic": synthetic,
            "anchor": columns.anchor,
            "features": features_hash(columns, head=head),
            "head_used": head,
            "extra": list(columns.extra),
            "names": list(names),
            "monday": own.monday,
            "cutoff": own.cutoff,
            "brand": own.brand,
            "series": own.series,
            "words": words,
            "everything": as_bytes([own.everything]),
            "fill": as_bytes(own.fill),
            "residual": as_bytes(own.residual),
            "regions": as_bytes(own.regions),
            "levels": {
                name: [as_bytes(item.codes), as_bytes(item.count), as_bytes(item.total)]
                for name, item in own.levels.items()
            },
            "sales": {
                field.name: as_bytes(own.sales.numbers[:, KEPT] if field.name == "numbers" else column)
                for field in fields(Table)
                for column in (getattr(own.sales, field.name),)
            },
            **{name: as_bytes(getattr(own, name)) for name in SHAPES},
        },
        canonical=True,
    )


def whole_numbers(data: Any) -> Ints:
    """int32 as they stand in a file."""
    return np.frombuffer(data, dtype="<i4").astype(np.int32)


def reals(data: Any, shape: tuple[int, ...] = (-1,)) -> Floats:
    """float32 as they stand in a file, as float64."""
    return np.frombuffer(data, dtype="<f4").astype(np.float64).reshape(shape)


def read_table(data: Mapping[str, Any], numbers: int) -> Table:
    """The sales of a pack."""
    integers = ("day", "car", *CODED)
    found: dict[str, Any] = {name: whole_numbers(data[name]) for name in integers}
    for field in fields(Table):
        if field.name not in integers:
            found[field.name] = reals(data[field.name])
    kept = found["numbers"].reshape(-1, len(KEPT))
    found["numbers"] = np.full((len(kept), numbers), np.nan)
    found["numbers"][:, KEPT] = kept
    if {len(column) for column in found.values()} - {len(found["day"])}:
        raise ValueError("columns of unequal length")
    return Table(**found)


def read_pack(data: bytes) -> tuple[Pack, PackMeta]:
    """The pack and what it says about itself. Raises PackError: not a pack, damaged, too large, or of another
    version."""
    if len(data) > MAX_BYTES:
        raise PackError(f"the pack has {len(data)} bytes, more than {MAX_BYTES}; fetch it again")
    try:
        found = cbor2.loads(data)
        if not isinstance(found, dict) or found.get("holdfast") != "pack":
            raise PackError("the file is no market pack; give one made by `holdfast train valuation`")
        if found["version"] != VERSION:
            raise PackError(
                f"the pack has version {found['version']}, this software reads {VERSION}; "
                "update one of the two"
            )
        return decoded(found, hashlib.sha256(data).hexdigest())
    except PackError:
        raise
    except (cbor2.CBORDecodeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise PackError(f"the market pack is damaged ({type(error).__name__}); fetch it again") from None


def decoded(found: Mapping[str, Any], digest: str) -> tuple[Pack, PackMeta]:
    """A pack's map as `Pack` and `PackMeta`."""
    extra = tuple(str(name) for name in found["extra"])
    anchor: Anchor = found["anchor"]
    if anchor not in ("new_price", "trade_value", "none"):
        raise ValueError("unknown anchor")
    words = {name: {word: code for code, word in enumerate(found["words"][name])} for name in CODED}
    levels = {
        name: Level(whole_numbers(c), reals(n), reals(s)) for name, (c, n, s) in found["levels"].items()
    }
    if set(levels) != set(LEVELS):
        raise ValueError("levels")
    numbers = len(NUMBERS) + len(extra)
    pack = Pack(
        monday=int(found["monday"]),
        cutoff=int(found["cutoff"]),
        brand=int(found["brand"]),
        series=int(found["series"]),
        fill=reals(found["fill"], (numbers,)),
        everything=float(reals(found["everything"], (1,))[0]),
        levels=levels,
        sales=read_table(found["sales"], numbers),
        residual=reals(found["residual"]),
        regions=whole_numbers(found["regions"]),
        **{name: reals(found[name], shape) for name, shape in SHAPES.items()},
    )
    if len(pack.residual) != len(pack.sales):
        raise ValueError("residuals")
    columns = Columns(anchor, extra, words)
    meta = PackMeta(
        market=str(found["market"]),
        currency=str(found["currency"]),
        synthetic=bool(found["synthetic"]),
        features=str(found["features"]),
        head=bool(found["head_used"]),
        brand=str(found["names"][0]),
        series=str(found["names"][1]),
        columns=columns,
        monday=pack.monday,
        sha256=digest,
    )
    return pack, meta


def vehicle_columns(meta: PackMeta, car: str | None) -> Columns:
    """Columns for `make_table` of one vehicle; `car` (its keyed hash) leaves its own sales out of the
    evidence."""
    words = dict(meta.columns.words)
    if car:
        words["car"] = {car: tag_of(car)}
    return Columns(meta.columns.anchor, meta.columns.extra, words)
