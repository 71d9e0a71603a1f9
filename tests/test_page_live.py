"""The page while things happen: live incidents, two people at one, a lost network, a server that restarts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from page_kit import ALL_KINDS, Pages, World, browser, chromium, confined, go, make_world, settle
from playwright.sync_api import Page, expect
from serve_kit import OTHER, PASSWORD

from firmware_bridge.wire.stamp import ClockKind
from models.verdict import Cause

__all__ = ["browser", "chromium"]

OFFLINE = r"net::ERR|Failed to fetch"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world of its own: these tests change it."""
    made = make_world(tmp_path_factory.mktemp("live"), kinds=ALL_KINDS)
    made.start()
    yield made
    made.close()


def live(page: Page) -> None:
    """Wait until the page hears the server."""
    expect(page.locator(".line")).to_have_attribute("data-state", "live")


def act(page: Page, verb: str, note: str = "", assignee: str | None = None) -> None:
    """Do `verb` on the open story, as a person does."""
    page.locator(f"button[data-verb={verb}]").click()
    dialog = page.locator("dialog[open]")
    if assignee is not None:
        dialog.locator("select").select_option(assignee)
    if note:
        dialog.locator("textarea").fill(note)
    dialog.locator("button[type=submit]").click()
    expect(dialog).to_have_count(0)


def test_an_incident_arrives_on_the_open_page_and_two_people_work_on_it(world: World, browser: Pages) -> None:
    fleet = browser.page(world, "#/fleet", who="anna")
    lists = browser.page(world, "#/incidents", who="mei")
    live(fleet)
    live(lists)
    made = world.open("car-2", Cause.LEFT_REGION, confidence=910, lat=31.24, lon=121.45)
    row = fleet.locator(".vehicle, .news", has_text="Red van 12").first
    expect(row).to_contain_text("Incident")
    expect(lists.locator("main")).to_contain_text("Red van 12")

    anna = browser.page(world, f"#/incident/{made}", who="anna")
    mei = browser.page(world, f"#/incident/{made}", who="mei")
    live(anna)
    live(mei)
    act(anna, "acknowledge")
    expect(mei.locator("main .kicker")).to_contain_text("Acknowledged")
    act(mei, "assign", "You know this branch.", "anna")
    expect(anna.locator("main .kicker")).to_contain_text("Assigned")
    expect(anna.locator("main")).to_contain_text("You know this branch.")
    act(anna, "refute", "Declared transport, papers seen.")
    expect(mei.locator("main .kicker")).to_contain_text("Refuted")
    expect(mei.locator("main")).to_contain_text("Declared transport, papers seen.")
    assert anna.locator("button[data-verb=acknowledge]").count() == 0


def test_who_decides_upon_what_has_changed_is_told(world: World, browser: Pages) -> None:
    made = world.open("truck-4", Cause.LEFT_REGION, confidence=800)
    anna = browser.page(world, f"#/incident/{made}", who="anna")
    live(anna)
    anna.locator("button[data-verb=acknowledge]").click()
    client = world.kit.client("mei")
    answer = client.post(
        f"/api/v1/incidents/{made}/acts", json={"action": "refute", "version": 0, "note": "It is mine"}
    )
    assert answer.status_code == 200
    anna.locator("dialog[open] button[type=submit]").click()
    expect(anna.locator("main [role=alert]")).to_be_visible()
    expect(anna.locator("main")).to_contain_text("It is mine")
    expect(anna.locator("main .kicker")).to_contain_text("Refuted")
    story = client.get(f"/api/v1/incidents/{made}").json()
    assert [one["action"] for one in story["acts"] if one["action"] != "open"] == ["refute"]
    browser.forgive("status of 409")


def test_nothing_is_missed_while_the_network_is_gone(world: World, browser: Pages) -> None:
    page = browser.page(world, "#/incidents")
    live(page)
    page.context.set_offline(True)
    page.evaluate("() => window.dispatchEvent(new Event('offline'))")
    made = world.open("van-6", Cause.JAMMED, confidence=800)
    page.context.set_offline(False)
    expect(page.locator(f"main a[href='#/incident/{made}']").first).to_be_visible(timeout=30_000)
    live(page)
    browser.forgive(OFFLINE)


def test_nothing_is_missed_while_the_server_restarts(world: World, browser: Pages) -> None:
    page = browser.page(world, "#/incidents")
    live(page)
    world.stop()
    expect(page.locator(".line")).not_to_have_attribute("data-state", "live")
    made = world.open("van-5", Cause.MOVED_WITHOUT_WHEELS, confidence=950)
    world.start()
    expect(page.locator(f"main a[href='#/incident/{made}']").first).to_be_visible(timeout=30_000)
    live(page)
    browser.forgive(OFFLINE)


def test_links_into_another_tenant_show_nothing(world: World, browser: Pages) -> None:
    page = browser.page(world, "#/fleet")
    live(page)
    for address in (f"#/incident/{world.far}", "#/vehicle/far-1"):
        go(page, address)
        expect(page.locator("main [role=alert]")).to_contain_text("There is no such thing here")
        text = page.locator("main").inner_text()
        assert "secret" not in text and "Elsewhere" not in text
    go(page, "#/incidents")
    world.open("far-1", confidence=900)
    marker = world.open("car-8", Cause.LEFT_REGION, confidence=700)
    expect(page.locator(f"main a[href='#/incident/{marker}']").first).to_be_visible()
    assert "Their secret car" not in page.content() and "far-1" not in page.content()
    theirs = browser.page(world, "#/fleet", who="operator", tenant=OTHER)
    assert "Their secret car" in theirs.locator("main").inner_text()
    assert "White flatbed" not in theirs.content()
    browser.forgive("status of 404")


def test_only_who_may_act_and_sees_the_branch_is_offered_an_incident(world: World, browser: Pages) -> None:
    confined(world, "sven", ("South",))
    confined(world, "nora", ("North",))
    made = world.open("van-6", Cause.JAMMED, confidence=810)  # of the branch North
    page = browser.page(world, f"#/incident/{made}")
    page.locator("button[data-verb=assign]").click()
    choice = page.locator("dialog[open] select")
    offered = [option.get_attribute("value") for option in choice.locator("option").all()]
    assert offered[0] == "anna" and {"mei", "nora", "operator"} <= set(offered)
    assert not {"sven", "auditor", "technician", "partner"} & set(offered)
    choice.select_option("nora")
    page.locator("dialog[open] button[type=submit]").click()
    expect(page.locator("main .kicker")).to_contain_text("Assigned")


def test_the_marks_of_data_that_is_not_live_appear_with_the_first_row_of_it(
    world: World, browser: Pages
) -> None:
    """The banner follows what arrives, and so do the marks of the rows once there is more than one kind."""
    fleet = browser.page(world, "#/fleet")
    lists = browser.page(world, "#/incidents", language="zh", who="mei")
    live(fleet)
    live(lists)
    assert fleet.locator(".banner, .clock-mark").count() == 0
    simulated = world.unreal(ClockKind.SIMULATED)
    expect(fleet.locator(".banner")).to_contain_text("SIMULATED DATA")
    expect(fleet.locator(".vehicle", has_text="simulated-1").locator(".clock-mark")).to_have_text("Simulated")
    expect(fleet.locator(".vehicle", has_text="White flatbed 7").locator(".clock-mark")).to_have_count(0)
    expect(lists.locator(".banner")).to_contain_text("模拟数据")
    expect(lists.locator(f"tr[data-key='{simulated}'] .clock-mark")).to_have_text("模拟")
    replayed = world.unreal(ClockKind.REPLAY)
    expect(fleet.locator(".banner")).to_contain_text("SIMULATED AND REPLAYED DATA")
    expect(lists.locator(".banner")).to_contain_text("模拟与回放数据")
    for id_, mark, text in (
        (simulated, "Simulated", "No real vehicle is meant"),
        (replayed, "Replay", "This is not happening now"),
    ):
        go(fleet, f"#/incident/{id_}")
        big = fleet.locator(".big-mark")
        expect(big).to_contain_text(text)
        expect(big.locator(".clock-mark")).to_have_text(mark)
        size = big.locator(".clock-mark").evaluate("(e) => parseFloat(getComputedStyle(e).fontSize)")
        body = fleet.evaluate("parseFloat(getComputedStyle(document.body).fontSize)")
        assert size >= 1.4 * body
    assert fleet.locator(".banner").evaluate("(e) => e.getBoundingClientRect().top") == 0
    fleet.emulate_media(media="print")
    assert fleet.locator(".banner").is_visible() and fleet.locator(".big-mark").is_visible()


def focused(page: Page) -> str:
    return str(page.evaluate("() => document.activeElement.outerHTML.slice(0, 200)"))


def tab_to(page: Page, selector: str, limit: int = 80) -> None:
    """Press Tab until the focus is on `selector`."""
    for _ in range(limit):
        if page.evaluate("(s) => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no way by keyboard to {selector}; the focus is at {focused(page)}")


def test_from_the_login_to_an_acknowledged_incident_without_a_mouse(world: World, browser: Pages) -> None:
    made = world.open("car-1", Cause.REMOVED_OR_OPENED, confidence=990)
    page = browser.page(world, "#/login", who=None)
    browser.forgive("status of 401")  # by it the page learns that nobody is logged in
    tab_to(page, "input[autocomplete=username]")
    page.keyboard.type("anna")
    tab_to(page, "input[type=password]")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("nav.views")).to_be_visible()
    settle(page)
    tab_to(page, "nav.views a[data-view=incidents]")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.startsWith('#/incidents')")
    settle(page)
    tab_to(page, f"main a[href='#/incident/{made}']")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.startsWith('#/incident/')")
    settle(page)
    tab_to(page, "button[data-verb=acknowledge]")
    page.keyboard.press("Enter")
    tab_to(page, "dialog[open] button[type=submit]")
    page.keyboard.press("Enter")
    expect(page.locator("main .kicker")).to_contain_text("Acknowledged")
    assert "dialog" not in page.evaluate("() => document.activeElement.tagName.toLowerCase()")
