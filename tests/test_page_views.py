"""Every view in a real browser: languages, phone, themes, accessibility, print, what the first load costs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from page_kit import (
    CARDS,
    EVIL,
    EVIL_DEVICE,
    PLACES,
    TYPED,
    Pages,
    World,
    browser,
    chromium,
    go,
    settle,
    views,
    world,
)
from playwright.sync_api import Browser, Page

from cloud_sync.runtime.serve.static import load_words

__all__ = ["browser", "chromium", "world"]

MAX_FIRST_LOAD_BYTES = 300_000
NARROW = 360
"""CSS pixels: the narrowest phone still sold."""

LATIN = re.compile(r"[A-Za-z]{2,}")
ALLOWED = """
Holdfast English fund anna mei operator auditor technician partner UTC API CloudEvents Standard
Webhooks webhook id timestamp signature https http JSON CSV GNSS LoRa MQTT OIDC IANA VIN URI WGS
RFC SHA Bearer Authorization Ctrl km kPa min ms dBm rms kB MB Cookie GCJ BD hfb holdfast verify
board gnss smtp toml serve PNG Merkle tlog CBOR COSE WebCrypto bank registry guarantor collector trust json
partners
"""
"""Proper names, units and technical terms that are written alike in Chinese, and the names of this world."""


@pytest.fixture(scope="module")
def saying(world: World, chromium: Browser) -> Iterator[Page]:
    """A page that only puts sentences into words."""
    page = chromium.new_page()
    page.goto(f"{world.url}/page/icon.svg")
    yield page
    page.close()


SCAN = """() => {
  const SKIPPED = 'code, pre, script, noscript, style, q, time, [lang=en], .mono';
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!element || element.closest(SKIPPED)) continue;
    if (node.textContent.trim()) found.push(node.textContent.trim());
  }
  for (const element of document.querySelectorAll('[aria-label], [title], [alt]')) {
    if (element.closest('[lang=en], code, time')) continue;
    for (const name of ['aria-label', 'title', 'alt']) {
      const text = element.getAttribute(name);
      if (text && text.trim()) found.push(text.trim());
    }
  }
  return found;
}"""


AXE = """async (rules) => {
  const options = { resultTypes: ['violations'] };
  if (rules.length) options.runOnly = { type: 'rule', values: rules };
  const { violations } = await axe.run(document, options);
  return violations.map((v) => `${v.id}: ${v.nodes[0].html.slice(0, 120)}`);
}"""


def violations(page: Page, *rules: str) -> list[str]:
    """What axe-core complains of on the page as it is, by these rules or by all."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    found: list[str] = page.evaluate(AXE, list(rules))
    return found


WIDE = """(limit) => [...document.querySelectorAll('main *')]
  .filter((e) => e.getBoundingClientRect().right > limit + 1).slice(0, 5)
  .map((e) => `${e.tagName}.${e.className}`)"""
"""What reaches beyond the page's right edge."""


def english_left(page: Page, names: frozenset[str] = frozenset()) -> list[str]:
    """Texts of the page with Latin words that are not to be there in Chinese."""
    left = []
    for text in page.evaluate(SCAN):
        bare = re.sub(r"[0-9a-f]{8,}|[\w.+-]+@[\w.-]+|https?://\S+|\b[a-z]+-[a-z0-9-]+(\.\w+)*", " ", text)
        words = [w for w in LATIN.findall(bare) if w not in ALLOWED.split() and w not in names]
        if words:
            left.append(f"{words} in {text!r:.120}")
    return left


def names_of(world: World) -> frozenset[str]:
    """Words within names that people gave: they are the same in every language."""
    given = " ".join([*(f"{n} {b} {note}" for n, b, note in CARDS.values()), *CARDS, PLACES, EVIL, TYPED])
    return frozenset(LATIN.findall(given))


def test_every_view_in_chinese_is_chinese(world: World, browser: Pages) -> None:
    page = browser.page(world, language="zh")
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    names = names_of(world)
    left = {}
    for name, address in views(world).items():
        go(page, address)
        found = english_left(page, names)
        if found:
            left[name] = found
    assert left == {}
    login = browser.page(world, "#/login", who=None, language="zh")
    assert english_left(login) == []
    browser.forgive("status of 401")  # by it the page learns that nobody is logged in


def test_refusals_and_failed_messages_are_told_in_chinese(world: World, browser: Pages) -> None:
    """What only the server says, in English, is marked as English; the sentence before it is Chinese."""
    client = world.kit.client("anna")
    assert client.post("/api/v1/webhooks/1/test").is_success
    number = client.get("/api/v1/deliveries").json()["items"][0]["id"]
    names = names_of(world) | {"Test"}
    failures = {
        "given up after 72 h: connection failed: refused": "72 小时后放弃。 无法建立连接。",
        "no answer within 10 s": "对方未在限定时间内应答。",
        "the target answered 503": "对方未接受该消息。",
        "there is no mail server: write [smtp] into serve.toml and restart": "尚未配置邮件服务器。",
        "the mail server refuses the login (535): check [smtp] user and password": "邮件服务器拒绝登录。",
        "the mail server cannot be reached: [Errno 111]": "无法建立连接。",
        "sending failed: KeyError": "未能发送。",
    }
    page = browser.page(world, language="zh")
    for error, chinese in failures.items():
        with world.kit.context.db.transaction() as db:
            change = "UPDATE deliveries SET state = 'dead', done_ms = next_ms, error = ? WHERE id = ?"
            db.execute(change, (error, number))
        go(page, "#/fleet")
        go(page, "#/admin/deliveries?state=dead")
        cell = page.locator("tbody tr .failure").first
        assert cell.locator("span:not([lang])").inner_text() == chinese
        assert cell.locator("[lang=en]").inner_text() in error
        assert english_left(page, names) == []
    go(page, "#/admin/webhooks")
    row = page.locator("tr", has_text="Control room")
    row.get_by_role("button", name="删除").click()
    page.locator("dialog[open]").get_by_role("button", name="删除").click()
    page.locator("dialog[open] .notice.bad").wait_for()
    assert english_left(page, names) == []
    assert page.locator("dialog[open] [lang=en]", has_text="Night duty").count() == 1
    browser.forgive("status of 400")


SAY: Final = """async ([language, said]) => {
  const words = await import('/page/words.js');
  await words.load(language);
  return words.say(said);
}"""


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("minutes", [0, 1, 8, 89, 90, 35 * 60, 36 * 60, 40 * 24 * 60])
@pytest.mark.parametrize(
    "code", ["story.next.send_coarse", "story.known.position", "story.unknown.place_now"]
)
def test_ages_are_the_same_on_the_page_and_in_messages(
    world: World, browser: Pages, saying: Page, language: str, minutes: int, code: str
) -> None:
    params = {"minutes": minutes, "at": "then"}
    told = saying.evaluate(SAY, [language, {"code": code, "params": params}])
    assert told == load_words(language).say(code, params)
    if minutes == 8:
        assert ("8 min" if language == "en" else "8 分钟") in told
    if minutes == 40 * 24 * 60:
        assert ("40 days" if language == "en" else "40 天") in told
    if minutes == 0 and code == "story.next.send_coarse":
        assert ("just now" if language == "en" else "刚才") in told


def test_a_story_tells_its_figure_once(world: World, browser: Pages) -> None:
    text = browser.page(world, f"#/incident/{world.tow}").locator("main").inner_text()
    assert text.count("96 of 100") == 1 and "0.96" not in text and "very sure" in text
    assert "T04:33" not in text  # times of the collector's lines are told as all others


def test_the_language_switches_in_place(world: World, browser: Pages) -> None:
    page = browser.page(world, f"#/incident/{world.tow}")
    english = page.locator("h1").inner_text()
    page.locator("#language").click()
    page.wait_for_function("() => document.documentElement.lang === 'zh-Hans'")
    settle(page)
    assert page.evaluate("location.hash") == f"#/incident/{world.tow}"
    assert "车轮未转动" in page.locator("h1").inner_text() and english.startswith("Moved")
    page.locator("#language").click()
    page.wait_for_function("() => document.documentElement.lang === 'en'")
    settle(page)
    assert page.locator("h1").inner_text() == english


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_view_is_wider_than_a_narrow_phone(world: World, browser: Pages, language: str) -> None:
    page = browser.page(world, language=language, phone=True, width=NARROW)
    wide = {}
    for name, address in views(world).items():
        go(page, address)
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > NARROW:
            wide[name] = page.evaluate(WIDE, NARROW)
    assert wide == {}


def test_every_view_is_accessible_in_both_themes(world: World, browser: Pages) -> None:
    page = browser.page(world)
    wrong = {}
    for name, address in views(world).items():
        go(page, address)
        found = violations(page)
        page.emulate_media(color_scheme="dark")
        found += [f"dark {text}" for text in violations(page, "color-contrast")]
        page.emulate_media(color_scheme="light")
        if found:
            wrong[name] = found
    assert wrong == {}


def test_the_dark_theme_is_dark(world: World, browser: Pages) -> None:
    page = browser.page(world, theme="dark")
    colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", colour)[:3]) < 64, colour


def test_login_and_dialogs_are_accessible(world: World, browser: Pages) -> None:
    login = browser.page(world, "#/login", who=None)
    assert violations(login) == []
    browser.forgive("status of 401")  # by it the page learns that nobody is logged in
    page = browser.page(world, "#/admin/rules")
    page.get_by_role("button", name="New rule").click()
    assert violations(page) == []
    page.keyboard.press("Escape")
    go(page, f"#/incident/{world.tow}")
    page.locator("button[data-verb=assign]").click()
    assert violations(page) == []


def test_views_print_without_controls(world: World, browser: Pages) -> None:
    page = browser.page(world)
    page.emulate_media(media="print")
    for name, address in views(world).items():
        go(page, address)
        assert page.locator("nav.views").is_hidden(), name
        assert page.locator("main .no-print:visible").count() == 0, name
        assert page.locator("main h1").is_visible(), name
    go(page, f"#/incident/{world.tow}")
    assert page.locator("main").get_by_role("button").locator("visible=true").count() == 0
    assert "96 of 100" in page.locator("main").inner_text()


def test_html_in_a_name_is_text(world: World, browser: Pages) -> None:
    page = browser.page(world)
    for address in ("#/fleet", "#/incidents", f"#/vehicle/{EVIL_DEVICE}", "#/health", "#/completeness"):
        go(page, address)
        assert EVIL in page.locator("main").inner_text(), address
        assert page.locator("main b, main img[src=x]").count() == 0, address
        assert "owned" not in page.title().replace(EVIL, ""), address
    assert page.evaluate("() => document.querySelectorAll('main script').length") == 0


def test_the_first_load_is_small(world: World, browser: Pages) -> None:
    page = browser.watched(browser.context(world))
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.goto(f"{world.url}/#/fleet")
    settle(page)
    page.wait_for_load_state("load")
    assert len(sizes) > 10
    assert sum(sizes) < MAX_FIRST_LOAD_BYTES, f"{sum(sizes):.0f} bytes in {len(sizes)} answers"


def test_a_browser_clock_that_is_wrong_by_a_year_changes_nothing(world: World, browser: Pages) -> None:
    right = browser.page(world, f"#/incident/{world.tow}")
    wrong = browser.watched(browser.context(world))
    wrong.clock.set_fixed_time("2027-12-24T00:00:00Z")
    wrong.goto(f"{world.url}/#/incident/{world.tow}")
    settle(wrong)
    ages = "() => [...document.querySelectorAll('main time[data-ago]')].map((e) => e.textContent)"
    assert wrong.evaluate("new Date().getUTCFullYear()") == 2027
    expected = right.evaluate(ages)
    assert expected and all(re.search(r"\bs ago|min ago|just now|\bh ago", text) for text in expected)
    assert [re.sub(r"\d+ s ago|just now", "now", a) for a in wrong.evaluate(ages)] == [
        re.sub(r"\d+ s ago|just now", "now", a) for a in expected
    ]
