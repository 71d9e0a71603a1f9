"""The operator's files for the map: the list of places, read again when it changes, and the outline set.

A new list that cannot be meant leaves the old one in place and says so once in the log; `problem` keeps the
sentence. Reading a large list takes a second or two, during which other requests go on with the old one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from cloud_sync.errors import ConfigError
from cloud_sync.places import MAX_LIST_BYTES, Near, Places, parse
from cloud_sync.runtime.kinds import serve_say as say
from cloud_sync.runtime.serve.deps import Context

LOOK_EVERY_S: Final = 2.0
"""How often the file's date is looked at: an operator who saves it sees names at the next page."""
MAX_OUTLINE_BYTES: Final = 4 * 1024 * 1024
"""An outline of a country or two; more would slow a phone down."""

_GEOMETRIES: Final = frozenset(
    {
        "FeatureCollection", "Feature", "GeometryCollection", "Point", "MultiPoint", "LineString",
        "MultiLineString", "Polygon", "MultiPolygon",
    }
)  # fmt: skip

_Seen = tuple[int, int, int] | None
"""Inode, size and time of change; None where there is no file."""


class PlacesFile:
    """The list at `path`, or an empty one where no path is configured. Safe from any thread."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.problem: str | None = None
        """Why the file as it is now is not used; None when it is."""
        self._places = Places()
        self._seen: _Seen = None
        self._looked = 0.0
        self._lock = threading.Lock()
        self._first = True
        if path is not None:
            self._look(path)

    def current(self) -> Places:
        """The newest list that could be meant."""
        path = self.path
        due = path is not None and time.monotonic() - self._looked >= LOOK_EVERY_S
        if path is not None and due and self._lock.acquire(blocking=False):
            try:
                self._look(path)
            finally:
                self._lock.release()
        return self._places

    def nearest(self, lat: float, lon: float) -> Near | None:
        """The place nearest to a position in degrees."""
        return self.current().nearest(lat, lon)

    def name_all(self, places: Iterable[dict[str, Any] | None]) -> None:
        """Write the nearest name into each of `places` (a `Place` as JSON); None stays None."""
        known = self.current()
        for place in places:
            near = None if place is None else known.nearest(place["lat"], place["lon"])
            if place is not None and near is not None:
                place["name"], place["distance_m"] = near.name, near.distance_m

    def _look(self, path: Path) -> None:
        self._looked = time.monotonic()
        seen = _seen(path)
        if seen == self._seen and not self._first:
            return
        self._seen, self._first = seen, False
        try:
            self._places = parse(_read(path, MAX_LIST_BYTES))
        except ConfigError as error:
            self.problem = str(error)
            kept = len(self._places.items)
            detail = f"the {kept} places of before stay" if kept else "no names"
            say("places_unread", path=path, error=error, detail=detail)
            return
        self.problem = None
        self._say(path)

    def _say(self, path: Path) -> None:
        places = self._places
        other = "" if places.encoding == "utf-8" else f", read as {places.encoding.upper()}"
        say("places_read", count=len(places.items), path=path, detail=other)
        for row in places.bad:
            say("place_left_out", path=path, number=row.line, error=row.why)
        if places.bad_count > len(places.bad):
            say("places_left_out", count=places.bad_count - len(places.bad))


def places_of(context: Context) -> PlacesFile:
    """The server's list of places."""
    found = context.extras.get("places")
    if not isinstance(found, PlacesFile):
        found = context.extras["places"] = PlacesFile(context.config.places)
    return found


def load_outline(path: Path) -> bytes:
    """The outline set at `path`, checked and as compact JSON. Raises ConfigError when it is no GeoJSON
    (RFC 7946) of at most MAX_OUTLINE_BYTES."""
    data = _read(path, MAX_OUTLINE_BYTES)
    try:
        value: Any = json.loads(data.decode("utf-8-sig"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"outline {path}: not JSON: {error}") from error
    if not isinstance(value, dict) or value.get("type") not in _GEOMETRIES:
        raise ConfigError(
            f"outline {path}: not GeoJSON: its type is none of {', '.join(sorted(_GEOMETRIES))}"
        )
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _seen(path: Path) -> _Seen:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _read(path: Path, limit: int) -> bytes:
    """At most `limit` bytes of a file. Raises ConfigError for a larger one, or one that cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; correct the path, owner or mode") from error
    if len(data) > limit:
        raise ConfigError(f"{path} has more than {limit >> 20} MiB: make it shorter")
    return data
