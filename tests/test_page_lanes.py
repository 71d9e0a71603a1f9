"""The layout of the time line (lanes.js) in Chromium: numbers in, numbers out, nothing drawn."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Page, Route, sync_playwright

PAGE: Final = Path(__file__).parents[1] / "cloud_sync" / "page"
ORIGIN: Final = "https://page.test"
START: Final = "2026-11-25T03:00:00.000Z"
START_MS: Final = 1_795_575_600_000
MINUTE: Final = 60_000


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    def answer(route: Route) -> None:
        path = route.request.url.removeprefix(ORIGIN)
        if path.startswith("/page/"):
            text = (PAGE / path.removeprefix("/page/")).read_text(encoding="utf-8")
            route.fulfill(body=text, content_type="text/javascript")
        elif path == "/words/en.json":
            texts: dict[str, str] = {}
            for file in sorted((PAGE / "words" / "en").glob("*.json")):
                texts |= json.loads(file.read_text(encoding="utf-8"))
            route.fulfill(json=texts)
        else:
            route.fulfill(body="<!doctype html><title>lanes</title>", content_type="text/html")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        opened = browser.new_context(timezone_id="UTC", locale="en-GB").new_page()
        opened.route("**/*", answer)
        opened.goto(f"{ORIGIN}/")
        yield opened
        browser.close()


def call(page: Page, name: str, *args: Any) -> Any:
    return page.evaluate(
        "async ([name, args]) => { await (await import('/page/words.js')).load('en');"
        " return (await import('/page/lanes.js'))[name](...args); }",
        [name, list(args)],
    )


def at(minute: float) -> str:
    whole, rest = divmod(round(minute * 60), 60)
    return f"2026-11-25T{3 + whole // 60:02d}:{whole % 60:02d}:{rest:02d}.000Z"


def points(*pairs: tuple[float, Any]) -> list[dict[str, Any]]:
    return [{"at": at(minute), "value": value, "text": ""} for minute, value in pairs]


def offsets(found: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [((one["from"] - START_MS) / MINUTE, (one["to"] - START_MS) / MINUTE) for one in found]


def said(n: int, start: float | None, end: float | None, code: str = "record.window_missing") -> Any:
    ends = {"from": None if start is None else at(start), "to": None if end is None else at(end)}
    return {"code": code, "params": {"n": n, **ends}}


@pytest.mark.parametrize(
    ("minutes", "count", "step"),
    [(90, 8, 15), (90, 100, 1), (1, 6, 10 / 60), (1440, 8, 180), (10_080, 7, 1440), (10_080, 2, 10_080)],
)
def test_ticks_are_round_and_no_more_than_asked(page: Page, minutes: int, count: int, step: float) -> None:
    found = call(page, "ticks", START_MS, START_MS + minutes * MINUTE, count)
    assert 0 < len(found) <= count + 1
    assert all(one % (step * MINUTE) == 0 for one in found)
    assert {b - a for a, b in itertools.pairwise(found)} <= {step * MINUTE}


def test_a_gap_breaks_the_line_and_is_a_hole(page: Page) -> None:
    lane = points((0, 1.5), (1, 2.0), (2, None), (3, None), (5, 4.0), (6, None))
    assert [len(run) for run in call(page, "runs", lane)] == [2, 1]
    assert offsets(call(page, "holes", lane, START_MS + 9 * MINUTE)) == [(2, 5), (6, 9)]


def test_words_last_until_the_next_one(page: Page) -> None:
    lane = points((0, "still"), (2, "still"), (4, "moving"), (6, None), (8, "still"))
    found = call(page, "bands", lane, START_MS + 10 * MINUTE)
    assert [one["value"] for one in found] == ["still", "moving", "still"]
    assert offsets(found) == [(0, 4), (4, 6), (8, 10)]


def test_numbers_make_a_line_and_words_a_band(page: Page) -> None:
    assert call(page, "kindOf", {"points": points((0, None), (1, 3))}) == "line"
    assert call(page, "kindOf", {"points": points((0, None), (1, "open"))}) == "band"
    assert call(page, "range", points((0, 3), (1, -2), (2, None), (3, 9))) == [-2, 9]
    assert call(page, "range", points((0, "open"))) is None


def test_what_did_not_arrive_is_hatched_up_to_the_ends_of_the_window(page: Page) -> None:
    window = (START_MS, START_MS + 60 * MINUTE)
    cases = [said(3, 10, 20), said(2, None, 5), said(1, 55, None), said(9, 70, 80), said(4, -10, 2)]
    assert offsets(call(page, "gaps", cases, *window)) == [(10, 20), (0, 5), (55, 60), (0, 2)]


def test_losses_without_a_known_time_are_said_but_not_drawn(page: Page) -> None:
    window = (START_MS, START_MS + 60 * MINUTE)
    lost = [said(100, None, None, "record.window_dropped"), said(5, None, 30, "record.window_dropped")]
    assert call(page, "gaps", lost, *window) == []
    told = [call(page, "readable", one) for one in lost]
    assert [one["code"] for one in told] == ["record.window_dropped.some", "record.window_dropped.until"]


@pytest.mark.parametrize(
    ("minute", "value"), [(-1, None), (0, 1), (0.5, 1), (1, 2), (3.9, 3), (4, None), (99, 5)]
)
def test_the_value_at_a_moment_is_the_last_one_said(page: Page, minute: float, value: int | None) -> None:
    lane = points((0, 1), (1, 2), (2, 3), (4, None), (6, 5))
    found = call(page, "valueAt", lane, START_MS + minute * MINUTE)
    assert (None if found is None else found["value"]) == value


def test_the_cursor_stops_at_every_sample_and_mark_once(page: Page) -> None:
    timeline = {
        "from_at": at(0), "to_at": at(10),
        "lanes": [{"points": points((1, 1), (3, 2))}, {"points": points((3, "a"), (30, "b"))}],
        "marks": points((2, "opened")),
    }  # fmt: skip
    found = call(page, "stops", timeline)
    assert [(one - START_MS) / MINUTE for one in found] == [0, 1, 2, 3, 10]


@pytest.mark.parametrize("width", [320, 900])
def test_rows_do_not_overlap_and_fill_the_width(page: Page, width: int) -> None:
    lanes = [
        {"lane": "speed", "unit": "km/h", "points": points((0, 1))},
        {"lane": "case", "unit": "", "points": points((0, "open"))},
        {"lane": "supply", "unit": "V", "points": points((0, 12.4))},
    ]
    place = call(page, "layout", {"lanes": lanes, "marks": [], "from_at": at(0), "to_at": at(1)}, width)
    rows = place["rows"]
    assert [row["kind"] for row in rows] == ["line", "band", "line"]
    for row, below in itertools.pairwise(rows):
        assert row["plot"] + row["height"] < below["top"]
    assert rows[-1]["plot"] + rows[-1]["height"] < place["axis"] < place["height"]
    assert place["left"] + place["width"] < width


def test_moments_outside_of_the_window_stand_at_its_ends(page: Page) -> None:
    found = page.evaluate(
        "async ([from, to]) => { const { scale } = await import('/page/lanes.js');"
        " const x = scale(from, to, 10, 200);"
        " return [x(from - 1), x(from), x((from + to) / 2), x(to), x(to + 1)]; }",
        [START_MS, START_MS + MINUTE],
    )
    assert found == [10, 10, 110, 210, 210]


def test_sentences_have_times_and_names_as_people_read_them(page: Page) -> None:
    told = call(
        page, "readable",
        {"code": "reason.incident", "params": {"cause": "jammed", "at": START, "month": "2026-11", "n": 1}},
    )  # fmt: skip
    assert told["params"] == {
        "cause": "Radio jammed", "at": "25 Nov 2026 03:00:00", "month": "November 2026", "n": 1,
    }  # fmt: skip


def test_values_are_said_with_their_unit_and_losses_with_their_reason(page: Page) -> None:
    lane = {"lane": "speed", "unit": "km/h", "points": points((0, 42.25), (1, None))}
    assert call(page, "valueText", lane, lane["points"][0]) == "42.3 km/h"
    radio = {"lane": "radio", "unit": "satellites", "points": points((0, 9))}
    assert call(page, "valueText", radio, {"value": None, "text": "status"}) == (
        "nothing (the receiver has no fix)"
    )
    assert call(page, "valueText", radio, None) == "nothing said"
