"""The routes of fleet, incidents and records: filters, scopes, exports, the log's tiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from serve_kit import ServeKit, kit, make_serve_kit
from starlette.testclient import TestClient

from cloud_sync.access import ROLE_SCOPES, ROLES
from cloud_sync.errors import StoreBusy
from cloud_sync.evidence.verify import verify
from cloud_sync.ledger.contract import State
from cloud_sync.log import tiles
from cloud_sync.runtime import audit
from cloud_sync.runtime.serve import exports, routes_records
from cloud_sync.runtime.serve.asked import wall_ms
from edge.event import Event, Kind
from edge.merkle import leaf_hash, verify_inclusion
from edge.note import parse_checkpoint, parse_note, verify_checkpoint
from edge.trust import Trust
from firmware_bridge.wire.signals import Sig

__all__ = ["kit"]

PLACES = "name,lat,lon,radius_m\nDepot,48.14,11.58,2000\nBranch,49.45,11.08,\n"
WHY = {"purpose": "case 4711"}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServeKit, str]]:
    """A kit with an open incident and a list of places; no test here writes to it but to the audit."""
    home = tmp_path_factory.mktemp("routes")
    (home / "places.csv").write_text(PLACES, "utf-8")
    (home / "outline.geojson").write_text('{"type": "FeatureCollection", "features": []}', "utf-8")
    made = make_serve_kit(home, serve='places = "places.csv"\noutline = "outline.geojson"')
    one = made.devices["car-1"]
    made.take(("car-1", one.seal([position(one), placed(one.incident()), one.event()])))
    yield made, f"car-1.{one.run.hex()}.1"
    made.close()


def position(device: Any) -> Event:
    return device.event(
        Kind.POSITION, {int(Sig.LATITUDE): 481_372, int(Sig.LONGITUDE): 115_761, int(Sig.SPEED): 0}
    )


def placed(event: Event) -> Event:
    event.body[int(Sig.LATITUDE)] = 481_372  # type: ignore[index]
    event.body[int(Sig.LONGITUDE)] = 115_761  # type: ignore[index]
    return event


def get(client: TestClient, path: str, **params: Any) -> dict[str, Any]:
    answer = client.get(f"/api/v1/{path}", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


# --- what is asked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("vehicles?stat=ok", 400, "did you mean state?"),
        ("vehicles?State=ok", 400, "did you mean state?"),
        ("map?zoom=3", 400, "takes none"),
        ("log/proof?index=0&indx=1", 400, "did you mean index?"),
        ("vehicles?limit=10&limit=20", 400, "given twice"),
        ("vehicles?limit=0", 422, "limit"),
        ("vehicles?limit=501", 422, "500"),
        ("vehicles?limit=9999999999999999999999", 422, "limit"),
        ("vehicles?state=angry", 422, "'overdue'"),
        ("vehicles?cause=ufo", 422, "'jammed'"),
        ("vehicles?sort=best", 422, "'worst'"),
        ("vehicles?clock=stopped", 422, "'replay'"),
        ("vehicles?q=" + "x" * 81, 422, "80"),
        ("vehicles?branch=nowhere", 400, "no branch"),
        ("vehicles?cursor=AAAA", 400, "ask again without one"),
        ("vehicles?cursor=" + "x" * 1001, 422, "1000"),
        ("vehicles?state=" + "&state=".join(["ok"] * 9), 422, "state"),
        ("vehicles/NO-SUCH", 422, "device"),
        ("vehicles/no-such", 404, "no such vehicle"),
        ("vehicles/car-1/timeline?from=yesterday", 422, "from"),
        ("vehicles/car-1/timeline?from=2026-02-30T00:00:00Z", 400, "from is a time such as"),
        ("vehicles/car-1/timeline?from=2026-01-01T00:00:00", 422, "from"),
        ("completeness?month=2026-13", 422, "month"),
        ("places?west=200", 422, "west"),
        ("places?south=10&north=5", 400, "south"),
        ("places?west=nan", 422, "west"),
        ("incidents?state=closed&state=odd", 422, "'escalated'"),
        ("incidents?from=2026-12-02T00:00:00Z&to=2026-12-01T00:00:00Z", 400, "later than"),
        ("incidents?device=A%20B", 422, "device"),
        ("incidents/car-1.1", 422, "id"),
        ("incidents/car-1." + "0" * 32 + ".1", 404, "no such incident"),
        ("titles/xyz", 422, "token"),
        ("titles/" + "0" * 64, 404, "no such title"),
        ("titles?state=STOLEN", 422, "'PLEDGED'"),
        ("log/proof?index=-1", 422, "index"),
        ("log/proof?index=4000", 404, "the last is"),
        ("log/proof", 422, "index"),
        ("audit", 403, "read:audit"),
        ("nothing", 404, "Nothing is at this address"),
    ],
)
def test_what_cannot_be_meant_is_said(seen: tuple[ServeKit, str], path: str, status: int, says: str) -> None:
    role = "partner" if path == "audit" else "operator"
    answer = seen[0].client(role).get(f"/api/v1/{path}")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]


def test_times_of_a_query() -> None:
    assert wall_ms("from", None) is None
    assert wall_ms("from", "1970-01-01T00:00:01.5Z") == 1500
    assert wall_ms("from", "1970-01-01T01:00:00+01:00") == 0
    with pytest.raises(Exception, match="before 1970"):
        wall_ms("from", "1969-12-31T23:59:59Z")


def test_states_may_be_repeated(seen: tuple[ServeKit, str]) -> None:
    client = seen[0].client()
    assert get(client, "vehicles", state=["ok", "attention", "overdue"])["total"] == 1
    assert get(client, "vehicles", state=["ok", "incident"])["total"] == 2
    assert get(client, "incidents", state=["open", "closed"])["total"] == 1


def test_title_states_are_those_of_the_contract() -> None:
    assert set(get_args(routes_records.TitleState)) == {str(state) for state in State}


# --- who may ------------------------------------------------------------------------------------------------

NEEDS = {
    "vehicles": "read:fleet", "map": "read:fleet", "vehicles/car-1": "read:fleet", "places": "read:fleet",
    "outline": "read:fleet", "vehicles/car-1/timeline": "read:fleet", "completeness": "read:fleet",
    "vehicles/car-1/completeness": "read:fleet", "incidents": "read:incidents", "labels": "read:incidents",
    "incidents/{id}": "read:incidents", "incidents/{id}/timeline": "read:incidents",
    "titles": "read:titles", "titles/" + "0" * 64: "read:titles", "log": "read:log",
    "log/entries": "read:log", "log/proof?index=0": "read:log", "log/checkpoint": "read:log",
    "log/trust": "read:log", "alarms": "read:log", "audit": "read:audit",
}  # fmt: skip
POSTS = {
    "incidents/{id}/exact": "read:exact", "incidents/{id}/evidence": "read:evidence",
    "vehicles/car-1/evidence": "read:evidence", "incidents/{id}/acts": "write:incidents",
}  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
def test_scopes(seen: tuple[ServeKit, str], role: str) -> None:
    made, id_ = seen
    client, nobody = made.client(role), made.anonymous()
    scopes = set(ROLE_SCOPES[role]) | ({"read:audit", "manage"} if role == "operator" else set())
    for path, scope in NEEDS.items():
        address = f"/api/v1/{path.format(id=id_)}"
        answer = client.get(address)
        assert (answer.status_code == 403) == (scope not in scopes), (path, answer.text)
        assert answer.status_code in (200, 403, 404)
        assert nobody.get(address).status_code == 401
    for path, scope in POSTS.items():
        body = {"action": "note", "version": 999, "note": "x"} if path.endswith("acts") else WHY
        answer = client.post(f"/api/v1/{path.format(id=id_)}", json=body)
        assert (answer.status_code == 403) == (scope not in scopes), (path, answer.text)
        assert nobody.post(f"/api/v1/{path.format(id=id_)}", json=body).status_code == 401
    assert client.get("/log/checkpoint").status_code == (200 if "read:log" in scopes else 403)


def test_completeness_needs_fleet_or_log(seen: tuple[ServeKit, str]) -> None:
    for scopes in (("read:log",), ("read:fleet",)):
        assert (
            seen[0].token_client("operator", "fund", *scopes).get("/api/v1/completeness").status_code == 200
        )
    other = seen[0].token_client("operator", "fund", "read:titles")
    assert other.get("/api/v1/completeness").status_code == 403


def test_a_technician_sees_no_cause(seen: tuple[ServeKit, str]) -> None:
    client = seen[0].client("technician")
    for path in ("vehicles", "vehicles/car-1", "map", "vehicles/car-1/timeline", "completeness"):
        assert "moved_without_wheels" not in client.get(f"/api/v1/{path}").text
        assert "no wheel turns" not in client.get(f"/api/v1/{path}").text


# --- places -------------------------------------------------------------------------------------------------


def test_places_have_names(seen: tuple[ServeKit, str]) -> None:
    made, id_ = seen
    client = made.client()
    row = next(row for row in get(client, "vehicles")["items"] if row["device"] == "car-1")
    assert (row["place"]["lat"], row["place"]["lon"]) == (48.14, 11.58)
    for place in (
        row["place"],
        get(client, "vehicles/car-1")["vehicle"]["place"],
        get(client, "vehicles/car-1")["incidents"][0]["place"],
        get(client, "incidents")["items"][0]["place"],
        get(client, f"incidents/{id_}")["incident"]["place"],
        get(client, f"incidents/{id_}/timeline")["track"][0],
    ):
        assert place["name"] == "Depot" and place["distance_m"] is None


def test_the_list_of_places(seen: tuple[ServeKit, str]) -> None:
    client = seen[0].client()
    assert len(get(client, "places")["items"]) == 2
    found = get(client, "places", west=11.5, south=48, east=12, north=48.5)
    assert found == {
        "items": [{"name": "Depot", "lat": 48.14, "lon": 11.58, "radius_m": 2000.0, "kind": ""}],
        "more": False,
    }  # fmt: skip
    assert [row["name"] for row in get(client, "places", q="bran")["items"]] == ["Branch"]


def test_the_outline_is_not_shown_in_chinese(seen: tuple[ServeKit, str]) -> None:
    client = seen[0].client("auditor")
    answer = client.get("/api/v1/outline")
    assert answer.headers["content-type"] == "application/geo+json" and answer.json()["features"] == []
    assert client.patch("/api/v1/session", json={"language": "zh"}).status_code == 200
    refused = client.get("/api/v1/outline")
    assert refused.status_code == 404 and refused.json()["code"] == "not_found"
    client.patch("/api/v1/session", json={"language": "en"})


# --- exact positions and evidence ---------------------------------------------------------------------------


def test_an_exact_position_stands_in_the_audit(seen: tuple[ServeKit, str]) -> None:
    made, id_ = seen
    client = made.client()
    found = client.post(f"/api/v1/incidents/{id_}/exact", json=WHY).json()
    assert (found["lat"], found["lon"]) == (48.1372, 11.5761)
    entry = next(row for row in get(client, "audit")["items"] if row["number"] == found["audit"])
    assert entry["action"] == "exact_position" and entry["purpose"] == "case 4711" and entry["statement"]
    for body in (
        {},
        {"purpose": ""},
        {"purpose": "  \t "},
        {"purpose": "x" * 201},
        {"purpose": "ok", "y": 1},
    ):
        refused = client.post(f"/api/v1/incidents/{id_}/exact", json=body)
        assert refused.status_code in (400, 422) and "48.1" not in refused.text


def test_no_other_route_tells_an_exact_position(seen: tuple[ServeKit, str]) -> None:
    made, id_ = seen
    client = made.client()
    for path in NEEDS:
        text = client.get(f"/api/v1/{path.format(id=id_)}").text
        assert "48.137" not in text and "481372" not in text and "11.576" not in text, path


@pytest.mark.parametrize("what", ["vehicles/car-1", "incidents/{id}"])
def test_a_bundle_is_audited_sent_and_verifies(seen: tuple[ServeKit, str], tmp_path: Path, what: str) -> None:
    made, id_ = seen
    client = made.client()
    with made.kit.collector() as (_, sequencer, _):
        sequencer.step()
    path = what.format(id=id_)
    answer = client.post(f"/api/v1/{path}/evidence", json=WHY)
    assert answer.status_code == 200
    name = path.partition("/")[2]
    assert answer.headers["content-disposition"] == f'attachment; filename="holdfast-{name}.hfb"'
    assert answer.headers["content-type"] == "application/octet-stream"
    assert len(answer.content) == int(answer.headers["content-length"])
    trust = Trust.from_json(client.get("/api/v1/log/trust").text)
    report = verify(answer.content, trust)
    assert report.trusted and report.ok, report.failures
    entry = get(client, "audit")["items"][0]
    assert entry["action"] == "evidence_export" and entry["device"] == "car-1" and entry["statement"]


def test_no_bundle_without_its_audit_entry(
    seen: tuple[ServeKit, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, id_ = seen
    monkeypatch.setattr(exports.tempfile, "tempdir", str(tmp_path))

    def full(*args: Any, **kwargs: Any) -> int:
        raise StoreBusy("the disk is full")

    monkeypatch.setattr(audit, "note", full)
    answer = made.client().post(f"/api/v1/incidents/{id_}/evidence", json=WHY)
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert list(tmp_path.iterdir()) == []


def test_bundles_are_made_in_turn(seen: tuple[ServeKit, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "WAIT_S", 0.01)
    client = seen[0].client()
    held = [exports._turns.acquire(), exports._turns.acquire()]
    try:
        answer = client.post("/api/v1/vehicles/car-1/evidence", json=WHY)
        assert answer.status_code == 503 and answer.json()["code"] == "busy"
    finally:
        for _ in held:
            exports._turns.release()
    assert client.post("/api/v1/vehicles/car-1/evidence", json=WHY).status_code == 200


# --- the log ------------------------------------------------------------------------------------------------


def test_the_log_can_be_verified_with_what_is_served(seen: tuple[ServeKit, str]) -> None:
    client = seen[0].client("auditor")
    trust = Trust.from_json(client.get("/api/v1/log/trust").text)
    assert trust == seen[0].kit.trust
    note = client.get("/log/checkpoint").content
    assert note == client.get("/api/v1/log/checkpoint").content
    at = verify_checkpoint(note, trust.origin, trust.log_key)
    assert get(client, "log")["root"] == at.root.hex()
    proof = get(client, "log/proof", index=1)
    path = [bytes.fromhex(node) for node in proof["proof"]]
    verify_inclusion(1, at.size, leaf_hash(bytes.fromhex(proof["entry"])), path, at.root)
    tile = client.get(f"/log/tile/0/000.p/{at.size}")
    assert tile.headers["content-type"] == "application/octet-stream"
    assert "immutable" in tile.headers["cache-control"] and "private" in tile.headers["cache-control"]
    assert (
        tiles.root(at.size, lambda level, number: tile.content if (level, number) == (0, 0) else b"")
        == at.root
    )
    assert client.get("/log/tile/0/000.p/1").content == tile.content[:32]


@pytest.mark.parametrize(
    "path",
    [
        "0/000", "0/000.p/0", "0/000.p/256", "0/000.p/200", "0/001.p/1", "0/0", "0/x000/000", "1/000.p/1",
        "64/000", "0/x001", "00/000", "entries/000", "0/000.p/01", "0/../000", "", "0/000/",
        "0/x001/x234/067",
    ],
)  # fmt: skip
def test_a_tile_that_is_not_there(seen: tuple[ServeKit, str], path: str) -> None:
    answer = seen[0].client().get(f"/log/tile/{path}")
    assert answer.status_code == 404 and answer.json()["code"] == "not_found"


def test_tiles_beyond_the_signed_checkpoint_are_not_told(kit: ServeKit) -> None:
    client = kit.client()
    size = parse_checkpoint(parse_note(client.get("/log/checkpoint").content).text).size
    with kit.context.stores.writing() as store, store.transaction() as db:
        db.execute("UPDATE tiles SET data = CAST(data || ? AS BLOB)", (bytes(32),))
    assert client.get(f"/log/tile/0/000.p/{size}").status_code == 200
    assert client.get(f"/log/tile/0/000.p/{size + 1}").status_code == 404


def test_large_tile_numbers() -> None:
    for number, path in ((0, "000"), (999, "999"), (1234, "x001/234"), (1_234_067, "x001/x234/067")):
        assert routes_records._tile_number(number) == path
        assert tiles.tile_path(3, number) == f"tile/3/{path}"


def test_an_empty_log_has_no_checkpoint(kit: ServeKit) -> None:
    with kit.context.stores.writing() as store, store.transaction() as db:
        db.execute("DELETE FROM checkpoints")
    for path in ("/log/checkpoint", "/api/v1/log/checkpoint", "/log/tile/0/000.p/1"):
        assert kit.client().get(path).status_code == 404
    assert get(kit.client(), "log")["size"] == 0


# --- what people do -----------------------------------------------------------------------------------------


def test_acts_and_conflicts(kit: ServeKit) -> None:
    id_ = kit.incident()
    client = kit.client()

    def act(status: int, **body: Any) -> dict[str, Any]:
        answer = client.post(f"/api/v1/incidents/{id_}/acts", json=body)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    story = act(200, action="acknowledge", version=0)
    assert story["incident"]["state"] == "acknowledged" and story["incident"]["version"] == 1
    assert "operator" in act(409, action="refute", version=0, note="x")["detail"]
    assert act(200, action="assign", version=1, assignee="operator")["incident"]["assignee"] == "operator"
    act(400, action="assign", version=2, assignee="nobody")
    act(400, action="assign", version=2, assignee="auditor")  # may not act
    act(422, action="explode", version=2)
    act(422, action="note", version=2, note="x" * 2001)
    act(422, action="note", version=-1, note="x")
    act(200, action="refute", version=2, note="A tow by our own people.")
    labels = get(client, "labels")["items"]
    assert [(row["incident"], row["true"]) for row in labels] == [(id_, False)]
    with kit.kit.collector() as (_, sequencer, _):
        sequencer.step()
    steps = [step for step in get(client, f"incidents/{id_}")["acts"] if step["number"]]
    assert all(step["statement"] and step["log_index"] is not None for step in steps)


def test_a_card(kit: ServeKit) -> None:
    client = kit.client()
    name = '<img src=x onerror="alert(1)">'
    body = {"name": name, "branch": "Süd (北)", "note": "two\nlines"}
    found = client.patch("/api/v1/vehicles/car-1", json=body).json()
    assert found["vehicle"]["name"] == name and found["vehicle"]["branch"] == "Süd (北)"
    assert found["note"] == "two\nlines"
    assert get(client, "vehicles", q="onerror")["total"] == 1
    assert get(client, "vehicles", branch="Süd (北)")["total"] == 1
    assert get(client, "audit")["items"][0]["action"] == "card_changed"
    assert client.get("/api/v1/vehicles").headers["content-type"] == "application/json"
    for refused in ({}, {"name": "a\nb"}, {"branch": "<b>"}, {"name": "x" * 81}, {"colour": "red"}):
        assert client.patch("/api/v1/vehicles/car-1", json=refused).status_code in (400, 422)
    assert client.patch("/api/v1/vehicles/no-such", json={"note": "x"}).status_code == 404


def test_who_is_confined_to_branches_stays_there(kit: ServeKit) -> None:
    id_ = kit.incident("car-2")
    boss = kit.client()
    for device, branch in (("car-1", "North"), ("car-2", "South")):
        boss.patch(f"/api/v1/vehicles/{device}", json={"branch": branch})
    confined = {"role": "operator", "name": "north", "branches": ["North"]}
    number = boss.post("/api/v1/accounts", json=confined).json()["account"]["id"]
    kit.accounts["fund", "north"] = number
    client = kit.client("north")
    assert [row["device"] for row in get(client, "vehicles")["items"]] == ["car-1"]
    assert get(client, "incidents")["items"] == []
    for path in ("vehicles/car-2", f"incidents/{id_}", f"incidents/{id_}/timeline", "vehicles/car-2/timeline",
                 "vehicles/car-2/completeness"):  # fmt: skip
        assert client.get(f"/api/v1/{path}").status_code == 404, path
    for path in (f"incidents/{id_}/exact", f"incidents/{id_}/evidence", "vehicles/car-2/evidence"):
        assert client.post(f"/api/v1/{path}", json=WHY).status_code == 404, path
    assert client.patch("/api/v1/vehicles/car-1", json={"branch": "South"}).status_code == 403
    assert client.patch("/api/v1/vehicles/car-2", json={"branch": "North"}).status_code == 404
    act = {"action": "assign", "version": 0, "assignee": "north"}
    assert boss.post(f"/api/v1/incidents/{id_}/acts", json=act).status_code == 400


def test_lists_have_etags(seen: tuple[ServeKit, str]) -> None:
    client = seen[0].client()
    for path in ("vehicles", "map", "incidents", "titles", "log", "completeness"):
        first = client.get(f"/api/v1/{path}")
        again = client.get(f"/api/v1/{path}", headers={"If-None-Match": first.headers["etag"]})
        assert again.status_code == 304 and again.content == b""


def test_pages_go_on_where_they_ended(kit: ServeKit) -> None:
    for number in range(1, 6):
        kit.incident("car-1", number)
    client = kit.client()
    found: list[str] = []
    cursor = None
    while True:
        page = get(client, "incidents", limit=2, sort="newest", **({"cursor": cursor} if cursor else {}))
        found += [row["id"] for row in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert len(found) == len(set(found)) == 5
    first = get(client, "incidents", limit=2, sort="newest")["next"]
    assert client.get("/api/v1/incidents", params={"cursor": first, "sort": "oldest"}).status_code == 400
