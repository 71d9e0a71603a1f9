"""Administration in a real browser: accounts, tokens, rules in sentences, messages, the audit."""

from __future__ import annotations

import httpx
import pytest
from page_kit import MINUTE, NOW_MS, PURPOSE, Pages, World, browser, chromium, confined, go, settle, world
from playwright.sync_api import Page, Route, expect

__all__ = ["browser", "chromium", "world"]


def once(page: Page) -> str:
    """The secret in the dialog that shows it once; copies it and closes the dialog."""
    dialog = page.locator("dialog[open]")
    value = dialog.locator("input[readonly]").input_value()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    dialog.get_by_role("button", name="Copy").click()
    expect(dialog).to_contain_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == value
    dialog.get_by_role("button", name="I have it").click()
    expect(dialog).to_have_count(0)
    assert value not in page.content()
    return value


def test_a_rule_says_what_it_does_while_it_is_edited(world: World, browser: Pages) -> None:
    page = browser.page(world, "#/admin/rules")
    page.get_by_role("button", name="New rule").click()
    dialog = page.locator("dialog[open]")
    expect(dialog).to_contain_text("It tells nobody yet")
    dialog.get_by_label("Name of the rule").fill("Harbour <b>watch</b>")
    dialog.get_by_label("E-mail addresses").fill("harbour@fund.example，night@fund.example")
    expect(dialog).to_contain_text("It tells harbour@fund.example and night@fund.example, in English.")
    expect(dialog).to_contain_text("It speaks at any hour.")
    dialog.get_by_label("There are quiet hours").check()
    expect(dialog).to_contain_text(
        "Between 22:00 and 07:00 (Asia/Shanghai, every day) only incidents of severity 700 or more wake"
    )
    dialog.get_by_label("But wake from this severity on").fill("1001")
    expect(dialog).to_contain_text("nobody is woken")
    dialog.get_by_label("But wake from this severity on").fill("2000")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_contain_text("A number from 0 to 1001.")
    dialog.get_by_label("But wake from this severity on").fill("650")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    card = page.locator(".card", has_text="Harbour <b>watch</b>")
    expect(card).to_contain_text("only incidents of severity 650 or more")
    assert card.locator("b").count() == 0
    rules = world.kit.client("anna").get("/api/v1/rules").json()["items"]
    made = next(rule for rule in rules if rule["name"].startswith("Harbour"))
    assert made["quiet"]["except_severity"] == 650 and made["escalate_after_s"] == 900
    card.get_by_role("button", name="Delete").click()
    page.locator("dialog[open]").get_by_role("button", name="Delete").click()
    expect(card).to_have_count(0)


def test_a_token_is_shown_once_and_works_until_it_is_revoked(world: World, browser: Pages) -> None:
    page = browser.page(world, "#/admin/tokens")
    page.get_by_role("button", name="New token").click()
    dialog = page.locator("dialog[open]")
    dialog.get_by_label("Name", exact=True).fill("Export")
    dialog.get_by_label("read the fleet").check()
    dialog.get_by_role("button", name="Create").click()
    expect(page.locator("dialog[open] input[readonly]")).to_be_visible()
    secret = once(page)
    headers = {"Authorization": f"Bearer {secret}"}
    assert httpx.get(f"{world.url}/api/v1/vehicles", headers=headers).status_code == 200
    assert httpx.get(f"{world.url}/api/v1/incidents", headers=headers).status_code == 403
    page.reload()
    settle(page)
    row = page.locator("tr", has_text="Export")
    expect(row).to_contain_text("read the fleet")
    assert secret not in page.content()
    row.get_by_role("button").click()
    page.locator("dialog[open]").get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0)
    assert httpx.get(f"{world.url}/api/v1/vehicles", headers=headers).status_code == 401


def test_a_new_account_enters_by_its_link_and_sees_what_its_role_may(world: World, browser: Pages) -> None:
    page = browser.page(world, "#/admin/accounts")
    page.get_by_role("button", name="New account").click()
    dialog = page.locator("dialog[open]")
    dialog.get_by_label("Name", exact=True).fill("tessa")
    dialog.get_by_label("Role").select_option("technician")
    expect(dialog).to_contain_text("no incidents and no titles")
    dialog.get_by_role("button", name="Create").click()
    expect(page.locator("dialog[open] input[readonly]")).to_be_visible()
    link = once(page)
    assert link.startswith(world.url)
    other = browser.watched(browser.context(world, None))
    other.goto(link)
    settle(other)
    for entry in other.locator("input[type=password]").all():
        entry.fill("a wholly new phrase")
    other.locator("button[type=submit]").click()
    expect(other.locator("nav.views")).to_be_visible()
    settle(other)
    seen = [link.get_attribute("data-view") for link in other.locator("nav.views a").all()]
    assert seen == ["fleet", "completeness", "health", "log"]
    go(other, "#/admin/accounts")
    expect(other.locator("h1")).to_have_text("API tokens")
    expect(page.locator("tr", has_text="tessa")).to_contain_text("Technician")
    browser.forgive("status of 401")


@pytest.mark.parametrize("who", ["auditor", "partner"])
def test_who_does_not_manage_is_offered_nothing_to_manage(world: World, browser: Pages, who: str) -> None:
    page = browser.page(world, "#/fleet", who=who)
    assert page.locator("nav.views a[data-view=admin]").count() == 0
    go(page, "#/admin/rules")
    expect(page.locator("h1")).to_have_text("API tokens")
    assert page.locator(".tabs a").count() == 1


def test_a_message_that_was_given_up_is_sent_again(world: World, browser: Pages) -> None:
    page = browser.page(world, "#/admin/webhooks")
    row = page.locator("tr", has_text="Control room")
    row.get_by_role("button", name="Send a test").click()
    expect(page.locator("#announcer")).to_contain_text("A test is on its way")
    client = world.kit.client("anna")
    number = client.get("/api/v1/deliveries").json()["items"][0]["id"]
    with world.kit.context.db.transaction() as db:
        db.execute("UPDATE deliveries SET state = 'dead', done_ms = next_ms WHERE id = ?", (number,))
    go(page, "#/admin/deliveries?state=dead")
    dead = page.locator("tbody tr")
    expect(dead).to_have_count(1)
    expect(dead).to_contain_text("Given up")
    dead.get_by_role("button", name="Send again").click()
    expect(page.locator("main")).to_contain_text("There are no messages.")
    now_ms = page.evaluate("async () => (await import('/page/time.js')).nowMs()")
    assert abs(now_ms - NOW_MS) < 10 * MINUTE  # messages have the host's time, the page the collector's
    states = [item["state"] for item in client.get("/api/v1/deliveries").json()["items"]]
    assert states == ["waiting"]


def test_the_audit_says_who_read_what_for_which_purpose(world: World, browser: Pages) -> None:
    page = browser.page(world, "#/audit", who="auditor")
    row = page.locator("tr", has_text=PURPOSE)
    expect(row).to_contain_text("Exact position read")
    expect(row).to_contain_text("anna")
    assert row.get_by_role("link", name="the incident").get_attribute("href") == f"#/incident/{world.tow}"


def test_a_refusal_says_the_servers_reason(world: World, browser: Pages) -> None:
    """A webhook that a rule names cannot be removed: which rule it is, only the server knows."""
    reason = "he rule “Night duty” sends to this webhook: take it out of the rule first"
    for language, delete, generic in (("en", "Delete", "cannot be done"), ("zh", "删除", "无法按此要求执行")):
        page = browser.page(world, "#/admin/webhooks", language=language)
        page.locator("tr", has_text="Control room").get_by_role("button", name=delete).click()
        page.locator("dialog[open]").get_by_role("button", name=delete).click()
        box = page.locator("dialog[open] .notice.bad")
        expect(box).to_contain_text(generic)
        expect(box).to_contain_text(reason)
        assert box.locator("[lang=en]", has_text=reason).count() == (1 if language == "zh" else 0)
    assert world.kit.client("anna").get("/api/v1/webhooks").json()["items"]
    browser.forgive("status of 400")


def test_a_rule_that_wants_mail_says_when_there_is_no_mail_server(world: World, browser: Pages) -> None:
    context = browser.context(world)
    there = {"mail": False}

    def answer(route: Route) -> None:
        found = route.fetch()
        route.fulfill(response=found, json=found.json() | there)

    context.route("**/api/v1/rules", answer)
    page = browser.watched(context)
    page.goto(f"{world.url}/#/admin/rules")
    settle(page)
    warning = page.locator(".no-mail")
    expect(warning).to_contain_text("No mail server is set up: the mails of")
    expect(warning).to_contain_text("Night duty")
    there["mail"] = True
    page.reload()
    settle(page)
    expect(page.locator("main")).to_contain_text("Night duty")
    assert warning.count() == 0


def test_the_audit_says_what_waits_for_a_checkpoint(world: World, browser: Pages) -> None:
    context = browser.context(world, "auditor")

    def answer(route: Route) -> None:
        found = route.fetch()
        body = found.json()
        for row in body["items"]:
            row["awaiting_checkpoint"] = row["purpose"] == PURPOSE
            if row["awaiting_checkpoint"]:
                row["log_index"] = None
        route.fulfill(response=found, json=body)

    context.route("**/api/v1/audit*", answer)
    page = browser.watched(context)
    page.goto(f"{world.url}/#/audit")
    settle(page)
    waiting = page.locator("td", has_text="awaiting checkpoint")
    expect(waiting).to_have_count(1)
    expect(page.locator("tr", has_text=PURPOSE)).to_contain_text("awaiting checkpoint")


def test_who_manages_some_branches_is_offered_no_webhooks_and_keeps_those_of_a_rule(
    world: World, browser: Pages
) -> None:
    """Webhooks and messages belong to all branches: a manager of the north neither sees nor loses them."""
    client = world.kit.client("anna")
    hook = client.get("/api/v1/webhooks").json()["items"][0]["id"]
    body = {"name": "Northern", "branches": ["North"], "webhooks": [hook], "emails": ["north@fund.example"]}
    made = client.post("/api/v1/rules", json=body).json()
    confined(world, "nora", ("North",))
    page = browser.page(world, "#/admin/rules", who="nora")
    assert page.locator(".tabs a").all_inner_texts() == ["Accounts", "API tokens", "Rules"]
    card = page.locator(".card", has_text="Northern")
    expect(card).to_contain_text("It tells north@fund.example and a webhook of other branches")
    card.get_by_role("button", name="Edit").click()
    page.locator("dialog[open]").get_by_label("Name of the rule").fill("Northern watch")
    page.locator("dialog[open]").get_by_role("button", name="Save").click()
    expect(page.locator(".card", has_text="Northern watch")).to_have_count(1)
    rules = client.get("/api/v1/rules").json()["items"]
    assert next(rule["webhooks"] for rule in rules if rule["id"] == made["id"]) == [hook]
    assert client.delete(f"/api/v1/rules/{made['id']}").is_success


def test_a_partner_needs_a_branch_before_anything_is_sent(world: World, browser: Pages) -> None:
    page = browser.page(world, "#/admin/accounts")
    page.get_by_role("button", name="New account").click()
    dialog = page.locator("dialog[open]")
    dialog.get_by_label("Name", exact=True).fill("paula")
    dialog.get_by_label("Role").select_option("partner")
    dialog.get_by_role("button", name="Create").click()
    expect(dialog).to_contain_text("name at least one")
    dialog.get_by_label("Branches").fill("North")
    dialog.get_by_role("button", name="Create").click()
    expect(page.locator("dialog[open] input[readonly]")).to_be_visible()
