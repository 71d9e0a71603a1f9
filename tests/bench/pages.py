"""The operator's page over a large fleet: 10,000 vehicles, a million events, through HTTP and in a browser.

    python tests/bench/run.py --only page --only live

Times of answers are those of a client on loopback, the best of several, with the server in the same process.
Frames are counted in Chromium without a graphics card; it is left out where Chromium is not installed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import fleetload
import httpx
from rows import Row

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from serve_kit import ServeKit, make_serve_kit

CHROMIUM: Final = Path("/usr/bin/chromium")
LIST_GOAL_MS: Final = 150.0
STORY_GOAL_MS: Final = 200.0
LOAD_GOAL_BYTES: Final = 300_000
REPEATS: Final = 9
DRAG_STEPS: Final = 60


def page(folder: Path) -> Iterator[Row]:
    """Answers of the API, the first load, and how smoothly the map moves."""
    kit = make_serve_kit(folder)
    try:
        fleetload.build(kit.kit.config.store)
        kit.kit.clock.wall_ms = fleetload.NOW_MS
        token = kit.api_token()
        with kit.server() as url:
            yield from _answers(url, token)
            if CHROMIUM.exists():
                yield from _browser(kit, url)
    finally:
        kit.close()


def _answers(url: str, token: str) -> Iterator[Row]:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
        incidents = client.get("/api/v1/incidents", params={"limit": 1}).raise_for_status().json()["items"]
        story = incidents[0]["id"]
        for name, path, goal in (
            ("page_fleet_list", "/api/v1/vehicles?limit=50", LIST_GOAL_MS),
            ("page_fleet_list_500", "/api/v1/vehicles?limit=500", LIST_GOAL_MS),
            ("page_fleet_list_branch", "/api/v1/vehicles?branch=Harbour&state=incident", LIST_GOAL_MS),
            ("page_incidents", "/api/v1/incidents?limit=50", LIST_GOAL_MS),
            ("page_story", f"/api/v1/incidents/{story}", STORY_GOAL_MS),
            ("page_story_time_line", f"/api/v1/incidents/{story}/timeline", STORY_GOAL_MS),
        ):
            took = statistics.median(_timed(client, path) for _ in range(REPEATS))
            yield Row(name, round(took, 1), "ms, median, HTTP", goal=f"< {goal:.0f}", met=took < goal)
        yield Row(
            "page_map_10000", round(min(_timed(client, "/api/v1/map") for _ in range(3)), 1), "ms, HTTP"
        )


def _timed(client: httpx.Client, path: str) -> float:
    begun = time.perf_counter()
    client.get(path).raise_for_status()
    return (time.perf_counter() - begun) * 1000


_FRAMES: Final = """() => new Promise((done) => {
  const times = []; let last = performance.now();
  window.__frames = times;
  const step = (now) => { times.push(now - last); last = now; requestAnimationFrame(step); };
  requestAnimationFrame(step); done();
})"""


def _browser(kit: ServeKit, url: str) -> Iterator[Row]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.add_cookies([{"name": kit.context.cookie, "value": kit.session(), "url": url}])
        tab = context.new_page()
        wire = context.new_cdp_session(tab)
        wire.send("Network.enable")
        sizes: list[float] = []
        wire.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
        tab.goto(f"{url}/#/fleet")
        tab.wait_for_selector(".leaflet-container canvas")
        tab.wait_for_timeout(3000)
        total = sum(sizes)
        met = total < LOAD_GOAL_BYTES
        yield Row(
            "page_first_load",
            round(total / 1000, 1),
            "kB on the wire, 10,000 vehicles",
            goal="< 300",
            met=met,
        )
        box = tab.locator(".leaflet-container").bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + min(box["height"], 500) / 2
        tab.evaluate(_FRAMES)
        tab.mouse.move(x, y)
        tab.mouse.down()
        for step in range(DRAG_STEPS):
            tab.mouse.move(x + 2 * step, y + step)
        tab.mouse.up()
        frames = sorted(tab.evaluate("() => window.__frames"))
        yield Row("page_map_drag_frame", round(statistics.median(frames), 1), "ms, median, 10,000 markers")
        yield Row("page_map_drag_frame_p95", round(frames[int(len(frames) * 0.95)], 1), "ms")
        browser.close()


def live(folder: Path) -> Iterator[Row]:
    """From the collector's commit to 200 viewers."""
    import liveload

    yield from liveload.live(folder)


def enrolments(folder: Path) -> Iterator[Row]:
    """Devices enrolled by the authority's server, both certificates each."""
    import enrolload

    per_cpu, per_wall = enrolload.measure()
    yield Row(
        "enrolments_per_core_minute", round(per_cpu), "1/min of one core", goal=">= 1000", met=per_cpu >= 1000
    )
    yield Row("enrolments_per_minute", round(per_wall), "1/min by the wall, clients on the same machine")
