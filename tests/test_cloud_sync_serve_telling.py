"""From an incident in the collector's store to a message at its target."""

from __future__ import annotations

import asyncio
import http.server
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_kit import OTHER, ServeKit, make_serve_kit
from standardwebhooks import Webhook as Verifier

from cloud_sync.errors import StoreBusy
from cloud_sync.runtime import cases, fleet
from cloud_sync.runtime.serve import outbound, rule_store, telling
from cloud_sync.runtime.serve.telling import Teller, every
from cloud_sync.runtime.serve.telling_source import StoreSource
from models.verdict import Action

MINUTE = 60_000


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[ServeKit]:
    made = make_serve_kit(tmp_path, extra="[webhooks]\nallow_private = true")
    try:
        yield made
    finally:
        made.close()


class Desk:
    """A teller on a kit, with what it has enqueued."""

    def __init__(self, kit: ServeKit) -> None:
        self.kit = kit
        self.db = telling.serve_db(kit.context)
        context = kit.context
        self.source = StoreSource(context)
        self.teller = Teller(
            self.source, self.db, context.words, lambda: context.base_url, context.now_ms, context.real_ms
        )
        self.seen = 0

    def rule(self, tenant: str = "fund", **changes: Any) -> int:
        body = {"name": "Night watch", "emails": ["a@fund.example"], **changes}
        made = self.kit.client("operator", tenant).post("/api/v1/rules", json=body)
        assert made.status_code == 201, made.text
        return int(made.json()["id"])

    def hook(self, url: str = "https://hook.example/in", tenant: str = "fund") -> dict[str, Any]:
        made = self.kit.client("operator", tenant).post("/api/v1/webhooks", json={"name": "hook", "url": url})
        assert made.status_code == 201, made.text
        found: dict[str, Any] = made.json()
        return found

    def step(self) -> list[dict[str, Any]]:
        """What is new in the queue after one step, oldest first."""
        self.teller.step()
        with self.db.reading() as db:
            found = db.execute(
                "SELECT id, tenant, channel, target, subject, body, message FROM deliveries"
                " WHERE id > ? ORDER BY id",
                (self.seen,),
            ).fetchall()
        names = ("id", "tenant", "channel", "target", "subject", "body", "message")
        self.seen = max([self.seen, *(row[0] for row in found)])
        return [dict(zip(names, row, strict=True)) for row in found]

    def act(self, incident: str, action: str, note: str = "seen", **more: Any) -> None:
        client = self.kit.client()
        version = client.get(f"/api/v1/incidents/{incident}").json()["incident"]["version"]
        done = client.post(
            f"/api/v1/incidents/{incident}/acts",
            json={"action": action, "version": version, "note": note, **more},
        )
        assert done.status_code == 200, done.text

    def heard(self, *devices: str) -> None:
        """Let vehicles say now that they will be heard again in a minute."""
        for name in devices:
            self.kit.devices[name].wall_ms = self.kit.kit.clock.wall_ms
        self.kit.ingest(*devices)

    def later(self, minutes: float) -> None:
        self.kit.kit.clock.wall_ms += int(minutes * MINUTE)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeKit]:
    """A kit for requests that change nothing."""
    made = make_serve_kit(tmp_path_factory.mktemp("shared"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def desk(kit: ServeKit) -> Desk:
    return Desk(kit)


# --- what is told ---------------------------------------------------------------------------------------


def test_an_incident_is_told_once_to_everybody_named(desk: Desk) -> None:
    hook = desk.hook()["webhook"]["id"]
    desk.rule(emails=["a@fund.example", "b@fund.example"], webhooks=[hook])
    incident = desk.kit.incident()
    told = desk.step()
    assert [(one["channel"], one["target"]) for one in told] == [
        ("email", "a@fund.example"),
        ("email", "b@fund.example"),
        ("webhook", "hook"),
    ]
    assert desk.step() == []
    text = told[0]["body"]
    assert "The car moves 41 m, no wheel turns." in text
    assert "not a calibrated probability" in text
    assert f"{desk.kit.context.base_url}/#/incident/{incident}" in text
    assert "What to do\n1. " in text
    assert "story." not in text  # every step has its words
    event = json.loads(told[2]["body"])
    assert event["id"] == told[2]["message"]
    assert event["data"]["incident"]["id"] == incident
    assert event["source"] == "urn:holdfast:fund:car-1"


def test_what_was_before_the_rule_is_not_told_and_its_changes_neither(desk: Desk) -> None:
    incident = desk.kit.incident()
    desk.rule()
    assert desk.step() == []
    desk.kit.incident(number=2)
    assert len(desk.step()) == 1
    desk.act(incident, "acknowledge")
    assert desk.step() == []


def test_a_tenant_hears_of_its_own_alone(desk: Desk) -> None:
    desk.rule()
    desk.rule(OTHER, emails=["spy@other.example"])
    desk.kit.incident("far-1")
    assert [(one["tenant"], one["target"]) for one in desk.step()] == [(OTHER, "spy@other.example")]
    desk.kit.incident("car-1")
    assert [(one["tenant"], one["target"]) for one in desk.step()] == [("fund", "a@fund.example")]


def test_a_rule_of_a_branch(desk: Desk) -> None:
    desk.rule(branches=["north"])
    desk.kit.incident("car-1")
    assert desk.step() == []
    with desk.kit.context.stores.writing() as store, store.transaction() as db:  # a card of an older version
        db.execute(
            "INSERT OR REPLACE INTO cards(tenant, device, name, branch, note) VALUES(?,?,?,?,?)",
            ("fund", "car-2", "Van\r\nBcc: x", "north", ""),
        )
    desk.kit.incident("car-2")
    (told,) = desk.step()
    assert told["subject"].startswith("Van Bcc: x (north)")


def test_later_changes_go_to_machines_and_not_into_mailboxes(desk: Desk) -> None:
    hook = desk.hook()["webhook"]["id"]
    desk.rule(webhooks=[hook])
    incident = desk.kit.incident()
    assert len(desk.step()) == 2
    for action, state in (("acknowledge", "acknowledged"), ("refute", "refuted"), ("close", "closed")):
        desk.act(incident, action)
        (told,) = desk.step()
        assert told["channel"] == "webhook"
        event = json.loads(told["body"])
        assert event["type"] == f"net.holdfast.incident.{state}.v1"
        assert event["data"]["incident"]["state"] == state


def test_two_rules_do_not_tell_one_address_the_same_thing_twice(desk: Desk) -> None:
    desk.rule()
    desk.rule(name="Another", emails=["A@fund.example", "b@fund.example"])
    desk.kit.incident()
    assert sorted(one["target"] for one in desk.step()) == ["a@fund.example", "b@fund.example"]


def test_chinese_where_the_rule_says_so(desk: Desk) -> None:
    desk.rule(language="zh")
    desk.kit.incident()
    (told,) = desk.step()
    assert "车轮未转动而车辆移动" in told["subject"]
    assert "应对措施\n1. " in told["body"]
    assert "What to do" not in told["body"]


# --- escalation, digests, quiet hours -----------------------------------------------------------------------


def test_nobody_acknowledges_and_the_next_one_is_told(desk: Desk) -> None:
    desk.rule(escalate_after_s=600, escalate_to=["boss@fund.example"])
    incident = desk.kit.incident()
    assert len(desk.step()) == 1
    desk.later(9)
    assert desk.step() == []
    desk.later(1)
    told = desk.step() + desk.step()
    assert [one["target"] for one in told] == ["boss@fund.example"]
    assert told[0]["subject"].startswith("ESCALATED: ")
    story = desk.kit.client().get(f"/api/v1/incidents/{incident}").json()
    assert story["incident"]["state"] == "escalated"
    assert [(act["action"], act["author"]) for act in story["acts"]][-1] == ("escalate", "rule")
    assert story["acts"][-1]["statement"] is not None
    desk.later(60)
    assert desk.step() == []


def test_what_is_acknowledged_in_time_is_not_escalated(desk: Desk) -> None:
    desk.rule(escalate_after_s=600, escalate_to=["boss@fund.example"])
    incident = desk.kit.incident()
    desk.step()
    desk.act(incident, "acknowledge")
    desk.later(60)
    assert desk.step() + desk.step() == []


def test_an_acknowledgement_that_was_not_read_yet_wins_over_the_rule(desk: Desk) -> None:
    desk.rule(escalate_after_s=600, escalate_to=["boss@fund.example"])
    incident = desk.kit.incident()
    desk.step()
    desk.act(incident, "acknowledge")
    desk.later(60)
    desk.teller.escalate("fund")  # before the feed was followed
    story = desk.kit.client().get(f"/api/v1/incidents/{incident}").json()
    assert story["incident"]["state"] == "acknowledged"


def test_a_storm_comes_as_one_digest_and_nothing_is_lost(desk: Desk) -> None:
    hook = desk.hook()["webhook"]["id"]
    desk.rule(webhooks=[hook], digest_after=3, digest_s=300)
    ids = [desk.kit.incident(number=number) for number in range(1, 21)]
    told = desk.step()
    assert len(told) == 6
    desk.later(4)
    assert desk.step() == []
    desk.later(1)
    mail, event = desk.step()
    assert mail["subject"].startswith("17 incidents wait")
    data = json.loads(event["body"])["data"]
    named = [json.loads(one["body"])["data"]["incident"]["id"] for one in told if one["channel"] == "webhook"]
    named += [entry["incident"]["id"] for entry in data["incidents"]]
    assert sorted(named) == sorted(ids)
    desk.later(60)
    assert desk.step() == []


def test_what_was_acted_upon_in_the_storm_is_not_in_the_digest(desk: Desk) -> None:
    desk.rule(digest_after=1, digest_s=300)
    ids = [desk.kit.incident(number=number) for number in range(1, 4)]
    assert len(desk.step()) == 1
    desk.act(ids[1], "acknowledge")
    desk.later(5)
    (told,) = desk.step()
    assert ids[2] in told["body"]
    assert ids[1] not in told["body"]
    assert "incidents wait" not in told["subject"]  # one alone is a message like any other


def test_quiet_hours_hold_and_the_morning_tells(desk: Desk) -> None:
    # The kit's clock stands at 04:40 UTC, 12:40 in Shanghai
    desk.rule(
        quiet={"start": "12:00", "end": "13:00", "zone": "Asia/Shanghai", "except_severity": 1001},
        escalate_after_s=60,
    )
    ids = [desk.kit.incident(number=number) for number in range(1, 3)]
    assert desk.step() == []
    desk.later(19)
    assert desk.step() == []
    assert desk.kit.client().get(f"/api/v1/incidents/{ids[0]}").json()["incident"]["state"] == "open"
    desk.later(1)
    (told,) = desk.step()
    assert told["subject"].startswith("2 incidents wait")
    assert "2026-12-01 12:4" in told["body"]
    desk.later(1)
    desk.step()
    assert desk.kit.client().get(f"/api/v1/incidents/{ids[0]}").json()["incident"]["state"] == "escalated"


def test_severe_ones_pass_quiet_hours(desk: Desk) -> None:
    desk.rule(quiet={"start": "00:00", "end": "00:00", "except_severity": 700})
    desk.kit.incident()
    assert len(desk.step()) == 1


def test_a_removed_rule_tells_nothing_any_more(desk: Desk) -> None:
    number = desk.rule(quiet={"start": "04:00", "end": "05:00", "except_severity": 1001})
    desk.kit.incident()
    assert desk.step() == []
    assert desk.kit.client().delete(f"/api/v1/rules/{number}").status_code == 204
    desk.later(60)
    assert desk.step() == []


def test_an_incident_that_the_device_closes(desk: Desk) -> None:
    hook = desk.hook()["webhook"]["id"]
    desk.rule(webhooks=[hook])
    desk.kit.incident()
    desk.step()
    one = desk.kit.devices["car-1"]
    desk.kit.take(("car-1", one.seal([one.incident(1, Action.CLOSED)])))
    (told,) = desk.step()
    assert json.loads(told["body"])["type"] == "net.holdfast.incident.closed.v1"


def test_what_came_and_went_while_the_server_was_off_is_told(desk: Desk) -> None:
    desk.rule()
    one = desk.kit.devices["car-1"]
    desk.kit.take(("car-1", one.seal([one.incident(1), one.incident(1, Action.CLOSED)])))
    (told,) = desk.step()
    assert told["subject"].startswith("Closed: ")
    assert "The device itself has closed this incident. Nobody has looked at it yet." in told["body"]
    assert desk.step() == []


# --- gaps and failures --------------------------------------------------------------------------------------


def test_lines_of_the_feed_that_are_gone_are_made_up_for(desk: Desk) -> None:
    desk.rule()
    ids = [desk.kit.incident(number=1), desk.kit.incident("car-2")]
    with desk.kit.context.stores.writing() as store, store.transaction() as db:
        for _ in range(3):
            fleet.add_feed(db, OTHER, "log", "", "", 0)
        fleet.prune(db, 1)
    told = desk.step()
    assert sorted(next(one for one in ids if one in each["body"]) for each in told) == sorted(ids)
    assert desk.step() == []


def test_another_store_is_told_of_from_its_beginning(desk: Desk) -> None:
    desk.rule()
    with desk.db.transaction() as db:
        outbound.set_mark(db, "fund", telling.MARK, 1_000_000)
        db.execute("UPDATE rules SET since_feed=1000000")
    desk.kit.incident()
    assert len(desk.step()) == 1
    assert desk.step() == []
    desk.kit.incident(number=2)
    assert len(desk.step()) == 1


def test_a_step_that_fails_is_undone_whole_and_done_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = desk.hook()["webhook"]["id"]
    desk.rule(webhooks=[hook])
    desk.kit.incident()
    calls = 0
    enqueue = outbound.enqueue

    def failing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError("disk full")
        return enqueue(*args)

    monkeypatch.setattr(outbound, "enqueue", failing)
    with pytest.raises(Exception, match="disk full"):
        desk.teller.step()
    with desk.db.reading() as db:
        assert db.execute("SELECT count(*) FROM deliveries").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM notices").fetchone() == (0,)
    assert len(desk.step()) == 2


def test_the_trouble_of_one_tenant_does_not_silence_another(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.rule()
    desk.rule(OTHER, emails=["o@other.example"])
    desk.kit.incident("car-1")
    desk.kit.incident("far-1")
    row = desk.source.row

    def failing(tenant: str, incident: str) -> Any:
        if tenant == "fund":
            raise StoreBusy("locked")
        return row(tenant, incident)

    monkeypatch.setattr(desk.source, "row", failing)
    with pytest.raises(StoreBusy):
        desk.teller.step()
    monkeypatch.undo()
    assert [one["tenant"] for one in desk.step()] == [OTHER, "fund"]


def test_an_incident_that_was_erased_meanwhile(desk: Desk) -> None:
    desk.rule(digest_after=1, digest_s=300, escalate_after_s=60)
    ids = [desk.kit.incident(number=1), desk.kit.incident(number=2)]
    desk.step()
    with desk.kit.context.stores.writing() as store, store.transaction() as db:
        for device, run, number in (incident.split(".") for incident in ids):
            cases.erase(db, "fund", device, bytes.fromhex(run), int(number))
            db.execute("DELETE FROM incidents WHERE device=? AND incident=?", (device, int(number)))
    desk.later(10)
    assert desk.step() + desk.step() == []
    with desk.db.reading() as db:
        assert {row[0] for row in db.execute("SELECT status FROM notices")} == {"dropped"}


def test_the_loop_outlives_its_steps(caplog: pytest.LogCaptureFixture) -> None:
    stopping, calls = threading.Event(), 0

    async def step() -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            stopping.set()
        raise ZeroDivisionError("boom")

    async def no_rest(seconds: float) -> None:
        await asyncio.sleep(0)

    with caplog.at_level(logging.ERROR):
        asyncio.run(every(stopping, "testing", step, rest=no_rest, pause=no_rest))
    assert calls == 20
    lines = [record for record in caplog.records if "boom" in record.getMessage()]
    assert len(lines) == 20 and {record.levelno for record in lines} == {logging.ERROR}


def test_what_is_settled_is_forgotten_after_its_time(desk: Desk) -> None:
    desk.rule()
    incident = desk.kit.incident()
    desk.step()
    for action in ("acknowledge", "refute", "close"):
        desk.act(incident, action)
    desk.step()
    desk.teller.prune()
    with desk.db.reading() as db:
        assert db.execute("SELECT count(*) FROM notices").fetchone() == (1,)
    desk.later(rule_store.NOTICES_KEEP_MS / MINUTE + 1)
    desk.teller.prune()
    with desk.db.reading() as db:
        assert db.execute("SELECT count(*) FROM notices").fetchone() == (0,)


def test_an_unknown_zone_counts_as_utc_and_a_known_one_knows_summer() -> None:
    assert rule_store.offset_in("Not/AZone")(0) == 0
    assert rule_store.offset_in("Europe/Berlin")(1_782_000_000_000) == 7200
    assert rule_store.offset_in("Europe/Berlin")(1_796_100_000_000) == 3600


# --- routes ------------------------------------------------------------------------------------------


def test_rules_are_made_changed_and_removed(kit: ServeKit) -> None:
    client = kit.client()
    made = client.post("/api/v1/rules", json={"name": "N", "emails": ["a@b.example"]}).json()
    assert client.get("/api/v1/rules").json()["items"] == [made]
    changed = client.put(f"/api/v1/rules/{made['id']}", json={"name": "M", "min_severity": 5}).json()
    assert (changed["name"], changed["emails"], changed["min_severity"]) == ("M", [], 5)
    assert client.delete(f"/api/v1/rules/{made['id']}").status_code == 204
    assert client.get("/api/v1/rules").json()["items"] == []
    assert client.delete(f"/api/v1/rules/{made['id']}").status_code == 404
    assert client.put(f"/api/v1/rules/{made['id']}", json={"name": "M"}).status_code == 404


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"emails": ["a@b\r\nBcc: c@d"]}, "no mail address"),
        ({"escalate_to": ["nobody"], "escalate_after_s": 60}, "no mail address"),
        ({"escalate_to": ["a@b.example"]}, "escalate_after_s"),
        ({"webhooks": [7]}, "no webhook 7"),
        ({"quiet": {"start": "22:00", "end": "06:00", "zone": "Mars/Base"}}, "no time zone"),
        ({"quiet": {"start": "22:00", "end": "06:00", "zone": "../../etc/passwd"}}, "no time zone"),
        ({"quiet": {"start": "22:00", "end": "06:00", "days": []}}, "name days"),
        ({"quiet": {"start": "24:00", "end": "06:00"}}, "quiet.start"),
        ({"name": "\u202e"}, "no letter"),
        ({"digest_s": 1}, "digest_s"),
        ({"min_severty": 1}, "min_severty"),
    ],
)
def test_a_rule_that_cannot_be_meant(shared: ServeKit, change: dict[str, Any], word: str) -> None:
    answer = shared.client().post("/api/v1/rules", json={"name": "N", **change})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert word in answer.json()["detail"]


@pytest.mark.parametrize("role", ["auditor", "technician", "partner"])
def test_who_may_do_what(kit: ServeKit, role: str) -> None:
    manager, client = kit.client(), kit.client(role)
    hook = manager.post("/api/v1/webhooks", json={"name": "h", "url": "https://h.example/"}).json()[
        "webhook"
    ]["id"]
    rule = manager.post("/api/v1/rules", json={"name": "N"}).json()["id"]
    reads = 200 if role == "auditor" else 403
    assert {client.get(f"/api/v1/{what}").status_code for what in ("rules", "webhooks", "deliveries")} == {
        reads
    }
    refused = [
        client.post("/api/v1/rules", json={"name": "N"}),
        client.put(f"/api/v1/rules/{rule}", json={"name": "N"}),
        client.delete(f"/api/v1/rules/{rule}"),
        client.post("/api/v1/webhooks", json={"name": "h", "url": "https://h.example/"}),
        client.post(f"/api/v1/webhooks/{hook}/test"),
        client.delete(f"/api/v1/webhooks/{hook}"),
        client.post("/api/v1/deliveries/1/retry"),
    ]
    assert {answer.status_code for answer in refused} == {403}


def test_nothing_of_another_tenant_is_seen_or_touched(kit: ServeKit) -> None:
    mine, other = kit.client(), kit.client("operator", OTHER)
    hook = mine.post("/api/v1/webhooks", json={"name": "h", "url": "https://h.example/"}).json()["webhook"][
        "id"
    ]
    rule = mine.post("/api/v1/rules", json={"name": "N", "webhooks": [hook]}).json()["id"]
    delivery = mine.post(f"/api/v1/webhooks/{hook}/test").json()["id"]
    for what in ("rules", "webhooks", "deliveries"):
        assert other.get(f"/api/v1/{what}").json()["items"] == []
    answers = [
        other.put(f"/api/v1/rules/{rule}", json={"name": "N"}),
        other.delete(f"/api/v1/rules/{rule}"),
        other.delete(f"/api/v1/webhooks/{hook}"),
        other.post(f"/api/v1/webhooks/{hook}/test"),
        other.post(f"/api/v1/deliveries/{delivery}/retry"),
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert other.post("/api/v1/rules", json={"name": "N", "webhooks": [hook]}).status_code == 400
    assert anonymous_statuses(kit) == {401}


def anonymous_statuses(kit: ServeKit) -> set[int]:
    client = kit.anonymous()
    return {client.get(f"/api/v1/{what}").status_code for what in ("rules", "webhooks", "deliveries")}


def test_a_webhook_shows_its_secret_once_and_its_queue(kit: ServeKit) -> None:
    client = kit.client()
    made = client.post("/api/v1/webhooks", json={"name": "h\r\nX: y", "url": "https://h.example/"}).json()
    assert made["secret"].startswith("whsec_")
    Verifier(made["secret"])
    assert made["webhook"]["name"] == "h X: y"
    number = made["webhook"]["id"]
    test = client.post(f"/api/v1/webhooks/{number}/test")
    assert test.status_code == 202
    assert (test.json()["state"], test.json()["target"]) == ("waiting", "h X: y")
    listed = client.get("/api/v1/webhooks")
    assert made["secret"] not in listed.text
    assert listed.json()["items"][0]["waiting"] == 1
    rule = client.post("/api/v1/rules", json={"name": "N", "webhooks": [number]}).json()["id"]
    refused = client.delete(f"/api/v1/webhooks/{number}")
    assert refused.status_code == 400
    assert "take it out of the rule first" in refused.json()["detail"]
    client.delete(f"/api/v1/rules/{rule}")
    assert client.delete(f"/api/v1/webhooks/{number}").status_code == 204
    (dead,) = client.get("/api/v1/deliveries?state=dead").json()["items"]
    assert dead["error"] == "the webhook was removed"
    assert client.post(f"/api/v1/deliveries/{dead['id']}/retry").status_code == 400


@pytest.mark.parametrize("url", ["http://hook.example/", "https://u:p@hook.example/", "ftp://x/", "https://"])
def test_an_address_that_cannot_be_meant(shared: ServeKit, url: str) -> None:
    answer = shared.client().post("/api/v1/webhooks", json={"name": "h", "url": url})
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] in ("bad_request", "invalid")


def test_there_is_an_end_of_rules_and_webhooks(kit: ServeKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_store, "MAX_RULES", 2)
    monkeypatch.setattr(rule_store, "MAX_WEBHOOKS", 2)
    client = kit.client()
    rules = [client.post("/api/v1/rules", json={"name": "N"}).status_code for _ in range(3)]
    hooks = [
        client.post("/api/v1/webhooks", json={"name": "h", "url": "https://h.example/"}).status_code
        for _ in range(3)
    ]
    assert rules == hooks == [201, 201, 400]


def test_messages_are_paged_and_their_cursors_signed(kit: ServeKit) -> None:
    client = kit.client()
    hook = client.post("/api/v1/webhooks", json={"name": "h", "url": "https://h.example/"}).json()["webhook"][
        "id"
    ]
    made = [client.post(f"/api/v1/webhooks/{hook}/test").json()["id"] for _ in range(5)]
    seen: list[int] = []
    cursor = None
    while True:
        answer = client.get(
            "/api/v1/deliveries", params={"limit": 2, **({"cursor": cursor} if cursor else {})}
        ).json()
        seen += [item["id"] for item in answer["items"]]
        if (cursor := answer["next"]) is None:
            break
    assert seen == sorted(made, reverse=True)
    first = client.get("/api/v1/deliveries", params={"limit": 2}).json()["next"]
    for bad in ("x", first[:-2] + "AA", first + "A"):
        assert client.get("/api/v1/deliveries", params={"cursor": bad}).json()["code"] == "bad_cursor"
    assert client.get("/api/v1/deliveries", params={"state": "dead", "cursor": first}).status_code == 400
    assert client.get("/api/v1/deliveries", params={"state": "lost"}).status_code == 422
    assert client.get("/api/v1/deliveries", params={"limit": 0}).status_code == 422
    stranger = kit.client("operator", OTHER)
    assert stranger.get("/api/v1/deliveries", params={"cursor": first}).status_code == 400


def test_what_was_changed_stands_in_the_audit(kit: ServeKit) -> None:
    client = kit.client()
    rule = client.post("/api/v1/rules", json={"name": "N"}).json()["id"]
    client.delete(f"/api/v1/rules/{rule}")
    rows = client.get("/api/v1/audit").json()["items"]
    assert [row["what"] for row in rows if row["action"] == "rule"] == [
        f"removed rule {rule}",
        f"made rule {rule}",
    ]


# --- the whole way, and an end in the middle of it ------------------------------------------------------


class Receiver(http.server.ThreadingHTTPServer):
    """A webhook's target on loopback."""

    daemon_threads = True

    def __init__(self, pause_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pause_s = pause_s
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.more = threading.Condition()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def wait_for(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait for `count` different messages."""
        with self.more:
            assert self.more.wait_for(lambda: len(self.ids()) >= count, timeout_s), (
                f"only {len(self.ids())} came"
            )

    def ids(self) -> set[str]:
        return {headers["webhook-id"] for headers, _ in self.got}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        body = self.rfile.read(length)
        if len(body) < length:
            return  # the sender died in the middle
        with self.server.more:
            self.server.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.server.more.notify_all()
        time.sleep(self.server.pause_s)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.shutdown()
    made.server_close()


def test_the_whole_way_from_a_segment_to_a_signed_event(desk: Desk, receiver: Receiver) -> None:
    made = desk.hook(f"http://127.0.0.1:{receiver.server_port}/in")
    desk.rule(emails=["a@fund.example"], webhooks=[made["webhook"]["id"]])
    with desk.kit.server():
        incident = desk.kit.incident()
        receiver.wait_for(1)
    headers, body = receiver.got[0]
    event = Verifier(made["secret"]).verify(body, headers)
    assert event["subject"] == incident
    (mail,) = [
        row
        for row in desk.kit.client().get("/api/v1/deliveries").json()["items"]
        if row["channel"] == "email"
    ]
    assert mail["state"] == "waiting"  # there is no mail server: said, and kept
    assert mail["error"] is None or "[smtp]" in mail["error"]


_PROCESS = """
import asyncio, sys
from pathlib import Path
from cloud_sync.runtime.serve import telling
from cloud_sync.runtime.serve.app import open_context
from cloud_sync.runtime.serve.config import load_config
print("ready", flush=True)
asyncio.run(telling.run(open_context(load_config(Path(sys.argv[1])))))
"""


@pytest.mark.crash
def test_killed_while_it_delivers_it_loses_nothing(desk: Desk, receiver: Receiver) -> None:
    receiver.pause_s = 0.02
    hooks = [desk.hook(f"http://127.0.0.1:{receiver.server_port}/{n}")["webhook"]["id"] for n in range(5)]
    desk.rule(emails=[], webhooks=hooks, digest_after=1000)
    ids = {desk.kit.incident(number=number) for number in range(1, 11)}
    config = str(desk.kit.context.config.path)
    kills = 0
    for round_number in range(1, 20):
        process = subprocess.Popen([sys.executable, "-c", _PROCESS, config], stdout=subprocess.PIPE)
        try:
            if len(receiver.ids()) < 40:
                receiver.wait_for(min(40, round_number * 14))
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                continue
            receiver.wait_for(50)
            break
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    assert kills >= 2
    events = {headers["webhook-id"]: json.loads(body) for headers, body in receiver.got}
    assert len(events) == 50
    assert {event["data"]["incident"]["id"] for event in events.values()} == ids
    for headers, body in receiver.got:  # whatever came twice came under the same id with the same words
        assert json.loads(body) == events[headers["webhook-id"]]
        assert json.loads(body)["id"] == headers["webhook-id"]
    assert len(receiver.got) >= 50


# --- confined to branches --------------------------------------------------------------------------------


def test_a_confined_manager_makes_rules_for_the_own_branches_alone(kit: ServeKit) -> None:
    client = kit.confined("north", ("north", "coast"))
    for branches in ([], ["south"], ["north", "south"]):
        answer = client.post("/api/v1/rules", json={"name": "N", "branches": branches})
        assert answer.status_code == 403 and "coast, north alone" in answer.json()["detail"]
    made = client.post("/api/v1/rules", json={"name": "N", "branches": ["north"]})
    assert made.status_code == 201
    number = made.json()["id"]
    for branches in ([], ["south"], ["north", "south"]):
        body = {"name": "N", "branches": branches}
        assert client.put(f"/api/v1/rules/{number}", json=body).status_code == 403
    good = client.put(f"/api/v1/rules/{number}", json={"name": "N", "branches": ["coast"]})
    assert good.status_code == 200
    assert client.delete(f"/api/v1/rules/{number}").status_code == 204


def test_a_confined_account_sees_and_touches_no_rule_of_others(kit: ServeKit) -> None:
    manager, client = kit.client(), kit.confined("north", ("north",))
    auditor = kit.confined("looker", ("north",), "auditor", manages=False)
    others = [
        manager.post("/api/v1/rules", json={"name": f"R{n}", "branches": branches}).json()["id"]
        for n, branches in enumerate(([], ["south"], ["north", "south"]))
    ]
    mine = manager.post("/api/v1/rules", json={"name": "mine", "branches": ["north"]}).json()["id"]
    for one in (client, auditor):
        assert [rule["id"] for rule in one.get("/api/v1/rules").json()["items"]] == [mine]
    for number in others:
        body = {"name": "taken", "branches": ["north"]}
        assert client.put(f"/api/v1/rules/{number}", json=body).status_code == 404
        assert client.delete(f"/api/v1/rules/{number}").status_code == 404
    assert len(manager.get("/api/v1/rules").json()["items"]) == 4


def test_webhooks_and_messages_are_for_those_who_see_all_branches(kit: ServeKit) -> None:
    manager, client = kit.client(), kit.confined("north", ("north",))
    auditor = kit.confined("looker", ("north",), "auditor", manages=False)
    made = manager.post("/api/v1/webhooks", json={"name": "h", "url": "https://h.example/"}).json()
    hook = made["webhook"]["id"]
    answers = [
        client.get("/api/v1/webhooks"),
        client.get("/api/v1/deliveries"),
        auditor.get("/api/v1/webhooks"),
        auditor.get("/api/v1/deliveries"),
        client.post("/api/v1/webhooks", json={"name": "h", "url": "https://h.example/"}),
        client.post(f"/api/v1/webhooks/{hook}/test"),
        client.delete(f"/api/v1/webhooks/{hook}"),
        client.post("/api/v1/deliveries/1/retry"),
        client.post("/api/v1/rules", json={"name": "N", "branches": ["north"], "webhooks": [hook]}),
        client.post("/api/v1/rules", json={"name": "N", "branches": ["north"], "webhooks": [hook + 1]}),
    ]
    for answer in answers[:-1]:
        assert answer.status_code == 403 and "without being confined" in answer.json()["detail"]
    assert answers[-1].status_code in (400, 403)
    given = {"name": "N", "branches": ["north"], "webhooks": [hook]}
    rule = manager.post("/api/v1/rules", json=given).json()["id"]
    kept = client.put(f"/api/v1/rules/{rule}", json={**given, "name": "renamed"})
    assert kept.status_code == 200 and kept.json()["webhooks"] == [hook]


# --- overdue vehicles ------------------------------------------------------------------------------------


def test_an_overdue_vehicle_is_told_once_for_each_time_it_was_due(desk: Desk) -> None:
    desk.kit.branch("car-1", "north")
    hook = desk.hook()["webhook"]["id"]
    desk.rule(branches=["north"], overdue=True, webhooks=[hook], min_severity=900, causes=["jammed"])
    desk.heard("car-1")
    assert desk.step() == [], "it is not due yet"
    desk.later(10)
    mail, event = desk.step()
    assert (mail["channel"], event["channel"]) == ("email", "webhook")
    assert mail["subject"] == "car-1 (north) – overdue"
    assert "It had announced to be heard by" in mail["body"] and "How sure" not in mail["body"]
    assert "/#/vehicle/car-1" in mail["body"] and "1. See on its page" in mail["body"]
    told = json.loads(event["body"])
    assert told["type"] == "net.holdfast.vehicle.overdue.v1" and told["subject"] == "car-1"
    assert told["data"]["vehicle"]["device"] == "car-1" and told["data"]["vehicle"]["state"] == "overdue"
    desk.later(600)
    assert desk.step() == [] and Desk(desk.kit).step()[2:] == [], "also not by a server that began anew"
    desk.teller.prune()
    assert desk.step() == [], "nor after what is over was forgotten"
    desk.heard("car-1")
    assert desk.step() == []
    desk.teller.prune()
    desk.later(10)
    again = desk.step()
    assert [one["channel"] for one in again] == ["email", "webhook"]
    assert again[0]["message"] != mail["message"], "another time at which it was due"


def test_only_rules_that_ask_for_it_tell_of_overdue_vehicles(desk: Desk) -> None:
    desk.rule()
    desk.rule(overdue=True, branches=["nowhere"])
    desk.rule(overdue=True, enabled=False)
    desk.heard("car-1", "car-2", "far-1")
    desk.later(10)
    assert desk.step() == []


def test_an_overdue_vehicle_with_an_open_incident_is_told_by_that(desk: Desk) -> None:
    desk.rule(overdue=True)
    incident = desk.kit.incident("car-1")
    desk.heard("car-2")
    desk.later(10)
    subjects = [one["subject"] for one in desk.step()]
    assert len(subjects) == 2 and "overdue" not in subjects[0] and subjects[1].startswith("car-2")
    desk.act(incident, "refute")
    late = [one["subject"] for one in desk.step()]
    assert late == ["car-1 (no branch) – overdue"], "the incident does not explain the silence any more"


def test_overdue_vehicles_wait_for_the_end_of_quiet_hours_and_come_as_one_digest(desk: Desk) -> None:
    quiet = {"start": "00:00", "end": "23:59", "days": [0, 1, 2, 3, 4, 5, 6]}
    number = desk.rule(overdue=True, quiet=quiet)
    desk.heard("car-1", "car-2")
    desk.later(10)
    assert desk.step() == []
    body = {"name": "Night watch", "emails": ["a@fund.example"], "overdue": True}
    assert desk.kit.client().put(f"/api/v1/rules/{number}", json=body).status_code == 200
    (digest,) = desk.step()
    assert digest["subject"] == "2 vehicles are overdue" and "/#/fleet?state=overdue" in digest["body"]
    assert "1. car-1" in digest["body"] and "2. car-2" in digest["body"]
    assert desk.step() == []


def test_an_overdue_vehicle_that_was_heard_in_time_for_the_digest_is_not_in_it(desk: Desk) -> None:
    quiet = {"start": "00:00", "end": "23:59", "days": [0, 1, 2, 3, 4, 5, 6]}
    number = desk.rule(overdue=True, quiet=quiet)
    desk.heard("car-1", "car-2")
    desk.later(10)
    assert desk.step() == []
    desk.heard("car-1")
    body = {"name": "Night watch", "emails": ["a@fund.example"], "overdue": True}
    assert desk.kit.client().put(f"/api/v1/rules/{number}", json=body).status_code == 200
    (mail,) = desk.step()
    assert mail["subject"] == "car-2 (no branch) – overdue"


def test_many_overdue_vehicles_are_a_storm_and_stand_apart_from_incidents(desk: Desk) -> None:
    desk.rule(overdue=True, digest_after=1, digest_s=1200)
    desk.heard("car-2")
    desk.later(10)
    desk.heard("car-2")
    (first,) = desk.step()
    assert first["subject"].startswith("car-1")
    desk.kit.incident("car-1")
    desk.later(10)
    assert desk.step() == [], "held: one message within twenty minutes is enough"
    desk.later(11)
    subjects = [one["subject"] for one in desk.step()]
    assert len(subjects) == 2 and "wheels" in subjects[0] and subjects[1] == "car-2 (no branch) – overdue"


def test_no_escalation_is_made_of_a_vehicle_that_is_overdue(desk: Desk) -> None:
    desk.kit.branch("car-1", "north")
    desk.rule(overdue=True, escalate_after_s=60, escalate_to=["chief@fund.example"], branches=["north"])
    desk.heard("car-1")
    desk.later(10)
    assert [one["target"] for one in desk.step()] == ["a@fund.example"]
    desk.later(10)
    assert desk.step() == []


def test_the_words_of_overdue_are_chinese_where_the_rule_is(desk: Desk) -> None:
    desk.rule(overdue=True, language="zh", digest_after=1)
    desk.heard("car-1")
    desk.later(10)
    (mail,) = desk.step()
    assert "逾期未报" in mail["subject"]
    assert "notice." not in mail["body"] and "story." not in mail["body"]
