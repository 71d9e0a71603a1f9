"""The operator's page over a large fleet: 10,000 vehicles, a million events, through HTTP and in a browser.

    python tests/bench/run.py --only page [--scale 0.1]

Answers are those of a real `holdfast serve` process alone on one core, to a client on another one over
loopback; each is asked for REQUESTS times and the 99th percentile (of fifty: the worst) counts. The first
load and the frames are Chromium's, without a graphics card. Where Chromium is not installed, its goals are
missed.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import served
from rows import Row
from served import CHROMIUM, CHROMIUM_ARGS, Fleet

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from serve_kit import ServeKit

LIST_GOAL_MS: Final = 150.0
STORY_GOAL_MS: Final = 200.0
LOAD_GOAL_BYTES: Final = 300_000
FRAME_GOAL_MS: Final = 50.0
REQUESTS: Final = 50
STORY_EVENTS: Final = 1000
"""The story that is timed is of a vehicle with at least so many events."""
DRAG_S: Final = 3.0
DRAG_PX: Final = 160
"""Radius of the circle on which the pointer drags the map."""
TURN_S: Final = 1.5
MIN_FRAMES: Final = 20
"""In three seconds of dragging; fewer and the picture stood still."""
START_MS: Final = 60_000
SETTLE_MS: Final = 3000


def page(folder: Path, scale: float = 1.0) -> Iterator[Row]:
    """Answers of the API, the first load, and how smoothly the map moves."""
    fleet = served.fleet(scale)
    with served.serving(fleet) as server:
        yield from _answers(fleet, server.url)
        if CHROMIUM.exists():
            yield from _browser(fleet, server.url)
        else:
            why = "not measured, no Chromium here"
            yield Row("page_first_load", 0.0, f"kB: {why}", goal=_LOAD_GOAL, met=False)
            yield Row("page_map_drag_frame_p95", 0.0, f"ms: {why}", goal=_FRAME_GOAL, met=False)


_LOAD_GOAL: Final = f"< {LOAD_GOAL_BYTES // 1000}"
_FRAME_GOAL: Final = f"<= {FRAME_GOAL_MS:.0f}"


def ranked(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


# -- answers -------------------------------------------------------------------------------------------


def _answers(fleet: Fleet, url: str) -> Iterator[Row]:
    device, incident, events = largest(fleet.kit)
    story = f"/api/v1/incidents/{incident}"
    lists: tuple[tuple[str, str], ...] = (
        ("page_fleet_list", "/api/v1/vehicles?limit=50"),
        ("page_fleet_list_500", "/api/v1/vehicles?limit=500"),
        ("page_fleet_list_branch", "/api/v1/vehicles?branch=Harbour&state=incident"),
        ("page_incidents", "/api/v1/incidents?limit=50"),
    )
    token = fleet.kit.api_token()
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
        placed = len(client.get("/api/v1/map").raise_for_status().json()["items"])
        if placed != fleet.vehicles:
            raise RuntimeError(f"{placed} of {fleet.vehicles} vehicles are on the map")
        for name, path in lists:
            yield _p99(client, name, [path], LIST_GOAL_MS)
        yield _p99(client, "page_story", [story], STORY_GOAL_MS, f", {events} events")
        yield _p99(client, "page_story_and_time_line", [story, f"{story}/timeline"], STORY_GOAL_MS)
        one = f"/api/v1/vehicles/{device}"
        yield _p99(client, "page_vehicle_and_time_line", [one, f"{one}/timeline"], STORY_GOAL_MS)
        yield _p99(client, "page_map", ["/api/v1/map"], None, f", {placed} vehicles")


def largest(kit: ServeKit) -> tuple[str, str, int]:
    """(device, incident, events) of the vehicle with the largest record among those with an incident."""
    with kit.context.stores.reading() as db:
        device, run, number, events = db.execute(
            "SELECT v.device, i.run, i.incident, v.events FROM vehicles v JOIN incidents i"
            " ON i.tenant = v.tenant AND i.device = v.device WHERE v.tenant = ?"
            " ORDER BY v.events DESC LIMIT 1",
            ("fund",),
        ).fetchone()
    if events < STORY_EVENTS:
        raise RuntimeError(f"the largest record with an incident has {events} events, not {STORY_EVENTS}")
    return device, f"{device}.{run.hex()}.{number}", events


def _p99(client: httpx.Client, name: str, paths: Sequence[str], goal_ms: float | None, more: str = "") -> Row:
    """A row for what somebody asks for together, one after the other."""
    took = []
    for _ in range(REQUESTS):
        begun = time.perf_counter()
        for path in paths:
            client.get(path).raise_for_status()
        took.append((time.perf_counter() - begun) * 1000)
    p99 = ranked(took, 0.99)
    return Row(
        name, round(p99, 1), f"ms, p99 of {REQUESTS}, HTTP (median {statistics.median(took):.1f}){more}",
        goal=None if goal_ms is None else f"< {goal_ms:.0f}", met=None if goal_ms is None else p99 < goal_ms,
    )  # fmt: skip


# -- the browser ---------------------------------------------------------------------------------------

_FRAMES: Final = """() => {
  const times = [], places = new Set(), pane = document.querySelector('.leaflet-map-pane');
  let last = null;
  window.__drag = { times, places, on: true };
  const step = (now) => {
    if (last !== null) times.push(now - last);
    last = now;
    places.add(pane.style.transform);
    if (window.__drag.on) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}"""
_STOP: Final = """() => {
  window.__drag.on = false;
  return [window.__drag.times, window.__drag.places.size];
}"""


def _browser(fleet: Fleet, url: str) -> Iterator[Row]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=str(CHROMIUM), args=list(CHROMIUM_ARGS))
        try:
            context = browser.new_context(viewport={"width": 1280, "height": 800})
            cookie = {"name": fleet.kit.context.cookie, "value": fleet.kit.session(), "url": url}
            context.add_cookies([cookie])  # type: ignore[list-item]
            tab = context.new_page()
            yield _first_load(tab, url, fleet.vehicles)
            yield from _drag(tab, fleet.vehicles)
        finally:
            browser.close()


def _first_load(tab: Any, url: str, vehicles: int) -> Row:
    """Every byte of the first visit, headers included, with nothing in the cache."""
    wire = tab.context.new_cdp_session(tab)
    wire.send("Network.enable")
    running: dict[str, float] = {}
    done: dict[str, float] = {}

    def received(event: dict[str, Any]) -> None:
        running[event["requestId"]] = running.get(event["requestId"], 0.0) + event["encodedDataLength"]

    wire.on("Network.dataReceived", received)
    wire.on(
        "Network.loadingFinished", lambda event: done.update({event["requestId"]: event["encodedDataLength"]})
    )
    tab.goto(f"{url}/#/fleet")
    tab.wait_for_selector(".leaflet-container canvas", timeout=START_MS)
    tab.wait_for_function("() => document.querySelector('ol.vehicles > li')", timeout=START_MS)
    tab.wait_for_timeout(SETTLE_MS)
    total = sum((running | done).values())  # the event stream never finishes
    if not total:
        raise RuntimeError("Chromium counted no bytes")
    return Row(
        "page_first_load", round(total / 1000, 1),
        f"kB on the wire, {vehicles} vehicles, {len(done)} answers",
        goal=_LOAD_GOAL, met=total < LOAD_GOAL_BYTES,
    )  # fmt: skip


def _drag(tab: Any, vehicles: int) -> Iterator[Row]:
    """Drag the map in circles; the time from frame to frame meanwhile."""
    box = tab.locator(".leaflet-container").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + min(box["height"], 800 - box["y"]) / 2
    tab.mouse.move(x + DRAG_PX, y)
    tab.mouse.down()
    tab.mouse.move(x + DRAG_PX, y + 8)
    tab.evaluate(_FRAMES)
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < DRAG_S:
        angle = 2 * math.pi * passed / TURN_S
        tab.mouse.move(x + DRAG_PX * math.cos(angle), y + DRAG_PX * math.sin(angle))
    frames, places = tab.evaluate(_STOP)
    tab.mouse.up()
    if places < MIN_FRAMES // 2:
        raise RuntimeError(f"the map was at {places} places while it was dragged")
    p95, enough = ranked(frames, 0.95) if frames else math.inf, len(frames) >= MIN_FRAMES
    if frames:
        yield Row(
            "page_map_drag_frame_median", round(statistics.median(frames), 1), f"ms, {len(frames)} frames"
        )
        yield Row("page_map_drag_frame_worst", round(max(frames), 1), "ms")
    yield Row(
        "page_map_drag_frame_p95", round(p95, 1) if frames else 0.0,
        f"ms, {vehicles} markers, {DRAG_S:.0f} s",
        goal=_FRAME_GOAL, met=p95 <= FRAME_GOAL_MS and enough,
    )  # fmt: skip
