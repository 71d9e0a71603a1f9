"""The operator's own list of places: names for coarse positions, without any map of somebody else's. Pure.

A list is CSV with a header: `name, lat, lon` and, where wanted, `radius_m` and `kind`, in any order, with
comma, semicolon or tab between them, in UTF-8 (with or without a byte order mark) or GB18030. A row that
cannot be meant is named with its line and left out; the others count. Coordinates are WGS-84 degrees.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from cloud_sync.errors import ConfigError
from models.geo import Place, distance_m

MAX_PLACES: Final = 200_000
"""Rows of a list: the branches, dealers and depots of a large country are fewer; more is another file."""
MAX_LIST_BYTES: Final = 64 * 1024 * 1024
"""Size of a list: 200,000 rows of 300 bytes, with room."""
MAX_NAME_CHARS: Final = 80
"""Longest name that a list on a phone can show."""
MAX_KIND_CHARS: Final = 30
"""One or two words: depot, dealer, police."""
MAX_RADIUS_M: Final = 50_000.0
"""Largest place: beyond it a name says nothing about where a car is."""
NEAR_M: Final = 50_000.0
"""How far away the nearest place may be to be called the place of a position."""
SHOWN_BAD_ROWS: Final = 50
"""Bad rows that are named; the others are counted."""

_REQUIRED: Final = ("name", "lat", "lon")
_COLUMNS: Final = (*_REQUIRED, "radius_m", "kind")
_CELL_DEG: Final = 0.05
"""Side of a cell of the index, about 5.5 km: few cells to look at, few places in each."""
_WIDTH: Final = round(360 / _CELL_DEG)
_M_PER_DEG: Final = 111_195.0
"""Length of a degree of latitude on the sphere that `models.geo` uses."""
_REACHES: Final = (1, 3, math.ceil(NEAR_M / (_CELL_DEG * _M_PER_DEG)))
"""Cells to each side that are searched: what is found within the first is the nearest, mostly."""
_NAMED_KEPT: Final = 50_000
"""Answers that are remembered: coarse positions lie on a grid, and cars stand in the same places."""


@dataclass(frozen=True, slots=True)
class NamedPlace:
    """A row of the list."""

    name: str
    lat: float
    lon: float
    radius_m: float
    """0 .. MAX_RADIUS_M; 0 where the list says nothing."""
    kind: str


@dataclass(frozen=True, slots=True)
class Near:
    """The place that a position is called by."""

    name: str
    distance_m: int | None
    """From the place's edge, to the nearest 100 m, at least 100; None inside it."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out."""

    line: int
    """From 1; the header is a line too."""
    why: str


class Places:
    """A list with an index over it. Answers are the same from any thread."""

    def __init__(
        self,
        items: tuple[NamedPlace, ...] = (),
        bad: tuple[BadRow, ...] = (),
        bad_count: int = 0,
        encoding: str = "utf-8",
    ) -> None:
        self.bad, self.bad_count, self.encoding = bad, bad_count, encoding
        lat = np.array([item.lat for item in items], dtype=np.float64)
        lon = np.array([item.lon for item in items], dtype=np.float64)
        cells = np.floor((lat + 90) / _CELL_DEG).astype(np.int64) * _WIDTH
        cells += np.floor((lon + 180) / _CELL_DEG).astype(np.int64) % _WIDTH
        order = np.argsort(cells, kind="stable")
        self.items = tuple(items[n] for n in order)
        """In the order of the index."""
        self._lat, self._lon, self._cells = lat[order], lon[order], cells[order]
        self._named: dict[tuple[float, float], Near | None] = {}

    def nearest(self, lat: float, lon: float) -> Near | None:
        """The place nearest to a position in degrees (by its centre, within NEAR_M), None where there is
        none. Of several at the same distance the first in the list."""
        if not self.items:
            return None
        key = (lat, lon)
        if key not in self._named:
            if len(self._named) >= _NAMED_KEPT:
                self._named.clear()
            self._named[key] = self._search(lat, lon)
        return self._named.get(key)

    def within(
        self, west: float, south: float, east: float, north: float, text: str, limit: int
    ) -> tuple[list[NamedPlace], bool]:
        """At most `limit` places of a box in degrees whose name or kind contains `text`, whatever its case,
        and whether there are more. A box with `west` > `east` crosses the antimeridian."""
        lon, lat = self._lon, self._lat
        inside = (lon >= west) & (lon <= east) if west <= east else (lon >= west) | (lon <= east)
        wanted = text.casefold()
        found: list[NamedPlace] = []
        for n in np.flatnonzero(inside & (lat >= south) & (lat <= north)):
            item = self.items[n]
            if wanted in item.name.casefold() or wanted in item.kind.casefold():
                if len(found) == limit:
                    return found, True
                found.append(item)
        return found, False

    def _search(self, lat: float, lon: float) -> Near | None:
        narrow = max(0.01, math.cos(math.radians(min(89.5, abs(lat) + 0.5))))
        for reach in _REACHES:
            best = self._best(lat, lon, reach, math.ceil(reach / narrow))
            if best is not None and (best[0] <= reach * _CELL_DEG * _M_PER_DEG or reach == _REACHES[-1]):
                break
        if best is None or best[0] > NEAR_M:
            return None
        item = self.items[best[1]]
        from_edge = distance_m(Place(lat, lon), Place(item.lat, item.lon)) - item.radius_m
        return Near(item.name, None if from_edge <= 0 else max(100, round(from_edge / 100) * 100))

    def _best(self, lat: float, lon: float, rows: int, columns: int) -> tuple[float, int] | None:
        """(metres, index) of the nearest within so many cells; flat earth, exact enough within NEAR_M."""
        row, column = math.floor((lat + 90) / _CELL_DEG), math.floor((lon + 180) / _CELL_DEG)
        columns = min(columns, _WIDTH // 2 - 1)
        shrink = math.cos(math.radians(lat))
        best: tuple[float, int] | None = None
        for each in range(row - rows, row + rows + 1):
            for start, stop in self._slices(each, column - columns, column + columns):
                away = np.abs(self._lon[start:stop] - lon)
                east = np.minimum(away, 360 - away) * shrink
                squared = east * east + (self._lat[start:stop] - lat) ** 2
                at = int(squared.argmin())
                metres = math.sqrt(float(squared[at])) * _M_PER_DEG
                if best is None or metres < best[0]:
                    best = (metres, start + at)
        return best

    def _slices(self, row: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Parts of the index that hold the cells `first` .. `last` of a row; two at the antimeridian."""
        base = row * _WIDTH
        spans = [(max(first, 0), min(last, _WIDTH - 1))]
        if first < 0:
            spans.append((first + _WIDTH, _WIDTH - 1))
        if last >= _WIDTH:
            spans.append((0, last - _WIDTH))
        for low, high in spans:
            start, stop = np.searchsorted(self._cells, (base + low, base + high + 1))
            if start < stop:
                yield int(start), int(stop)


def parse(data: bytes) -> Places:
    """The list in `data`. Raises ConfigError when it is no list at all: too large, of another encoding,
    without a header, or with no row that can be meant."""
    if len(data) > MAX_LIST_BYTES:
        raise ConfigError(f"the list of places has more than {MAX_LIST_BYTES >> 20} MiB: make it shorter")
    lines = max(data.count(b"\n"), data.count(b"\r"))
    if lines > MAX_PLACES + 1:
        raise ConfigError(
            f"the list of places has {lines:,} lines, at most {MAX_PLACES:,} are read: keep the places "
            "that vehicles stand at"
        )
    text, encoding = _decoded(data)
    rows = enumerate(io.StringIO(text, newline=None), 1)
    header, delimiter = _header(rows)
    items: list[NamedPlace] = []
    bad: list[BadRow] = []
    bad_count = 0
    for number, line in rows:
        if not line.strip():
            continue
        made = _row(line, header, delimiter)
        if isinstance(made, NamedPlace):
            items.append(made)
            continue
        bad_count += 1
        if len(bad) < SHOWN_BAD_ROWS:
            bad.append(BadRow(number, made))
    if bad and not items:
        raise ConfigError(
            f"the list of places has no row that can be meant; line {bad[0].line}: {bad[0].why}"
        )
    return Places(tuple(items), tuple(bad), bad_count, encoding)


def _decoded(data: bytes) -> tuple[str, str]:
    try:
        return data.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError as first:
        try:
            return data.decode("gb18030"), "gb18030"
        except UnicodeDecodeError as second:
            raise ConfigError(
                f"the list of places is neither UTF-8 (byte {first.start}) nor GB18030 (byte {second.start}):"
                " save it as UTF-8"
            ) from second


def _header(rows: Iterator[tuple[int, str]]) -> tuple[dict[str, int], str]:
    line = next((line for _, line in rows if line.strip()), "")
    delimiter = max(",;\t", key=line.count)
    names = [name.strip().strip('"').lower() for name in line.split(delimiter)]
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise ConfigError(
            f"the list of places has no column {', '.join(missing)}: its first line must name the columns "
            f"{', '.join(_COLUMNS)}"
        )
    return {name: names.index(name) for name in _COLUMNS if name in names}, delimiter


def _row(line: str, header: dict[str, int], delimiter: str) -> NamedPlace | str:
    """The place in a line, or why it is none. Lines are read one by one, so that a stray quotation mark
    cannot swallow those after it."""
    try:
        fields = next(csv.reader([line], delimiter=delimiter, strict=True))
    except (csv.Error, StopIteration):
        return "quotation marks do not match"
    if len(fields) <= max(header[name] for name in _REQUIRED):
        return f"{len(fields)} fields, the header has more"
    cells = {name: fields[at].strip() if at < len(fields) else "" for name, at in header.items()}
    name, kind = cells["name"], cells.get("kind", "")
    if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
        return f"a name has 1 .. {MAX_NAME_CHARS} printable characters"
    if len(kind) > MAX_KIND_CHARS or not kind.isprintable():
        return f"a kind has at most {MAX_KIND_CHARS} printable characters"
    lat, lon = _number(cells["lat"]), _number(cells["lon"])
    radius = _number(cells.get("radius_m") or "0")
    if lat is None or lon is None or radius is None:
        return "lat, lon and radius_m are numbers with a point, such as 31.2304"
    if abs(lat) > 90:
        swapped = "; lat and lon look swapped" if abs(lat) <= 180 and abs(lon) <= 90 else ""
        return f"lat is -90 .. 90 degrees{swapped}"
    if abs(lon) > 180:
        return "lon is -180 .. 180 degrees"
    if not 0 <= radius <= MAX_RADIUS_M:
        return f"radius_m is 0 .. {MAX_RADIUS_M:.0f}"
    return NamedPlace(name, lat, lon, radius, kind)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None
