"""The page's own modules, in a real browser: datums (WGS-84, GCJ-02, BD-09), clusters, stream, times.

Positions are converted at display only. The published vectors are those of the tests of the open
packages "eviltransform" (Shanghai, Shenzhen, Beijing) and "coordtransform" (BD-09); the other positions are
compared with the formulas written down once more here, in Python.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Page, Route, sync_playwright

PAGE: Final = Path(__file__).resolve().parent.parent / "cloud_sync" / "page"
CHROMIUM: Final = "/usr/bin/chromium"
ORIGIN: Final = "http://page.invalid"
PUBLISHED_GCJ: Final = (
    ((31.1774276, 121.5272106), (31.17530398364597, 121.531541859215)),
    ((22.543847, 113.912316), (22.540796131694766, 113.9171764808363)),
    ((39.911954, 116.377817), (39.91334545536069, 116.38404722455657)),
)
BEIJING: Final = (39.915, 116.404)
BEIJING_GCJ: Final = (39.91640428150164, 116.41024449916938)
BEIJING_GCJ_TO_BD: Final = (39.92133699351021, 116.41036949371029)
BEIJING_BD: Final = (39.922699552216216, 116.41662724378733)
"""What the tests of "coordtransform" give for it: as WGS-84 to GCJ-02, as GCJ-02 to BD-09, through both."""
OUTSIDE: Final = ((53.55, 10.0), (37.8, -122.4), (-33.9, 151.2), (35.68, 139.77), (0.5, 103.0), (60.0, 100.0))
INSIDE: Final = tuple(
    (lat, lon) for lat in (18.3, 24.9, 30.6, 36.1, 43.8, 52.9) for lon in (75.9, 91.1, 104.07, 121.4)
)
A_SEA: Final = (20.0, 110.0)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A blank page whose modules come straight from the package's folder."""
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context()
        context.route("**/*", serve)
        made = context.new_page()
        made.goto(ORIGIN)
        yield made
        browser.close()


def serve(route: Route) -> None:
    """Answers from the page's folder, and nothing from anywhere else."""
    path = route.request.url.removeprefix(ORIGIN)
    if path in ("", "/"):
        route.fulfill(content_type="text/html", body="<!doctype html><title>blank</title>")
    elif path.startswith("/words/"):
        areas = (PAGE / "words" / path.removeprefix("/words/").removesuffix(".json")).glob("*.json")
        merged = {code: text for area in areas for code, text in json.loads(area.read_text("utf-8")).items()}
        route.fulfill(content_type="application/json", body=json.dumps(merged))
    elif path.startswith("/page/"):
        route.fulfill(
            content_type="text/javascript", body=(PAGE / path.removeprefix("/page/")).read_text("utf-8")
        )
    else:
        route.abort()


def js(page: Page, module: str, body: str, argument: Any = None) -> Any:
    """Runs `body`, the inside of an async function of `m` (the module) and `x` (the argument)."""
    script = f"async (x) => {{ const m = await import('/page/{module}'); {body} }}"
    return page.evaluate(script, argument)


def converted(page: Page, function: str, points: Any) -> list[tuple[float, float]]:
    """`function(lat, lon)` of datum.js for every point."""
    found = js(
        page, "datum.js", f"return x.map(([lat, lon]) => m.{function}(lat, lon));", [list(p) for p in points]
    )
    return [(lat, lon) for lat, lon in found]


def metres(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Distance of two near positions on the sphere."""
    north = (a[0] - b[0]) * 111_195.0
    east = (a[1] - b[1]) * 111_195.0 * math.cos(math.radians((a[0] + b[0]) / 2))
    return math.hypot(north, east)


def gcj(lat: float, lon: float) -> tuple[float, float]:
    """GCJ-02 by the published series, as sums of (amplitude, frequency) pairs."""
    x, y, pi = lon - 105.0, lat - 35.0, math.pi

    def waves(value: float, *terms: tuple[float, float]) -> float:
        return sum(size * math.sin(value * pi * per) for size, per in terms) * 2 / 3

    both = waves(x, (20, 6), (20, 2))
    root = math.sqrt(abs(x))
    north = -100 + 2 * x + 3 * y + 0.2 * y**2 + 0.1 * x * y + 0.2 * root + both
    north += waves(y, (20, 1), (40, 1 / 3), (160, 1 / 12), (320, 1 / 30))
    east = 300 + x + 2 * y + 0.1 * x**2 + 0.1 * x * y + 0.1 * root + both
    east += waves(x, (20, 1), (40, 1 / 3), (150, 1 / 12), (300, 1 / 30))
    axis, squared = 6_378_245.0, 0.00669342162296594323
    w = 1 - squared * math.sin(math.radians(lat)) ** 2
    meridian = axis * (1 - squared) / w**1.5
    normal = axis / math.sqrt(w)
    return (
        lat + math.degrees(north / meridian),
        lon + math.degrees(east / (normal * math.cos(math.radians(lat)))),
    )


def bd(lat: float, lon: float) -> tuple[float, float]:
    """BD-09 of a GCJ-02 position."""
    k = math.pi * 3000 / 180
    z = math.sqrt(lon**2 + lat**2) + 0.00002 * math.sin(lat * k)
    theta = math.atan2(lat, lon) + 0.000003 * math.cos(lon * k)
    return z * math.sin(theta) + 0.006, z * math.cos(theta) + 0.0065


def test_gcj02_has_the_published_values(page: Page) -> None:
    found = converted(page, "wgsToGcj", [wgs for wgs, _ in PUBLISHED_GCJ])
    for there, (_, published) in zip(found, PUBLISHED_GCJ, strict=True):
        assert there == pytest.approx(published, abs=1e-9)


def test_bd09_has_the_published_values(page: Page) -> None:
    assert converted(page, "wgsToGcj", [BEIJING])[0] == pytest.approx(BEIJING_GCJ, abs=1e-9)
    assert converted(page, "gcjToBd", [BEIJING])[0] == pytest.approx(BEIJING_GCJ_TO_BD, abs=1e-9)
    assert converted(page, "wgsToBd", [BEIJING])[0] == pytest.approx(BEIJING_BD, abs=1e-9)


def test_both_datums_agree_with_the_formulas_written_once_more(page: Page) -> None:
    for there, point in zip(converted(page, "wgsToGcj", INSIDE), INSIDE, strict=True):
        assert there == pytest.approx(gcj(*point), abs=1e-9)
        assert 30.0 < metres(there, point) < 1000.0
    for there, point in zip(converted(page, "wgsToBd", INSIDE), INSIDE, strict=True):
        assert there == pytest.approx(bd(*gcj(*point)), abs=1e-9)


def test_outside_china_nothing_is_changed(page: Page) -> None:
    for function in ("wgsToGcj", "wgsToBd"):
        assert converted(page, function, OUTSIDE) == list(OUTSIDE)
    for datum in ("gcj02", "bd09"):
        body = f"return x.map(([a, b]) => m.fromDisplay('{datum}', a, b));"
        assert js(page, "datum.js", body, [list(p) for p in OUTSIDE]) == [list(p) for p in OUTSIDE]


@pytest.mark.parametrize("datum", ["wgs84", "gcj02", "bd09"])
def test_a_click_comes_back_to_where_the_marker_is(page: Page, datum: str) -> None:
    body = f"return x.map(([a, b]) => m.fromDisplay('{datum}', ...m.toDisplay('{datum}', a, b)));"
    for back, point in zip(js(page, "datum.js", body, [list(p) for p in INSIDE]), INSIDE, strict=True):
        assert metres((back[0], back[1]), point) < 0.01


def test_wgs84_is_shown_as_it_is(page: Page) -> None:
    assert js(page, "datum.js", "return m.toDisplay('wgs84', ...x);", list(A_SEA)) == list(A_SEA)


def clusters(page: Page, points: list[tuple[float, float, int]], zoom: float) -> list[dict[str, Any]]:
    """cluster() of [lat, lon, state] at a zoom."""
    body = """return m.cluster(x.points.map(([lat, lon, state]) => {
      const [px, py] = m.project(lat, lon); return {x: px, y: py, state}; }), x.zoom);"""
    found: list[dict[str, Any]] = js(
        page, "cluster.js", body, {"points": [list(p) for p in points], "zoom": zoom}
    )
    return found


def test_projection_is_web_mercator(page: Page) -> None:
    x, y = js(page, "cluster.js", "return m.project(...x);", [0.0, 0.0])
    assert (x, y) == pytest.approx((0.5, 0.5))
    x, y = js(page, "cluster.js", "return m.project(...x);", [51.5, 13.0])
    merc = 0.5 - math.log(math.tan(math.pi / 4 + math.radians(51.5) / 2)) / (2 * math.pi)
    assert (x, y) == pytest.approx((13.0 / 360 + 0.5, merc))


def test_every_vehicle_is_in_exactly_one_cluster_and_the_worst_wins(page: Page) -> None:
    points = [(50 + (i * 37 % 100) / 50, 8 + (i * 61 % 100) / 40, 3) for i in range(400)]
    points[123] = (*points[123][:2], 0)
    for zoom in (3, 6.25, 9, 12):
        found = clusters(page, points, zoom)
        members = [index for one in found for index in one["members"]]
        assert sorted(members) == list(range(400))
        assert all(one["count"] == len(one["members"]) for one in found)
        assert [one["worst"] for one in found if 123 in one["members"]] == [0]
        assert [one["worst"] for one in found] == sorted((one["worst"] for one in found), reverse=True)


def test_near_vehicles_join_and_far_ones_do_not(page: Page) -> None:
    near_and_far = [(52.50, 13.40, 3), (52.51, 13.41, 1), (48.14, 11.58, 3)]
    assert sorted(one["count"] for one in clusters(page, near_and_far, 6)) == [1, 2]
    assert sorted(one["count"] for one in clusters(page, near_and_far, 14)) == [1, 1, 1]
    assert [one["count"] for one in clusters(page, near_and_far, 1)] == [3]


def test_clusters_do_not_lie_upon_each_other(page: Page) -> None:
    points = [(50 + (i * 37 % 211) / 100, 8 + (i * 61 % 197) / 70, i % 4) for i in range(2000)]
    zoom = 7
    cell = 76 / (256 * 2**zoom)
    found = clusters(page, points, zoom)
    assert len(found) > 5
    crowded = sum(
        abs(a["x"] - b["x"]) < cell / 3 and abs(a["y"] - b["y"]) < cell / 3
        for i, a in enumerate(found)
        for b in found[:i]
    )
    assert crowded <= len(found) // 20


def test_the_grid_has_room_between_its_lines(page: Page) -> None:
    for zoom in range(1, 15):
        step = js(page, "cluster.js", "return m.gridStep(x);", zoom)
        apart = step * 256 * 2**zoom / 360
        assert apart >= 90 or step == 90
    assert js(page, "cluster.js", "return m.degrees(x, 'N', 'S', 0.01);", -33.5) == "33.50° S"
    assert js(page, "cluster.js", "return m.degrees(x, 'E', 'W', 5);", 0) == "0°"


def stream(page: Page, pieces: list[str]) -> list[list[Any]]:
    """What live.js reads out of an event stream that comes in these pieces."""
    body = """const found = []; const events = new m.Events((...event) => found.push(event));
      for (const piece of x) events.push(piece); return found;"""
    found: list[list[Any]] = js(page, "live.js", body, pieces)
    return found


def test_the_event_stream_may_come_in_any_pieces(page: Page) -> None:
    text = 'event: hello\ndata: {"feed": 4}\n\n: alive\n\n'
    text += 'id: 5\r\nevent: incident\r\ndata: {"a":\r\ndata: 1}\r\n\r\n'
    expected = [["hello", '{"feed": 4}', None], ["incident", '{"a":\n1}', "5"]]
    assert stream(page, [text]) == expected
    assert stream(page, list(text)) == expected


def test_an_event_that_was_cut_off_is_not_taken(page: Page) -> None:
    assert stream(page, ["id: 9\nevent: incident\ndata: {}\n"]) == []


def timed(page: Page, language: str, body: str, argument: Any = None) -> Any:
    """Runs `body` with time.js; the server's clock says 2026-11-25 03:20:00 UTC, the zone is Shanghai."""
    start = (
        f"const w = await import('/page/words.js'); await w.load('{language}'); m.setZone('Asia/Shanghai');"
    )
    return js(page, "time.js", start + "m.sync('2026-11-25T03:20:00.000Z');" + body, argument)


def test_times_carry_their_uncertainty(page: Page) -> None:
    body = "return x.map((value) => m.moment(value));"
    values = [
        {"at": "2026-11-25T03:12:07.000Z", "unc_ms": 2000, "source": "gnss"},
        {"at": "2026-11-25T03:12:07.000Z", "unc_ms": 40, "source": "gnss"},
        {"at": "2026-11-25T03:12:07.000Z", "unc_ms": 180_000, "source": "clock"},
        {"at": "2026-11-25T03:12:07.000Z", "unc_ms": None, "source": "received"},
        {"at": "2026-11-23T03:12:07.000Z", "unc_ms": 2000, "source": "gnss"},
        None,
    ]
    assert timed(page, "en", body, values) == [
        "11:12:07 ± 2 s", "11:12:07 ± 40 ms", "11:12:07 ± 3 min", "received 11:12:07",
        "23 Nov 2026 11:12:07 ± 2 s", "–",
    ]  # fmt: skip
    chinese = timed(page, "zh", body, values)
    assert chinese[3] == "收到于 11:12:07"
    assert chinese[4] == "2026年11月23日 11:12:07 ± 2 s"


def test_a_browser_clock_that_is_wrong_by_a_year_changes_nothing(page: Page) -> None:
    body = """const real = Date.now; Date.now = () => real() + 365 * 86400e3;
      try { return [m.ago(x), m.at(x), m.ago('2026-11-25T05:20:00Z'), m.ago('2026-11-24T03:20:00Z')]; }
      finally { Date.now = real; }"""
    found = timed(page, "en", body, "2026-11-25T03:17:00.000Z")
    assert found == ["3 min ago", "11:17:00", "in 2 h", "24 h ago"]


def test_an_unreadable_time_is_a_dash(page: Page) -> None:
    body = "return x.flatMap((one) => [m.at(one), m.ago(one)]);"
    assert timed(page, "en", body, [None, "", "yesterday"]) == ["–"] * 6


def test_words_fill_in_and_count(page: Page) -> None:
    body = """await m.load(x);
      return [m.t('fleet.open_incidents', {n: 1}), m.t('fleet.open_incidents', {n: 3}),
      m.t('shell.place.near', {name: '{distance}', distance: null}), m.t('no.such'),
        document.documentElement.lang];"""
    assert js(page, "words.js", body, "en") == [
        "1 incident", "3 incidents", "– from {distance}", "no.such", "en",
    ]  # fmt: skip
    assert js(page, "words.js", body, "zh")[3:] == ["no.such", "zh-Hans"]


def test_a_name_with_markup_shows_as_it_is_written(page: Page) -> None:
    body = """const node = m.h('p', {title: x}, x, [x, null, false, 0]); document.body.append(node);
      return [node.textContent, node.children.length, node.title];"""
    evil = '<img src=x onerror="window.owned=1">'
    assert js(page, "dom.js", body, evil) == [f"{evil}{evil}0", 0, evil]


def test_links_lead_only_where_links_may(page: Page) -> None:
    body = "return x.map((href) => m.h('a', {href}, 'x').getAttribute('href'));"
    good = ["#/fleet", "/api/v1/log/trust", "https://example.org/", "mailto:a@example.org"]
    bad = [
        "javascript:alert(1)",
        " javascript:alert(1)",
        "data:text/html,x",
        "//elsewhere.example",
        "vbscript:x",
    ]
    assert js(page, "dom.js", body, good) == good
    assert js(page, "dom.js", body, bad) == [None] * len(bad)


def test_an_address_leaves_out_what_is_not_asked_for(page: Page) -> None:
    body = "return m.url('vehicles', x);"
    asked = {"state": ["incident", "overdue"], "q": "a&b=c", "branch": "", "cause": None, "limit": 50}
    expected = "/api/v1/vehicles?state=incident&state=overdue&q=a%26b%3Dc&limit=50"
    assert js(page, "api.js", body, asked) == expected
