"""Acts upon incidents: a life through several accounts, races, crashes, tenants, the log and the bundle."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from casekit import Desk, account, open_desk, told
from cloudkit import START_MS, TENANT
from typer.testing import CliRunner

from cloud_sync.casework import CaseKey, Ref
from cloud_sync.errors import BadRequest, Conflict, Denied, NotFound, StoreBusy, StoreError
from cloud_sync.evidence.__main__ import verify as verify_app
from cloud_sync.evidence.verify import verify as check
from cloud_sync.runtime import bundles, case_reads, cases, projector, titles
from cloud_sync.runtime.store import Store
from cloud_sync.statement import CASE, Statement, parse_statement
from firmware_bridge.wire import cose
from models.verdict import Action, Cause

LI, WANG, CHEN = account("li"), account("wang"), account("chen", "auditor")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path) as made:
        yield made


def statements(desk: Desk) -> list[Statement]:
    """The verified CASE statements in the order of the log; those not logged yet come last."""
    public = desk.key.public_key()
    rows = desk.store.db.execute(
        "SELECT b.data FROM statements s JOIN bodies b ON b.hash = s.hash WHERE s.type = ?"
        " ORDER BY s.log_index IS NULL, s.log_index",
        (CASE,),
    )
    return [parse_statement(row[0], {cose.key_id(public): public}.get) for row in rows]


def test_a_life_through_several_accounts(desk: Desk) -> None:
    incident = desk.open()
    assert desk.state(incident) == "open"
    desk.act(LI, incident, "acknowledge")
    desk.act(LI, incident, "assign", assignee="wang")
    desk.act(WANG, incident, "note", "The borrower says it is in a workshop.")
    desk.act(WANG, incident, "refute", "A declared transport, confirmed by the workshop.")
    desk.act(LI, incident, "close", "Settled.")
    row = case_reads.row(desk.store.db, TENANT, incident)
    assert (row["state"], row["version"], row["assignee"]) == ("closed", 5, "wang")
    assert row["closed_at"] == "2026-12-01T04:41:05.000Z"
    assert desk.sequencer.step() == 5
    made = statements(desk)
    device = desk.device()
    assert [one.body[CaseKey.ACTION] for one in made] == [
        ["acknowledge", "acknowledged"], ["assign", "assigned"], ["note", "assigned"], ["refute", "refuted"],
        ["close", "closed"],
    ]  # fmt: skip
    assert [one.body[CaseKey.NUMBER] for one in made] == [1, 2, 3, 4, 5]
    assert {one.body[CaseKey.DEVICE] for one in made} == {"car-1"}
    assert {one.body[CaseKey.RUN] for one in made} == {device.run}
    assert {one.body[CaseKey.SEGMENT] for one in made} == {device.sealed[0].hash}
    assert made[1].body[CaseKey.ASSIGNEE] == ["wang"]
    assert made[3].body[CaseKey.AUTHOR] == ["wang", "operator"]
    assert made[3].body[CaseKey.NOTE] == ["A declared transport, confirmed by the workshop."]
    assert [one.wall_ms for one in made] == [START_MS + 60_000 + 1000 * n for n in range(1, 6)]
    feed = desk.store.db.execute("SELECT kind, device, ref FROM feed WHERE kind = 'case'").fetchall()
    assert feed == [("case", "car-1", incident)] * 5


def test_who_decides_upon_what_has_changed_is_told_by_whom(desk: Desk) -> None:
    incident = desk.open()
    desk.act(WANG, incident, "acknowledge")
    with pytest.raises(Conflict, match=r"wang did .acknowledge. at 2026-12-01T04:41:01\.000Z, after you"):
        desk.act(LI, incident, "refute", "no", version=0)
    desk.act(WANG, incident, "note", "On it.")
    with pytest.raises(Conflict, match=r"wang did 'note' .*\(1 more before it\)"):
        desk.act(LI, incident, "refute", "no", version=0)
    with pytest.raises(Conflict, match="has 2 entries, not 7"):
        desk.act(LI, incident, "refute", "no", version=7)
    assert desk.version(incident) == 2 and len(statements(desk)) == 2


def test_a_conflict_is_said_before_what_else_is_wrong(desk: Desk) -> None:
    incident = desk.open()
    desk.act(WANG, incident, "acknowledge")
    with pytest.raises(Conflict):
        desk.act(LI, incident, "acknowledge", version=0)


@pytest.mark.parametrize(
    ("action", "note", "assignee"),
    [
        ("close", "done", None), ("reopen", "why", None), ("assign", "", None), ("assign", "", "chen"),
        ("refute", "", None), ("dance", "", None),
    ],
)  # fmt: skip
def test_what_is_forbidden_leaves_nothing(desk: Desk, action: str, note: str, assignee: str | None) -> None:
    incident = desk.open()
    before = desk.rows("feed")
    with pytest.raises(BadRequest):
        desk.act(LI, incident, action, note, assignee=assignee)
    assert desk.version(incident) == 0
    assert not desk.rows("case_acts") and not statements(desk) and desk.rows("feed") == before


def test_what_the_device_closed_is_closed_until_somebody_reopens_it(desk: Desk) -> None:
    incident = desk.open()
    desk.tell(told(desk.device(), action=Action.CLOSED))
    assert desk.state(incident) == "closed"
    assert case_reads.row(desk.store.db, TENANT, incident)["closed_at"] == "2026-12-01T04:40:01.000Z"
    desk.act(LI, incident, "reopen", "The borrower called: it is gone.")
    assert desk.state(incident) == "open"
    desk.act(LI, incident, "close", "He found it.")
    assert desk.state(incident) == "closed"


def test_a_closing_that_comes_while_people_work_does_not_take_it_from_them(desk: Desk) -> None:
    incident = desk.open()
    desk.act(LI, incident, "assign", assignee="wang")
    desk.tell(told(desk.device(), action=Action.CLOSED))
    assert desk.state(incident) == "assigned" and desk.version(incident) == 1
    desk.act(WANG, incident, "close", "The device says that it is over; I have called.")
    assert desk.state(incident) == "closed"


def test_another_tenant_is_told_that_there_is_nothing(desk: Desk) -> None:
    incident = desk.open()
    rival = account("li", tenant="rival")
    for ref in (incident, str(Ref("car-9", bytes(16), 1)), "nonsense"):
        with pytest.raises(NotFound, match="there is no such incident"):
            desk.act(rival, ref, "acknowledge", version=0)
    assert desk.state(incident) == "open"


def test_so_is_an_account_of_other_branches(desk: Desk) -> None:
    incident = desk.open()
    north, south = account("li", branches="North"), account("wang", branches="South East")
    for who in (north, south):  # a vehicle without a branch is not theirs either
        with pytest.raises(NotFound, match="there is no such incident"):
            desk.act(who, incident, "acknowledge")
    desk.card("car-1", branch="North")
    with pytest.raises(NotFound, match="there is no such incident"):
        desk.act(south, incident, "acknowledge")
    desk.act(north, incident, "acknowledge")
    assert desk.state(incident) == "acknowledged"


@pytest.mark.parametrize("role", ["auditor", "technician", "partner"])
def test_who_may_not_act_is_denied_whether_it_exists_or_not(desk: Desk, role: str) -> None:
    incident = desk.open()
    for ref in (incident, str(Ref("car-9", bytes(16), 1))):
        with pytest.raises(Denied):
            desk.act(account("x", role), ref, "acknowledge", version=0)


@pytest.mark.parametrize("name", ["rule", "device"])
def test_nobody_acts_as_the_device_or_a_rule(desk: Desk, name: str) -> None:
    incident = desk.open()
    with pytest.raises(Denied, match="not a person's"):
        desk.act(account(name), incident, "acknowledge")


def test_a_crash_before_the_commit_leaves_nothing_and_one_after_it_everything(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    incident = desk.open()
    before = desk.rows("feed")

    def fails(store: Store) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", fails)
        with pytest.raises(StoreError):
            desk.act(LI, incident, "acknowledge", version=0)
    assert desk.state(incident) == "open" and desk.rows("feed") == before
    assert not desk.rows("case_acts") and not statements(desk)

    commit = Store.commit

    def late(store: Store) -> None:
        commit(store)
        raise RuntimeError("power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", late)
        with pytest.raises(RuntimeError):
            desk.act(LI, incident, "acknowledge", version=0)
    assert desk.state(incident) == "acknowledged" and len(statements(desk)) == 1
    with pytest.raises(Conflict, match="li did 'acknowledge'"):  # the retry sees its own act
        desk.act(LI, incident, "acknowledge", version=0)


def test_a_store_that_somebody_else_writes_says_busy(desk: Desk) -> None:
    incident = desk.open()
    other = sqlite3.connect(desk.store.path, isolation_level=None)
    desk.store.db.execute("PRAGMA busy_timeout=10")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy):
        desk.act(LI, incident, "acknowledge", version=0)
    other.execute("ROLLBACK")
    other.close()
    desk.act(LI, incident, "acknowledge")


def escalate(desk: Desk, incident: str, version: int = 0, tenant: str = TENANT) -> bool:
    return cases.escalate_by_rule(
        desk.store, tenant, incident, rule="night", version=version, key=desk.key, wall_ms=START_MS
    )


def test_a_rule_escalates_once_and_never_what_somebody_has_in_hand(desk: Desk) -> None:
    first, second, third = desk.open(), desk.open(number=2), desk.open("car-2")
    assert escalate(desk, first) is True
    assert escalate(desk, first) is False and escalate(desk, first, 1) is False
    assert desk.state(first) == "escalated"
    (made,) = statements(desk)
    assert made.body[CaseKey.AUTHOR] == ["rule", "night"]
    desk.act(LI, second, "acknowledge")
    assert escalate(desk, second) is False and escalate(desk, second, 1) is False
    desk.act(LI, third, "note", "I look at it.")
    assert escalate(desk, third) is False
    assert escalate(desk, third, 1) is True
    with pytest.raises(NotFound):
        escalate(desk, first, tenant="rival")


def test_a_rule_does_not_escalate_what_the_device_has_closed(desk: Desk) -> None:
    incident = desk.open()
    desk.tell(told(desk.device(), action=Action.CLOSED))
    assert escalate(desk, incident) is False


def test_severity_follows_confidence_and_pledge(desk: Desk) -> None:
    incident = desk.open(permille=500)
    assert case_reads.row(desk.store.db, TENANT, incident)["severity"] == 600
    desk.tell(told(desk.device(), action=Action.UPDATED, permille=1000))
    assert case_reads.row(desk.store.db, TENANT, incident)["severity"] == 800
    titles.pledge_for_demo(desk.kit.config_path, vin="WDB1110011A000006", device="car-1", tyres=())
    desk.act(LI, incident, "acknowledge")
    row = case_reads.row(desk.store.db, TENANT, incident)
    assert (row["severity"], row["title_state"]) == (1000, "PLEDGED")


def test_the_bundle_holds_the_acts_upon_its_vehicle_and_no_others(desk: Desk, tmp_path: Path) -> None:
    incident, other = desk.open(), desk.open("car-2")
    desk.act(account("car-1"), other, "note", "car-1")  # an account and a note that are called as a device
    desk.act(LI, incident, "acknowledge")
    desk.act(WANG, incident, "refute", "A declared\ntransport.")
    desk.sequencer.step()
    out = bundles.export(desk.store, TENANT, "car-1", tmp_path / "car-1.hfb")
    report = check(out.read_bytes(), desk.kit.trust)
    assert report.ok and report.trusted and report.statements == 2
    assert report.titles == [
        "2026-12-01T04:41:02.000Z case: car-1, acknowledge, acknowledged, li, operator",
        "2026-12-01T04:41:03.000Z case: car-1, refute, refuted, wang, operator, A declared transport.",
    ]
    shown = CliRunner().invoke(verify_app, [str(out), "--trust", str(desk.kit.lab.trust)]).output
    assert "2 statements of the cloud" in shown and report.titles[1] in shown


def test_erasing_takes_the_words_and_leaves_the_proofs(desk: Desk, tmp_path: Path) -> None:
    incident, kept = desk.open(), desk.open("car-2")
    desk.act(LI, incident, "refute", "His name is Zhang.")
    desk.act(LI, kept, "refute", "Not erased.")
    desk.sequencer.step()
    device = desk.device()
    with desk.store.transaction() as db:
        rows = cases.erase(db, TENANT, "car-1", device.run, 1, wall_ms=5, reason="asked for")
    assert rows == 3
    assert [one.body[CaseKey.NOTE] for one in statements_left(desk)] == [["Not erased."]]
    gone = desk.store.db.execute("SELECT erased_ms, reason FROM bodies WHERE data IS NULL").fetchall()
    assert gone == [(5, "asked for")]
    assert len(desk.rows("case_acts")) == len(desk.rows("cases")) == 1
    out = bundles.export(desk.store, TENANT, "car-1", tmp_path / "car-1.hfb")
    assert check(out.read_bytes(), desk.kit.trust).ok


def statements_left(desk: Desk) -> list[Statement]:
    public = desk.key.public_key()
    rows = desk.store.db.execute(
        "SELECT b.data FROM statements s JOIN bodies b ON b.hash = s.hash WHERE b.data IS NOT NULL"
    )
    return [parse_statement(row[0], {cose.key_id(public): public}.get) for row in rows]


def test_erasing_a_month_of_the_vehicle_takes_its_cases(desk: Desk) -> None:
    incident = desk.open()
    desk.act(LI, incident, "refute", "His name is Zhang.")
    with desk.store.transaction() as db:
        projector.erase(db, TENANT, "car-1", START_MS - 1, START_MS + 86_400_000)
    assert not desk.rows("cases") and not desk.rows("case_acts") and not statements_left(desk)
    with pytest.raises(NotFound):
        desk.act(LI, incident, "close", "x", version=1)


def test_an_older_store_gets_its_cases(desk: Desk) -> None:
    incident = desk.open(cause=Cause.JAMMED)
    with desk.store.transaction() as db:
        db.execute("DELETE FROM cases")
        cases.migrate(db)
    assert desk.state(incident) == "open"
    cases.migrate(desk.store.db)
    assert len(desk.rows("cases")) == 1


def test_the_case_does_not_depend_on_the_order_of_segments(desk: Desk) -> None:
    device = desk.device()
    opened, closed = device.seal([told(device)]), device.seal([told(device, action=Action.CLOSED)])
    incident = str(Ref("car-1", device.run, 1))
    desk.intake.process([device.message(closed)])
    assert desk.state(incident) == "closed"
    before = desk.rows("cases")
    desk.intake.process([device.message(opened)])
    assert desk.rows("cases") == before


def test_the_longest_note_fits_into_a_statement(desk: Desk) -> None:
    incident = desk.open()
    desk.act(LI, incident, "note", "\U00020000" * 2000)
    with pytest.raises(BadRequest, match="2001 characters"):
        desk.act(LI, incident, "note", "x" * 2001)
    assert len(statements(desk)) == 1
