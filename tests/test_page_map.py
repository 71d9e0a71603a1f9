"""The map in a real browser: what it asks for, where it draws, what a click does."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
from page_kit import Pages, World, browser, chromium, settle, world
from playwright.sync_api import BrowserContext, Page, Route

__all__ = ["browser", "chromium", "world"]

SHANGHAI: Final = (31.23, 121.47)
STATES: Final = ["incident", "overdue", "attention", "ok"]


def change_session(context: BrowserContext, **settings: Any) -> None:
    """The server's answer to `GET session`, with other settings of the map."""

    def answer(route: Route) -> None:
        if route.request.method != "GET":
            route.fallback()
            return
        found = route.fetch()
        body = found.json()
        body["map"] |= settings
        route.fulfill(response=found, json=body)

    context.route("**/api/v1/session", answer)


def change_fleet(context: BrowserContext, items: list[tuple[str, float, float, int, str]]) -> None:
    """Other vehicles for the map than the store's."""

    def answer(route: Route) -> None:
        now = route.fetch().json()["now"]
        route.fulfill(json={"states": STATES, "items": items, "unplaced": 0, "now": now})

    context.route("**/api/v1/map", answer)


def fleet(world: World, pages: Pages, context: BrowserContext) -> tuple[Page, list[str]]:
    """The fleet with its map drawn, and the addresses that the page asked for."""
    page = pages.watched(context)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with page.expect_request("**/api/v1/places?*"):
        page.goto(f"{world.url}/#/fleet")
        settle(page)
        page.wait_for_selector(".legend")
    return page, asked


def middle(page: Page) -> tuple[float, float]:
    """The middle of the map, in pixels of the window."""
    box = page.locator(".map").bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.mark.parametrize(("language", "shown"), [("en", True), ("zh", False)])
def test_an_outline_is_never_asked_for_in_chinese(
    world: World, browser: Pages, language: str, shown: bool
) -> None:
    context = browser.context(world, language=language)
    change_session(context, outline=True)
    context.route(
        "**/api/v1/outline", lambda route: route.fulfill(json={"type": "FeatureCollection", "features": []})
    )
    _, asked = fleet(world, browser, context)
    assert any(url.endswith("/api/v1/outline") for url in asked) is shown


def test_nothing_but_our_own_server_is_asked(world: World, browser: Pages) -> None:
    _, asked = fleet(world, browser, browser.context(world))
    assert {urlsplit(url).netloc for url in asked} == {urlsplit(world.url).netloc}
    assert any(url.endswith("/page/leaflet/leaflet.js") for url in asked)


def test_a_click_on_a_marker_opens_the_vehicle(world: World, browser: Pages) -> None:
    context = browser.context(world)
    change_fleet(context, [("car-1", *SHANGHAI, 0, "White flatbed 7")])
    page, _ = fleet(world, browser, context)
    page.mouse.move(*middle(page))
    page.wait_for_selector(".map.pointing")
    assert page.locator(".leaflet-tooltip").inner_text() == "White flatbed 7: Incident"
    page.mouse.click(*middle(page))
    page.wait_for_url("**/#/vehicle/car-1")


def test_vehicles_on_one_point_are_listed_with_names_as_written(world: World, browser: Pages) -> None:
    context = browser.context(world)
    change_fleet(context, [(f"car-{n}", *SHANGHAI, n % 4, f"<b>{n}</b>") for n in range(1, 6)])
    page, _ = fleet(world, browser, context)
    page.mouse.click(*middle(page))
    links = page.locator(".leaflet-popup a[href^='#/vehicle/']")
    assert links.all_inner_texts() == ["<b>4</b>", "<b>1</b>", "<b>5</b>", "<b>2</b>", "<b>3</b>"]


@pytest.mark.parametrize("datum", ["gcj02", "bd09"])
def test_a_source_in_another_datum_moves_the_picture_and_not_the_data(
    world: World, browser: Pages, datum: str
) -> None:
    context = browser.context(world)
    change_session(context, tiles="/page/icon.svg?{z}/{x}/{y}", datum=datum, attribution="© Survey")
    change_fleet(context, [("car-1", *SHANGHAI, 0, "White flatbed 7")])
    page, asked = fleet(world, browser, context)
    assert page.get_by_text("© Survey").count() == 1
    query = parse_qs(urlsplit(next(url for url in asked if "/places?" in url)).query)
    west, south, east, north = (float(query[side][0]) for side in ("west", "south", "east", "north"))
    assert (south + north) / 2 == pytest.approx(SHANGHAI[0], abs=1e-3)
    assert (west + east) / 2 == pytest.approx(SHANGHAI[1], abs=1e-3)
    page.mouse.move(*middle(page))
    page.wait_for_selector(".map.pointing")


def test_ten_thousand_markers_become_a_few_marks_and_fifty_rows_at_most(world: World, browser: Pages) -> None:
    context = browser.context(world)
    items = [(f"v-{n}", 45 + n % 97 / 10, 5 + n % 89 / 10, 3 if n else 0, f"V {n}") for n in range(10_000)]
    change_fleet(context, items)
    page, _ = fleet(world, browser, context)
    assert page.locator(".vehicle").count() <= 50
    assert page.locator(".map *").count() < 60
    assert browser.troubles == []


def test_circles_are_the_places_of_the_operators_list_and_are_named_so(world: World, browser: Pages) -> None:
    """A vehicle's own region never reaches the collector: nothing on the map claims to be a fence."""
    page, _ = fleet(world, browser, browser.context(world))
    key = page.locator(".fleet-map .places-key")
    key.wait_for()
    assert key.inner_text() == "Places of your own list, with their radius"
    assert "fence" not in page.locator("main").inner_text().lower()
    context = browser.context(world)
    context.route("**/api/v1/places?*", lambda route: route.fulfill(json={"items": [], "more": False}))
    bare, _ = fleet(world, browser, context)
    assert bare.locator(".places-key").count() == 0


INK: Final = """() => {
  const canvas = document.querySelector('.small-map canvas');
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let shaded = 0;
  for (let at = 3; at < data.length; at += 4) if (data[at] > 30 && data[at] < 60) shaded += 1;
  return shaded;
}"""
"""How many pixels of the canvas have the shade of uncertainty, which alone lets most light through."""


def change_track(context: BrowserContext, unc_m: int) -> None:
    """One point as the track of every time line, known to `unc_m` metres and 1.5 s."""
    point = {
        "lat": 31.35, "lon": 121.5, "name": None, "distance_m": None, "unc_m": unc_m,
        "at": {"at": "2026-12-15T04:40:00.000Z", "unc_ms": 1500, "source": "gnss"},
    }  # fmt: skip

    def answer(route: Route) -> None:
        found = route.fetch()
        route.fulfill(response=found, json=found.json() | {"track": [point]})

    context.route("**/timeline*", answer)


def test_a_point_of_a_track_says_how_well_it_is_known(world: World, browser: Pages) -> None:
    shades = []
    for unc_m in (400, 900):
        context = browser.context(world)
        change_track(context, unc_m)
        page = browser.watched(context)
        page.goto(f"{world.url}/#/incident/{world.tow}")
        settle(page)
        page.wait_for_function("() => document.querySelector('.small-map canvas')?.width > 100")
        page.wait_for_function(f"() => ({INK})() > 0")
        shades.append(page.evaluate(INK))
        box = page.locator(".small-map")
        box.scroll_into_view_if_needed()
        area = box.bounding_box()
        assert area is not None
        page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
        tip = page.locator(".leaflet-tooltip")
        tip.wait_for()
        assert tip.inner_text() == f"12:40:00 ± 2 s, position to about {unc_m} m"
    assert shades[1] > 3 * shades[0] > 0
    browser.forgive("willReadFrequently")  # the test looks at the canvas, the page does not
