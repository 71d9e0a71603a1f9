"""An exact position is told by one route alone: not by any other answer, by a stream, a mail or a webhook."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from serve_kit import ServeKit, make_serve_kit

from cloud_sync.runtime.serve import telling
from cloud_sync.runtime.serve.telling import Teller
from cloud_sync.runtime.serve.telling_source import StoreSource
from edge.event import Event, Kind
from firmware_bridge.wire.signals import Sig

LAT, LON = 481_372, 115_761
"""Ten-thousandths of a degree, as devices send it."""
MARKS = ("48.137", "481372", "11.576", "115761")
"""How an exact position would look, in degrees or as it is stored."""
COARSE = ("48.14", "11.58")
DEADLINE_S = 20.0


@dataclass
class Placed:
    """A kit whose car told where it is, exactly."""

    kit: ServeKit
    incident: str

    def tell(self, *events: Event) -> None:
        self.kit.take(("car-1", self.kit.devices["car-1"].seal(list(events))))

    def position(self) -> Event:
        device = self.kit.devices["car-1"]
        return device.event(Kind.POSITION, {int(Sig.LATITUDE): LAT, int(Sig.LONGITUDE): LON})

    def opened(self, number: int) -> Event:
        event = self.kit.devices["car-1"].incident(number)
        event.body.update({int(Sig.LATITUDE): LAT, int(Sig.LONGITUDE): LON})
        return event


@pytest.fixture
def placed(tmp_path: Path) -> Iterator[Placed]:
    (tmp_path / "places.csv").write_text("name,lat,lon,radius_m\nDepot,48.14,11.58,2000\n", "utf-8")
    made = make_serve_kit(tmp_path, serve='places = "places.csv"')
    one = made.devices["car-1"]
    found = Placed(made, f"car-1.{one.run.hex()}.1")
    found.tell(found.position(), found.opened(1), one.event())
    yield found
    made.close()


def assert_coarse(text: str, where: object) -> None:
    assert not [mark for mark in MARKS if mark in text], where


def test_the_store_holds_what_nobody_is_told(placed: Placed) -> None:
    """Else the tests below could not fail."""
    client = placed.kit.client()
    exact = client.post(f"/api/v1/incidents/{placed.incident}/exact", json={"purpose": "case 7"})
    assert (exact.json()["lat"], exact.json()["lon"]) == (48.1372, 11.5761)
    assert all(mark in client.get("/api/v1/incidents").text for mark in COARSE)


def test_no_answer_to_an_act_tells_an_exact_position(placed: Placed) -> None:
    client, path = placed.kit.client(), f"/api/v1/incidents/{placed.incident}"
    acts = (
        {"action": "acknowledge"}, {"action": "note", "note": "seen"}, {"action": "escalate", "note": "now"},
        {"action": "assign", "assignee": "operator"}, {"action": "confirm", "note": "true"},
        {"action": "close", "note": "done"}, {"action": "reopen", "note": "again"},
        {"action": "refute", "note": "no"},
    )  # fmt: skip
    for version, act in enumerate(acts):
        answer = client.post(f"{path}/acts", json={**act, "version": version})
        assert answer.status_code == 200, answer.text
        assert "48.14" in answer.text, "with its coarse place"
        assert_coarse(answer.text, act)
    late = client.post(f"{path}/acts", json={"action": "acknowledge", "version": 0})
    assert late.status_code == 409
    assert_coarse(late.text, "conflict")
    card = client.patch("/api/v1/vehicles/car-1", json={"name": "Car", "branch": "north", "note": "n"})
    assert card.status_code == 200 and "48.14" in card.text
    assert_coarse(card.text, "card")


def test_no_list_and_no_story_tells_an_exact_position(placed: Placed) -> None:
    client = placed.kit.client()
    tried = 0
    for path, operations in placed.kit.app.openapi()["paths"].items():
        if "get" in operations and not path.endswith(("/live", "/proof")) and "{path}" not in path:
            address = path.replace("{id}", placed.incident).replace("{device}", "car-1")
            if "{" not in address:
                assert_coarse(client.get(address).text, address)
                tried += 1
    assert tried >= 25


def test_no_stream_tells_an_exact_position(placed: Placed) -> None:
    kit = placed.kit
    headers = {"Authorization": f"Bearer {kit.api_token()}"}
    said = ""
    with (
        kit.server() as url,
        httpx.Client(base_url=url, timeout=DEADLINE_S) as client,
        client.stream("GET", "/api/v1/live", headers=headers, params={"after": 0}) as answer,
    ):
        lines = answer.iter_lines()

        def until(word: str, times: int) -> None:
            nonlocal said
            end = time.monotonic() + DEADLINE_S
            while said.count(word) < times:
                assert time.monotonic() < end
                said += next(lines) + "\n"

        until("event: incident", 1)  # what was missed
        placed.tell(placed.position(), placed.opened(2))
        until("event: incident", 2)
        until("event: vehicles", 2)
    assert '"lat":48.14' in said and '"name":"Depot"' in said
    assert_coarse(said, "stream")


def test_no_message_tells_an_exact_position(placed: Placed) -> None:
    kit = placed.kit
    manager, context = kit.client(), kit.context
    target = {"name": "hook", "url": "https://hook.example/in"}
    hook = manager.post("/api/v1/webhooks", json=target).json()["webhook"]["id"]
    for language in ("en", "zh"):
        body = {
            "name": language, "emails": [f"{language}@fund.example"], "webhooks": [hook], "overdue": True,
            "language": language, "digest_after": 2, "digest_s": 600, "escalate_after_s": 60,
        }  # fmt: skip
        assert manager.post("/api/v1/rules", json=body).status_code == 201
    db = telling.serve_db(context)
    teller = Teller(
        StoreSource(context), db, context.words, lambda: context.base_url, context.now_ms, context.real_ms
    )
    for number in (2, 3, 4, 5):
        placed.tell(placed.position(), placed.opened(number))
        teller.step()
    kit.kit.clock.wall_ms += 11 * 60_000  # the rest comes as a digest, and what was told is escalated
    teller.step()
    teller.step()
    with context.stores.writing() as store, store.transaction() as rows:
        rows.execute("UPDATE cases SET state = 'closed'")  # nothing but silence is left
    kit.kit.clock.wall_ms += 11 * 60_000
    teller.step()
    with db.reading() as rows:
        sent = rows.execute("SELECT channel, subject, body FROM deliveries").fetchall()
    types = {json.loads(body)["type"] for channel, _, body in sent if channel == "webhook"}
    assert {"net.holdfast.incident.open.v1", "net.holdfast.incident.digest.v1"} <= types
    assert any("overdue" in name for name in types)
    assert {channel for channel, _, _ in sent} == {"email", "webhook"}
    assert any("48.14" in body and "Depot" in body for _, _, body in sent)
    for channel, subject, body in sent:
        assert_coarse(subject + body, channel)
