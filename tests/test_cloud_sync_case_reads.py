"""Reads of incidents: filters, order, pages, branches, tenants, the story, labels, an exact place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from casekit import Desk, account, copy_to_tenant, open_desk, told
from cloudkit import START_MS, TENANT

from cloud_sync.access import READ_TITLES, Principal
from cloud_sync.casework import Ref
from cloud_sync.errors import BadCursor, BadRequest, Denied, NotFound, StoreBusy
from cloud_sync.places import Near
from cloud_sync.runtime import audit, case_reads, titles
from cloud_sync.runtime.serve.schemas import ExactPlace, IncidentList, LabelList, Story
from cloud_sync.statement import ACCESS, parse_statement
from edge.event import Kind
from firmware_bridge.wire import cose
from firmware_bridge.wire.signals import Sig
from models.verdict import Action, Cause

LI, WANG = account("li"), account("wang")
NOW_MS = START_MS + 120_000
VIN = "WDB1110011A000006"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path, ("car-1", "car-2", "car-3")) as made:
        yield made


def listed(desk: Desk, who: Principal = LI, **filters: Any) -> list[str]:
    """Ids of a valid page, as <device>.<number>."""
    answer = IncidentList.model_validate(page(desk, who, **filters))
    return [short(row.id) for row in answer.items]


def page(desk: Desk, who: Principal = LI, **filters: Any) -> dict[str, Any]:
    return case_reads.incidents(desk.store.db, who, now_ms=NOW_MS, **filters)


def short(incident: str) -> str:
    device, _, number = incident.split(".")
    return f"{device}.{number}"


def fleet_of(desk: Desk) -> dict[str, str]:
    """Five incidents of three cars."""
    made = {
        "tow": desk.open("car-1", 1),
        "jam": desk.open("car-1", 2, cause=Cause.JAMMED),
        "weak": desk.open("car-2", 1, permille=300),
        "silent": desk.open("car-2", 2, cause=Cause.SILENT, place=None),
        "box": desk.open("car-3", 1, cause=Cause.REMOVED_OR_OPENED),
    }
    desk.card("car-1", "Blue 100% lorry", "North")
    desk.card("car-2", None, "South")
    return made


def test_the_worst_comes_first_and_what_is_over_last(desk: Desk) -> None:
    made = fleet_of(desk)
    assert listed(desk) == ["car-1.1", "car-3.1", "car-2.1", "car-1.2", "car-2.2"]
    desk.act(LI, made["tow"], "refute", "A transport.")
    desk.act(LI, made["box"], "confirm", "Cut off.")
    assert listed(desk) == ["car-3.1", "car-2.1", "car-1.2", "car-2.2", "car-1.1"]
    assert listed(desk, sort="oldest")[0] == "car-1.1"
    times = [row["opened"]["at"] for row in page(desk, sort="newest")["items"]]
    assert times == sorted(times, reverse=True)


def test_filters(desk: Desk) -> None:
    made = fleet_of(desk)
    desk.act(LI, made["jam"], "assign", assignee="li")
    desk.act(LI, made["weak"], "assign", assignee="wang")
    desk.act(LI, made["silent"], "acknowledge")
    assert listed(desk, state=["assigned"]) == ["car-2.1", "car-1.2"]
    assert listed(desk, state=["assigned", "acknowledged"], branch="South") == ["car-2.1", "car-2.2"]
    assert listed(desk, cause="jammed") == ["car-1.2"]
    assert listed(desk, branch="North") == ["car-1.1", "car-1.2"]
    assert listed(desk, branch="West") == []
    assert listed(desk, device="car-3") == ["car-3.1"]
    assert listed(desk, assignee="me") == ["car-1.2"]
    assert listed(desk, WANG, assignee="me") == ["car-2.1"]
    assert listed(desk, assignee="wang") == ["car-2.1"]
    assert listed(desk, q="BLUE 100%") == ["car-1.1", "car-1.2"]
    assert listed(desk, q="%") == ["car-1.1", "car-1.2"]
    assert listed(desk, q="_") == []
    assert len(listed(desk, q="no wheel turns")) == 5
    assert len(listed(desk, clock="live")) == 5 and listed(desk, clock="replay") == []
    assert listed(desk, from_ms=START_MS, to_ms=START_MS) == []
    assert listed(desk, device="car-1", from_ms=START_MS + 1000) == ["car-1.2"]
    assert listed(desk, device="car-1", to_ms=START_MS + 1000) == ["car-1.1"]


def test_counts_are_of_all_states_within_the_other_filters(desk: Desk) -> None:
    made = fleet_of(desk)
    desk.act(LI, made["tow"], "acknowledge")
    answer = page(desk, state=["open"], branch="North", limit=1)
    assert answer["counts"] == {
        "open": 1, "escalated": 0, "acknowledged": 1, "assigned": 0, "confirmed": 0, "refuted": 0,
        "closed": 0,
    }  # fmt: skip
    assert answer["total"] == 1 and answer["next"] is None
    assert page(desk)["total"] == 5


@pytest.mark.parametrize("sort", ["worst", "newest", "oldest"])
def test_pages_hold_everything_once(desk: Desk, sort: str) -> None:
    fleet_of(desk)
    whole = listed(desk, sort=sort)
    for limit in (1, 2, 3):
        found: list[str] = []
        cursor: str | None = None
        while True:
            answer = page(desk, sort=sort, limit=limit, cursor=cursor)
            assert len(answer["items"]) <= limit and answer["total"] == 5
            found += [short(row["id"]) for row in answer["items"]]
            cursor = answer["next"]
            if cursor is None:
                break
        assert found == whole


def test_a_cursor_serves_its_own_list_alone(desk: Desk) -> None:
    fleet_of(desk)
    cursor = page(desk, limit=2)["next"]
    assert cursor is not None and page(desk, limit=2, cursor=cursor)["items"]
    copy_to_tenant(desk, "rival", "incidents", "cases")
    bad = [
        {"sort": "newest"}, {"branch": "North"}, {"state": ["open"]}, {"q": "blue"}, {"device": "car-1"},
    ]  # fmt: skip
    for filters in bad:
        with pytest.raises(BadCursor):
            page(desk, cursor=cursor, **filters)
    for who in (account("li", tenant="rival"), account("li", branches="North")):
        with pytest.raises(BadCursor):
            page(desk, who, cursor=cursor)
    for text in ("", "x", cursor[:-1] + ("A" if cursor[-1] != "A" else "B"), cursor * 50, "é", "=" * 40):
        with pytest.raises(BadCursor):
            page(desk, cursor=text)
    with pytest.raises(BadCursor):
        case_reads.labels(desk.store.db, LI, cursor=cursor, limit=5)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"limit": 0}, "limit is 1 .. 500"),
        ({"limit": 501}, "limit is 1 .. 500"),
        ({"limit": -5}, "limit is 1 .. 500"),
        ({"sort": "rowid; DROP TABLE cases"}, "sort is one of worst, newest, oldest"),
        ({"state": ["open", "lost"]}, "state is one of open"),
        ({"state": ["open"] * 1000}, "given 1000 times"),
        ({"cause": "aliens"}, "cause is one of moved_without_wheels"),
        ({"clock": "sundial"}, "clock is one of live"),
        ({"q": "x" * 81}, "at most 80"),
        ({"q": "a\x00b"}, "printable"),
        ({"branch": "x" * 5000}, "at most 80"),
        ({"from_ms": -1}, "between 1970 and 9999"),
        ({"to_ms": 10**18}, "between 1970 and 9999"),
        ({"from_ms": 2, "to_ms": 1}, "'from' is later"),
    ],
)
def test_absurd_filters_are_refused_in_words(desk: Desk, filters: dict[str, Any], message: str) -> None:
    desk.open()
    with pytest.raises(BadRequest, match=message):
        page(desk, **filters)


def test_a_tenant_sees_its_own_and_nothing_else(desk: Desk) -> None:
    made = fleet_of(desk)
    rival = account("li", tenant="rival")
    answer = page(desk, rival)
    assert answer["items"] == [] and answer["total"] == 0 and not any(answer["counts"].values())
    for read in (
        lambda: case_reads.row(desk.store.db, "rival", made["tow"]),
        lambda: case_reads.story(desk.store.db, rival, made["tow"], NOW_MS),
        lambda: exact(desk, made["tow"], rival),
    ):
        with pytest.raises(NotFound, match="there is no such incident"):
            read()
    assert not desk.rows("audit")
    copy_to_tenant(desk, "rival", "incidents", "cases")
    desk.act(LI, made["tow"], "acknowledge")
    assert len(page(desk, rival)["items"]) == 5
    assert {row["state"] for row in page(desk, rival)["items"]} == {"open"}
    assert {row["branch"] for row in page(desk, rival)["items"]} == {None}


def test_a_principal_of_branches_sees_their_incidents_alone(desk: Desk) -> None:
    made = fleet_of(desk)
    north = account("li", branches="North")
    assert listed(desk, north) == ["car-1.1", "car-1.2"]
    assert page(desk, north)["total"] == 2
    assert listed(desk, north, branch="South") == [] and listed(desk, north, device="car-2") == []
    assert len(listed(desk, account("li", branches="North South"))) == 4
    for ref in (made["weak"], made["box"]):
        with pytest.raises(NotFound):
            case_reads.row(desk.store.db, TENANT, ref, principal=north)
        with pytest.raises(NotFound):
            case_reads.story(desk.store.db, north, ref, NOW_MS)
        with pytest.raises(NotFound):
            exact(desk, ref, north)
    assert case_reads.row(desk.store.db, TENANT, made["tow"], principal=north)["name"] == "Blue 100% lorry"


def test_a_row_is_coarse_named_and_in_both_languages(desk: Desk) -> None:
    incident = desk.open()
    asked: list[tuple[float, float]] = []

    def near(lat: float, lon: float) -> Near:
        asked.append((lat, lon))
        return Near("Depot", 300)

    row = case_reads.row(desk.store.db, TENANT, incident, near=near)
    assert row["place"] == {
        "lat": 31.23, "lon": 121.46, "name": "Depot", "distance_m": 300,
        "at": {"at": "2026-12-01T04:40:00.000Z", "unc_ms": 100, "source": "gnss"},
    }  # fmt: skip
    assert asked == [(31.23, 121.46)]
    assert row["opened"] == {"at": "2026-12-01T04:40:00.000Z", "unc_ms": 100, "source": "gnss"}
    assert row["sentence"] == "The car moves 41 m, no wheel turns." and row["sentence_zh"]
    assert (row["name"], row["branch"], row["device_open"], row["clock"]) == ("car-1", None, True, "live")
    assert row["place_of"] == "incident"


def test_an_incident_without_a_place_has_the_newest_of_its_vehicle_with_its_age(desk: Desk) -> None:
    without = desk.open(place=None)
    row = case_reads.row(desk.store.db, TENANT, without)
    assert (row["place"], row["place_of"]) == (None, None)
    device = desk.device()
    body = {int(Sig.LATITUDE): 473_123, int(Sig.LONGITUDE): 85_678}
    desk.tell(device.event(Kind.POSITION, body))
    row = case_reads.row(desk.store.db, TENANT, without, near=lambda lat, lon: Near("Depot", 300))
    at = {"at": "2026-12-01T04:40:01.000Z", "unc_ms": 100, "source": "gnss"}
    assert row["place"] == {"lat": 47.31, "lon": 8.57, "name": "Depot", "distance_m": 300, "at": at}
    assert row["place_of"] == "vehicle"
    other = case_reads.row(desk.store.db, TENANT, desk.open("car-2", place=None))
    assert other["place"] is None, "a place of another vehicle is none"


def test_the_story(desk: Desk) -> None:
    titles.pledge_for_demo(desk.kit.config_path, vin=VIN, device="car-1", tyres=("a1b2c3d4", "a1b2c3d5"))
    incident = desk.open()
    node = desk.device("car-2")
    node.wall_ms = START_MS + 5000
    seen = [node.event(Kind.SIGHTING, {116: f"a1b2c3d{n}", 121: -70}) for n in (4, 5, 4)]
    desk.tell(*seen, name="car-2")
    desk.act(LI, incident, "acknowledge")
    desk.act(LI, incident, "assign", assignee="wang")
    desk.sequencer.step()
    raw = case_reads.story(desk.store.db, WANG, incident, NOW_MS, near=lambda lat, lon: Near("Depot", None))
    story = Story.model_validate(raw | {"assignable": []})
    assert [line.sensor for line in story.evidence] == ["position", "tyres", "roadside"]
    assert story.evidence[2].text.startswith("car-2 heard 2 enrolled tyre sensors")
    assert story.evidence[2].text_zh != story.evidence[2].text
    said = {one.code: one.params for one in (*story.known, *story.unknown, *story.next)}
    assert said["story.known.logged"] == {"device": "car-1", "index": story.log_index}
    assert said["story.known.sighted"] == {"node": "car-2", "n": 2, "at": "2026-12-01T04:40:07.000Z"}
    assert said["story.known.pledged"] == {"state": "ALERT"}
    assert said["story.next.ask_assignee"] == {"assignee": "wang"}
    assert said["story.next.start_at_node"]["node"] == "car-2"
    assert [act.action for act in story.acts] == ["open", "acknowledge", "assign"]
    assert [act.number for act in story.acts] == [0, 1, 2]
    assert story.acts[0].author == "device" and story.acts[0].statement is None
    assert story.acts[0].log_index == story.log_index
    assert story.acts[2].assignee == "wang" and story.acts[2].log_index == desk.store.size() - 1
    assert story.may == ["assign", "escalate", "note", "confirm", "refute"]
    assert story.exact_place and story.title is not None and story.incident.title_state == "ALERT"
    assert story.segment == desk.device().sealed[0].hash.hex()
    assert story.incident.place is not None and story.incident.place.lat == 31.23
    assert "31.2345" not in repr(raw) and "121.4567" not in repr(raw)


def test_who_may_not_act_reads_the_same_story_without_verbs(desk: Desk) -> None:
    titles.pledge_for_demo(desk.kit.config_path, vin=VIN, device="car-1", tyres=())
    incident = desk.open()
    desk.act(LI, incident, "note", "His name is Zhang.")
    auditor = case_reads.story(desk.store.db, account("chen", "auditor"), incident, NOW_MS)
    assert auditor["may"] == [] and auditor["acts"][1]["note"] == "His name is Zhang."
    partner = case_reads.story(desk.store.db, account("p", "partner"), incident, NOW_MS)
    assert "Zhang" not in repr(partner) and partner["acts"][1]["action"] == "note"
    assert partner["title"] is None and partner["incident"]["title_state"] is None
    assert "story.known.pledged" not in [said["code"] for said in partner["known"]]
    assert READ_TITLES not in account("p", "partner").scopes


def test_what_the_device_closed_stands_among_the_steps_by_time(desk: Desk) -> None:
    incident = desk.open()
    desk.tell(told(desk.device(), action=Action.CLOSED))
    desk.act(LI, incident, "confirm", "It was towed and brought back.")
    steps = case_reads.story(desk.store.db, LI, incident, NOW_MS)["acts"]
    assert [(step["author"], step["action"]) for step in steps] == [
        ("device", "open"), ("device", "close"), ("li", "confirm"),
    ]  # fmt: skip


def test_a_vehicle_that_was_never_projected_has_a_story_all_the_same(desk: Desk) -> None:
    incident = desk.open(place=None)
    with desk.store.transaction() as db:
        db.execute("DELETE FROM vehicles")
    raw = case_reads.story(desk.store.db, LI, incident, NOW_MS)
    story = Story.model_validate(raw | {"assignable": []})
    assert "story.unknown.place" in [said.code for said in story.unknown] and not story.exact_place


def test_labels_are_the_verdicts_that_stand(desk: Desk) -> None:
    made = fleet_of(desk)
    desk.act(LI, made["tow"], "refute", "A transport.")
    desk.act(WANG, made["box"], "confirm", "Cut off.")
    desk.act(WANG, made["jam"], "confirm", "Jammed.")
    desk.act(LI, made["tow"], "confirm", "No: the firm knows nothing of it.")
    desk.act(LI, made["jam"], "close", "Done.")
    desk.act(LI, made["jam"], "reopen", "Again.")
    answer = LabelList.model_validate(case_reads.labels(desk.store.db, LI, cursor=None, limit=50))
    assert [(short(one.incident), one.true, one.author) for one in answer.items] == [
        ("car-3.1", True, "wang"), ("car-1.1", True, "li"),
    ]  # fmt: skip
    assert answer.items[0].cause == "removed_or_opened" and answer.next is None
    assert answer.items[0].segment == desk.device("car-3").sealed[0].hash.hex()
    hashes = {row[0].hex() for row in desk.store.db.execute("SELECT hash FROM statements")}
    assert {one.statement for one in answer.items} <= hashes
    first = case_reads.labels(desk.store.db, LI, cursor=None, limit=1)
    second = case_reads.labels(desk.store.db, LI, cursor=first["next"], limit=1)
    assert [short(one["incident"]) for one in first["items"] + second["items"]] == ["car-3.1", "car-1.1"]
    assert second["next"] is None
    assert case_reads.labels(desk.store.db, account("x", tenant="rival"), cursor=None, limit=9)["items"] == []
    north = case_reads.labels(desk.store.db, account("x", branches="North"), cursor=None, limit=9)
    assert [short(one["incident"]) for one in north["items"]] == ["car-1.1"]
    with pytest.raises(BadRequest):
        case_reads.labels(desk.store.db, LI, cursor=None, limit=0)


def exact(desk: Desk, incident: str, who: Principal = LI, purpose: str = "the tow truck waits") -> Any:
    return case_reads.exact_place(
        desk.store, who, incident, purpose=purpose, key=desk.key, wall_ms=START_MS + 9000
    )


def test_an_exact_place_is_audited_before_it_is_told(desk: Desk) -> None:
    incident = desk.open()
    answer = ExactPlace.model_validate(exact(desk, incident))
    assert (answer.lat, answer.lon) == (31.2345, 121.4567)
    assert answer.at.at == "2026-12-01T04:40:00.000Z"
    (row,) = audit.rows(desk.store.db, account("chen", "auditor"), None, 9, now_ms=NOW_MS)["items"]
    assert row["number"] == answer.audit and row["device"] == "car-1"
    assert (row["account"], row["action"], row["purpose"]) == ("li", "exact_position", "the tow truck waits")
    assert incident in row["what"] and "31.2" not in repr(row)
    data = desk.store.db.execute(
        "SELECT b.data FROM statements s JOIN bodies b ON b.hash = s.hash WHERE s.type = ?", (ACCESS,)
    ).fetchone()[0]
    public = desk.key.public_key()
    assert parse_statement(data, {cose.key_id(public): public}.get).body[5] == ["the tow truck waits"]


def test_where_it_cannot_be_audited_nothing_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    incident, nowhere = desk.open(), desk.open(number=2, place=None)
    for role in ("auditor", "technician", "partner"):
        with pytest.raises(Denied):
            exact(desk, incident, account("x", role))
    for purpose in ("", "  ", "x\n"):
        with pytest.raises(BadRequest, match="what it is needed for"):
            exact(desk, incident, purpose=purpose)
    with pytest.raises(NotFound, match="no position came"):
        exact(desk, nowhere)
    with pytest.raises(NotFound, match="no such incident"):
        exact(desk, str(Ref("car-1", bytes(16), 9)))

    def busy(*_: object) -> None:
        raise StoreBusy("locked")

    monkeypatch.setattr(audit, "log_statement", busy)
    with pytest.raises(StoreBusy):
        exact(desk, incident)
    assert not desk.rows("audit")


def test_html_in_names_is_passed_on_as_text(desk: Desk) -> None:
    incident = desk.open()
    desk.card("car-1", "<img src=x onerror=alert(1)>", "North")
    assert case_reads.row(desk.store.db, TENANT, incident)["name"] == "<img src=x onerror=alert(1)>"
    assert listed(desk, q="<IMG") == ["car-1.1"]


def test_verdicts_by_what_a_model_or_an_auditor_asks_for(desk: Desk) -> None:
    desk.card("car-1", branch="North")
    first, second = desk.open(), desk.open("car-2", cause=Cause.JAMMED)
    desk.act(LI, first, "confirm", "seen")
    desk.act(LI, second, "refute", "a truck")
    at = desk.wall_ms

    def ids(**filters: Any) -> list[str]:
        found = case_reads.labels(desk.store.db, LI, cursor=None, limit=10, **filters)
        return [one["incident"] for one in found["items"]]

    assert ids() == [first, second]
    assert ids(cause="jammed") == ids(device="car-2") == ids(from_ms=at) == [second]
    assert ids(branch="North") == ids(to_ms=at) == [first]
    assert ids(branch="South") == []
    cursor = case_reads.labels(desk.store.db, LI, cursor=None, limit=1)["next"]
    with pytest.raises(BadCursor):
        case_reads.labels(desk.store.db, LI, cursor=cursor, limit=1, device="car-2")
    with pytest.raises(BadRequest):
        ids(cause="stolen")
