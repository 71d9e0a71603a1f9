"""Tenants apart: nobody of `fund` reads or changes a thing of `other` by any route that the API has.

The routes are those of the OpenAPI description, so that a new one is covered or fails here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from serve_kit import OTHER, PARTNERS, ServeKit, make_serve_kit
from test_cloud_sync_serve_live import DEADLINE_S, Stream

from cloud_sync.access import ROLES
from cloud_sync.ledger.vin import Market
from cloud_sync.runtime.titles import open_desk

MARKERS = (
    "far-1", "MarkerName", "MarkerBranch", "MarkerNote", "MarkerOwner", "marker-person", "MarkerRule",
    "MarkerHook", "marker.example", "MarkerPurpose", "MarkerToken", "feedbeef77",
)  # fmt: skip
"""What only `other` wrote. Its ids are added where they are known."""

BODIES: dict[str, dict[str, Any]] = {
    "LoginRequest": {"name": "other/nobody-there", "password": "not the right one"},
    "SessionChange": {"language": "en"},
    "PasswordChange": {"old": "not the right one", "new": "another set of words"},
    "EnterRequest": {"token": "x" * 43, "password": "another set of words"},
    "VehicleChange": {"note": "seen"},
    "PurposeRequest": {"purpose": "test of isolation"},
    "ActRequest": {"action": "acknowledge", "version": 0},
    "RuleBody": {"name": "mine"},
    "WebhookRequest": {"name": "mine", "url": "https://hooks.example/x"},
    "AccountRequest": {"name": "somebody", "role": "operator"},
    "AccountChange": {"language": "zh"},
    "TokenRequest": {"name": "mine", "scopes": ["read:fleet"], "days": 1},
}
"""A good body for every request schema there is: a new one is added here."""

NEW_PERSON = {"name": "marker-person", "role": "partner", "branches": ["MarkerBranch"]}
NO_IDS = frozenset({"path"})
"""Path parameters that name nothing of a tenant: a tile of the log, which all share."""


@dataclass
class Far:
    """The ids of `other`."""

    kit: ServeKit
    ids: dict[str, dict[str, str]]
    """Beginning of a path -> parameter -> value."""

    def values(self, path: str) -> dict[str, str]:
        """The values for the parameters of `path`."""
        found = [values for start, values in self.ids.items() if path.startswith(start)]
        assert found, f"{path} takes ids: name those of the other tenant here"
        return found[0]


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    kit = make_serve_kit(tmp_path_factory.mktemp("tenants"))
    incident = kit.incident("far-1")
    kit.incident("far-1", number=2)
    for device in ("car-1", "car-2"):
        kit.branch(device, PARTNERS)
    person = kit.client("operator", OTHER)
    card = {"name": "MarkerName", "branch": "MarkerBranch", "note": "MarkerNote"}
    assert person.patch("/api/v1/vehicles/far-1", json=card).status_code == 200
    act = {"action": "note", "version": 0, "note": "MarkerNote"}
    assert person.post(f"/api/v1/incidents/{incident}/acts", json=act).status_code == 200
    verdict = {"action": "confirm", "version": 1, "note": "MarkerNote"}
    assert person.post(f"/api/v1/incidents/{incident}/acts", json=verdict).status_code == 200
    why = {"purpose": "MarkerPurpose"}
    assert person.post(f"/api/v1/incidents/{incident}/evidence", json=why).status_code == 200
    account = person.post("/api/v1/accounts", json=NEW_PERSON).json()
    rule = person.post("/api/v1/rules", json={"name": "MarkerRule"}).json()["id"]
    hook = {"name": "MarkerHook", "url": "https://marker.example/hook"}
    webhook = person.post("/api/v1/webhooks", json=hook).json()["webhook"]["id"]
    delivery = person.post(f"/api/v1/webhooks/{webhook}/test").json()["id"]
    made = {"name": "MarkerToken", "scopes": ["read:fleet"], "days": 3}
    api_token = person.post("/api/v1/tokens", json=made).json()["token"]["id"]
    with open_desk(kit.kit.config_path, OTHER) as desk:
        title = desk.mint("LSVAA4187E2345678", Market.EU, "MarkerOwner", "", "registry")
        desk.bind(str(title["token"]), "far-1", ["feedbeef77"])
    yield Far(
        kit,
        {
            "/api/v1/vehicles/": {"device": "far-1"},
            "/api/v1/incidents/": {"id": incident},
            "/api/v1/titles/": {"token": str(title["token"])},
            "/api/v1/rules/": {"number": str(rule)},
            "/api/v1/webhooks/": {"number": str(webhook)},
            "/api/v1/deliveries/": {"number": str(delivery)},
            "/api/v1/accounts/": {"number": str(account["account"]["id"])},
            "/api/v1/tokens/": {"token": api_token},
        },
    )
    kit.close()


def operations(kit: ServeKit) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(method, path, operation) of everything the API has."""
    for path, operations in kit.app.openapi()["paths"].items():
        for method, operation in operations.items():
            yield method.upper(), path, operation


def body_of(operation: dict[str, Any]) -> dict[str, Any] | None:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return None
    name = content["schema"]["$ref"].rpartition("/")[2]
    assert name in BODIES, f"{name} is new: give it a good body here"
    return BODIES[name]


def snapshot(kit: ServeKit) -> dict[str, Any]:
    """Everything that the operator of `other` reads, without what time alone changes."""
    client = kit.client("operator", OTHER)
    found: dict[str, Any] = {}
    for method, path, _ in operations(kit):
        if method == "GET" and "{" not in path and not path.endswith(("/live", "/session", "/log/entries")):
            answer = client.get(path)
            if answer.headers["content-type"].startswith("application/json"):
                found[path] = {k: v for k, v in answer.json().items() if k not in ("now", "pending")}
    found["accounts"] = [{**row, "last_seen": None} for row in found["/api/v1/accounts"]["items"]]
    del found["/api/v1/accounts"], found["/api/v1/log"]
    return found


def test_the_markers_are_there_to_be_found(far: Far) -> None:
    told = json.dumps(snapshot(far.kit))
    person = far.kit.client("operator", OTHER)
    for start, values in far.ids.items():
        if start in ("/api/v1/vehicles/", "/api/v1/incidents/", "/api/v1/titles/"):
            told += person.get(start + next(iter(values.values()))).text
    missing = [marker for marker in MARKERS if marker not in told]
    assert not missing


@pytest.mark.parametrize("role", ROLES)
def test_no_route_gives_or_changes_anything_of_another_tenant(far: Far, role: str) -> None:
    kit = far.kit
    before = snapshot(kit)
    own_ids = {value for values in far.ids.values() for value in values.values() if len(value) > 10}
    tried = 0
    for method, path, operation in operations(kit):
        if path == "/api/v1/live":
            continue  # below
        client = kit.client(role)
        parameters = [each["name"] for each in operation.get("parameters", []) if each["in"] == "path"]
        values = dict.fromkeys(parameters, "0/000")
        if set(parameters) - NO_IDS:
            values = far.values(path)
            assert set(values) == set(parameters), path
        body = body_of(operation)
        answer = client.request(method, path.format(**values), json=body)
        tried += 1
        sent = path.format(**values) + json.dumps(body)
        leaked = [marker for marker in (*MARKERS, *own_ids) if marker in answer.text and marker not in sent]
        assert not leaked, (method, path, leaked)
        if set(parameters) - NO_IDS:
            allowed = (403, 404) if role != "operator" else (404,)
            if path in ("/api/v1/deliveries/{number}/retry",) or path.startswith("/api/v1/tokens/"):
                allowed = (403, 404)
            assert answer.status_code in allowed, (method, path, answer.status_code, answer.text)
            assert "attachment" not in answer.headers.get("content-disposition", "")
    assert tried > 45
    assert snapshot(kit) == before


@pytest.mark.parametrize(
    "query",
    [
        "vehicles?q=far", "vehicles?q=Marker", "incidents?device=far-1", "incidents?q=MarkerName",
        "incidents?assignee=marker-person", "titles?q=far-1", "places?q=Marker", "completeness?limit=500",
        "vehicles?limit=500", "log/entries?limit=500", "audit?limit=500", "map", "labels", "alarms",
    ],
)  # fmt: skip
def test_no_filter_reaches_another_tenant(far: Far, query: str) -> None:
    client = far.kit.client("operator")
    answer = client.get(f"/api/v1/{query}")
    assert answer.status_code == 200
    assert not [marker for marker in MARKERS if marker in answer.text and marker not in query]
    if "q=" in query or "device=" in query or "assignee=" in query:
        assert answer.json()["items"] == []


def test_a_branch_of_another_tenant_is_no_branch(far: Far) -> None:
    client = far.kit.client("operator")
    assert client.get("/api/v1/vehicles?branch=MarkerBranch").status_code == 400
    assert client.get("/api/v1/incidents?branch=MarkerBranch").json()["items"] == []


@pytest.mark.parametrize("path", ["incidents?limit=1", "audit?limit=1", "log/entries?limit=1"])
def test_a_cursor_of_another_tenant_is_refused_or_gives_ones_own(far: Far, path: str) -> None:
    kit = far.kit
    theirs = kit.client("operator", OTHER)
    cursor = theirs.get(f"/api/v1/{path}").json()["next"]
    assert cursor is not None
    answer = kit.client("operator").get(f"/api/v1/{path}", params={"cursor": cursor})
    if answer.status_code == 200:
        assert not [marker for marker in MARKERS if marker in answer.text]
    else:
        assert answer.json()["code"] == "bad_cursor"


@pytest.mark.parametrize("role", ROLES)
def test_the_stream_tells_nothing_of_another_tenant(far: Far, role: str) -> None:
    """Also not to who asks for all that was ever said."""
    kit = far.kit
    with kit.server() as url, httpx.Client(base_url=url, timeout=DEADLINE_S) as client:
        headers = {"Authorization": f"Bearer {kit.api_token(role)}"}
        with client.stream("GET", "/api/v1/live", headers=headers, params={"after": 0}) as answer:
            here = Stream(answer.iter_lines())
            here.until("hello")
            here.until("vehicles", lambda data: len(data["items"]) == 2)
            incident = kit.incident("far-1", number=3)
            kit.ingest("car-2")
            here.until("vehicles", lambda data: data["items"][0]["device"] == "car-2")
            kit.ingest("car-1")
            here.until("vehicles", lambda data: data["items"][0]["device"] == "car-1")
    told = json.dumps(here.said)
    assert not [marker for marker in (*MARKERS, incident) if marker in told]
