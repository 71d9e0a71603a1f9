"""The operator's list of places: what is read, what is refused, and which place a position is called by."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_sync.errors import ConfigError
from cloud_sync.places import MAX_PLACES, NEAR_M, NamedPlace, Near, Places, parse
from cloud_sync.runtime.serve import places_file
from cloud_sync.runtime.serve.places_file import PlacesFile, load_outline
from models.geo import Place, distance_m

LIST = """name,lat,lon,radius_m,kind
Depot Munich,48.137,11.575,500,depot
Branch Pasing,48.149,11.461,,branch
上海车场,31.2304,121.4737,300,depot
"""


def test_a_list_names_what_is_near() -> None:
    places = parse(LIST.encode())
    assert len(places.items) == 3 and places.bad_count == 0 and places.encoding == "utf-8"
    assert places.nearest(48.137, 11.575) == Near("Depot Munich", None)
    near = places.nearest(48.15, 11.50)
    assert near is not None and near.name == "Branch Pasing"
    assert near.distance_m == round(distance_m(Place(48.15, 11.50), Place(48.149, 11.461)) / 100) * 100
    assert places.nearest(31.23, 121.47) == Near("上海车场", 100)
    assert places.nearest(0.0, 0.0) is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_encodings(encoding: str) -> None:
    places = parse(LIST.encode(encoding))
    assert {item.name for item in places.items} == {"Depot Munich", "Branch Pasing", "上海车场"}
    assert places.encoding == encoding.removesuffix("-sig")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends(delimiter: str, end: str) -> None:
    text = 'Lon,LAT,Name,more\n11.5,48.1,"Quoted, name; all",x\n\n'
    if delimiter != ",":
        text = text.replace(", ", "! ").replace(",", delimiter).replace("! ", ", ")
    places = parse(text.replace("\n", end).encode())
    assert places.items == (NamedPlace("Quoted, name; all", 48.1, 11.5, 0.0, ""),)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("x,48.1", "2 fields"),
        (",48.1,11.5,,", "1 .. 80 printable"),
        ("a\x07b,48.1,11.5,,", "1 .. 80 printable"),
        (f"{'n' * 81},48.1,11.5,,", "1 .. 80 printable"),
        (f"x,48.1,11.5,,{'k' * 31}", "a kind has"),
        ("x,north,11.5,,", "numbers with a point"),
        ("x,nan,11.5,,", "numbers with a point"),
        ("x,4_8,11.5,,", "numbers with a point"),
        ("x,121.47,31.23,,", "swapped"),
        ("x,48.1,181,,", "lon is"),
        ("x,48.1,11.5,-1,", "radius_m is"),
        ("x,48.1,11.5,50001,", "radius_m is"),
        ('"x,48.1,11.5,,', "quotation marks"),
    ],
)
def test_a_bad_row_is_named_and_left_out(row: str, why: str) -> None:
    places = parse(f"name,lat,lon,radius_m,kind\n{row}\ngood,48.1,11.5,,\n".encode())
    assert [item.name for item in places.items] == ["good"]
    assert places.bad_count == 1 and places.bad[0].line == 2 and why in places.bad[0].why


def test_many_bad_rows_are_counted() -> None:
    places = parse(("name,lat,lon\nok,1,1\n" + "bad,x,x\n" * 500).encode())
    assert places.bad_count == 500 and len(places.bad) == 50 and places.bad[0].line == 3


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no column name, lat, lon"),
        (b"Depot,48.1,11.5\n", "no column name, lat, lon"),
        (b"name,lat\nx,1\n", "no column lon"),
        (b"name,lat,lon\nx,91,0\n", "line 2: lat is"),
        (b"name,lat,lon\n\xff\xff,1,1\n", "neither UTF-8"),
        (b"name,lat,lon\n" + b"x,1,1\n" * 1_000_000, "1,000,001 lines, at most 200,000"),
        (b"\r" * (MAX_PLACES + 2), "at most 200,000"),
        (b"x" * (64 * 1024 * 1024 + 1), "more than 64 MiB"),
    ],
    ids=["empty", "no header", "half a header", "all bad", "encoding", "million", "carriage returns", "size"],
)
def test_what_is_no_list_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse(data)


def test_the_largest_list_is_read() -> None:
    rows = "".join(f"p{n},{(n % 1700) / 10 - 85},{n % 359 - 179}\n" for n in range(MAX_PLACES))
    assert len(parse(f"name,lat,lon\n{rows}".encode()).items) == MAX_PLACES


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=1, max_size=40),
    st.tuples(st.floats(-89, 89), st.floats(-180, 180)),
    st.floats(0, 0.6),
)
def test_nearest_is_the_nearest(
    points: list[tuple[float, float]], at: tuple[float, float], off: float
) -> None:
    points.append((max(-90.0, at[0] - off), at[1]))
    places = Places(tuple(NamedPlace(f"p{n}", lat, lon, 0.0, "") for n, (lat, lon) in enumerate(points)))
    true = min(distance_m(Place(*at), Place(*point)) for point in points)
    near = places.nearest(*at)
    if true < NEAR_M * 0.99:
        assert near is not None
        assert abs((near.distance_m or 0) - true) <= max(100.0, true * 0.02)
    elif true > NEAR_M * 1.01:
        assert near is None


def test_nearest_across_the_antimeridian() -> None:
    places = Places((NamedPlace("Taveuni", -16.8, 179.98, 0.0, ""),))
    near = places.nearest(-16.8, -179.98)
    assert near is not None and near.name == "Taveuni" and near.distance_m == 4300


def test_within_a_box() -> None:
    places = parse(LIST.encode())
    found, more = places.within(11, 48, 12, 49, "", 10)
    assert {item.name for item in found} == {"Depot Munich", "Branch Pasing"} and not more
    assert [item.name for item in places.within(-180, -90, 180, 90, "MUNICH", 10)[0]] == ["Depot Munich"]
    assert [item.name for item in places.within(-180, -90, 180, 90, "branch", 10)[0]] == ["Branch Pasing"]
    assert places.within(-180, -90, 180, 90, "", 2)[1] is True
    assert {item.name for item in places.within(120, -90, 11.5, 90, "", 9)[0]} == {
        "Branch Pasing",
        "上海车场",
    }


def test_the_file_is_read_again_and_a_broken_one_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(places_file, "LOOK_EVERY_S", 0.0)
    path = tmp_path / "places.csv"
    path.write_text(LIST, "utf-8")
    file = PlacesFile(path)
    assert file.nearest(48.137, 11.575) == Near("Depot Munich", None) and file.problem is None

    path.write_text("name,lat,lon\nNew depot,48.137,11.575\n", "utf-8")
    os.utime(path, ns=(1, 1))
    assert file.nearest(48.137, 11.575) == Near("New depot", None)

    with caplog.at_level(logging.WARNING):
        path.write_bytes(b"name,lat,lon\n" + b"x,1,1\n" * 300_000)
        assert file.nearest(48.137, 11.575) == Near("New depot", None)
        assert file.problem is not None and "300,001 lines" in file.problem
        file.current()
    assert len([record for record in caplog.records if "stay" in record.message]) == 1

    path.unlink()
    assert file.nearest(48.137, 11.575) == Near("New depot", None) and "correct the path" in str(file.problem)
    path.write_text(LIST, "utf-8")
    assert file.nearest(48.137, 11.575) == Near("Depot Munich", None) and file.problem is None


def test_no_list_names_nothing() -> None:
    assert PlacesFile(None).nearest(48.137, 11.575) is None


def test_bad_rows_and_another_encoding_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "places.csv"
    path.write_bytes((LIST + "bad,x,x\n" * 60).encode("gb18030"))
    with caplog.at_level(logging.INFO):
        PlacesFile(path)
    assert "read as GB18030" in caplog.text and "line 5 left out" in caplog.text
    assert "10 more lines left out" in caplog.text


def test_outline(tmp_path: Path) -> None:
    path = tmp_path / "outline.geojson"
    path.write_text('{"type": "FeatureCollection", "features": []}', "utf-8")
    assert load_outline(path) == b'{"type":"FeatureCollection","features":[]}'
    for text in ("", "[1]", '{"type": "Topology"}', '{"type": NaN}', "[" * 100_000):
        path.write_text(text, "utf-8")
        with pytest.raises(ConfigError, match="outline"):
            load_outline(path)
    path.write_bytes(b" " * (4 * 1024 * 1024 + 1))
    with pytest.raises(ConfigError, match="more than 4 MiB"):
        load_outline(path)
    with pytest.raises(ConfigError, match="correct the path"):
        load_outline(tmp_path / "missing")
