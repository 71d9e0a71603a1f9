"""The audit: signed where an exact track was touched, paged, of one tenant, and never half written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from casekit import Desk, account, open_desk
from cloudkit import START_MS, TENANT

from cloud_sync.access import Principal, scopes_of
from cloud_sync.errors import BadCursor, BadRequest, Denied, StoreError
from cloud_sync.evidence.verify import verify
from cloud_sync.runtime import audit, bundles
from cloud_sync.runtime.audit import AccessKey
from cloud_sync.runtime.serve.schemas import AuditList
from cloud_sync.runtime.store import Store
from cloud_sync.statement import ACCESS, Statement, parse_statement
from firmware_bridge.wire import cose

LI, CHEN = account("li"), account("chen", "auditor")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path) as made:
        yield made


def note(desk: Desk, who: Principal = LI, device: str = "car-1", purpose: str = "case 7", **more: Any) -> int:
    return audit.note(
        desk.store, who, audit.EXACT_POSITION, device, "the whole track", purpose, desk.key, START_MS, **more
    )


def rows(desk: Desk, who: Principal = CHEN, cursor: str | None = None, limit: int = 50) -> AuditList:
    return AuditList.model_validate(audit.rows(desk.store.db, who, cursor, limit, now_ms=START_MS))


def statements(desk: Desk) -> list[Statement]:
    public = desk.key.public_key()
    found = desk.store.db.execute(
        "SELECT b.data FROM statements s JOIN bodies b ON b.hash = s.hash WHERE s.type = ? ORDER BY s.id",
        (ACCESS,),
    )
    return [parse_statement(row[0], {cose.key_id(public): public}.get) for row in found]


def test_an_entry_is_a_statement_of_the_log(desk: Desk) -> None:
    token = Principal(TENANT, 1, "li", "operator", scopes_of("operator", False), frozenset(), token="t1")
    assert (note(desk), note(desk, token)) == (1, 2)
    assert desk.sequencer.step() == 2
    (second, first) = rows(desk).items
    assert (first.number, first.account, first.action, first.device) == (1, "li", "exact_position", "car-1")
    assert (first.what, first.purpose, first.at) == ("the whole track", "case 7", "2026-12-01T04:40:00.000Z")
    assert (first.log_index, second.log_index) == (0, 1)
    made = statements(desk)
    assert [one.hash.hex() for one in made] == [first.statement, second.statement]
    assert made[0].body == {
        AccessKey.DEVICE: "car-1", AccessKey.ACTION: "exact_position", AccessKey.ACCOUNT: ["li", "operator"],
        AccessKey.WHAT: ["the whole track"], AccessKey.PURPOSE: ["case 7"],
    }  # fmt: skip
    assert made[1].body[AccessKey.ACCOUNT] == ["li", "operator", "t1"]


def test_unsigned_entries_stand_in_the_table_alone(desk: Desk) -> None:
    audit.note(desk.store, LI, "account_changed", None, "wang: role", "", None, START_MS, signed=False)
    with desk.store.transaction() as db:
        audit.note_account(
            db, TENANT, "mallory\x1b[2J\n" + "x" * 200, "login_failed", "from 127.0.0.1", START_MS
        )
    failed, changed = rows(desk).items
    assert (changed.action, changed.statement, changed.log_index, changed.device) == (
        "account_changed", None, None, None,
    )  # fmt: skip
    assert failed.account.isprintable() and len(failed.account) == 80
    assert desk.sequencer.step() == 0 and not statements(desk)


@pytest.mark.parametrize("purpose", ["", "  ", "x", "\n\t\x00y"])
def test_a_signed_entry_needs_a_purpose(desk: Desk, purpose: str) -> None:
    with pytest.raises(BadRequest, match="what it is needed for"):
        note(desk, purpose=purpose)
    assert not rows(desk).items and not statements(desk)


def test_what_cannot_be_signed_is_a_mistake_of_the_caller(desk: Desk) -> None:
    for device, key in ((None, desk.key), ("car-1", None)):
        with pytest.raises(ValueError, match="names a device and has a key"):
            audit.note(desk.store, LI, "evidence_export", device, "x", "case 7", key, START_MS)
    assert not rows(desk).items


def test_long_texts_are_cut_and_stay_on_one_line(desk: Desk) -> None:
    note(desk, purpose="because\r\nof\tthis " + "y" * 500)
    (row,) = rows(desk).items
    assert row.purpose.startswith("because of this y") and len(row.purpose) == 200


def test_a_crash_leaves_neither_row_nor_statement(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(store: Store) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", fails)
        with pytest.raises(StoreError):
            note(desk)
    assert not rows(desk).items and not statements(desk) and desk.sequencer.step() == 0


def test_pages_newest_first(desk: Desk) -> None:
    for n in range(5):
        note(desk, purpose=f"case {n}")
    found, cursor = [], None
    while True:
        page = rows(desk, cursor=cursor, limit=2)
        found += [row.purpose for row in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert found == ["case 4", "case 3", "case 2", "case 1", "case 0"]


def test_only_auditors_of_the_tenant_read_it(desk: Desk) -> None:
    note(desk)
    for role in ("operator", "technician", "partner"):
        with pytest.raises(Denied):
            rows(desk, account("x", role))
    assert rows(desk, account("x", "auditor", tenant="rival")).items == []
    manager = Principal(TENANT, 2, "boss", "operator", scopes_of("operator", True), frozenset())
    assert len(rows(desk, manager).items) == 1


def test_an_auditor_of_branches_reads_of_their_vehicles(desk: Desk) -> None:
    desk.card("car-1", branch="North")
    desk.card("car-2", branch="South")
    note(desk, device="car-1")
    note(desk, device="car-2")
    audit.note(desk.store, LI, "login", None, "", "", None, START_MS, signed=False)
    seen = rows(desk, account("x", "auditor", branches="North")).items
    assert [(row.action, row.device) for row in seen] == [("login", None), ("exact_position", "car-1")]


@pytest.mark.parametrize("limit", [0, -1, 501, 10**9])
def test_absurd_limits(desk: Desk, limit: int) -> None:
    with pytest.raises(BadRequest, match="limit is 1"):
        rows(desk, limit=limit)


def test_a_cursor_of_another_tenant_or_list_is_refused(desk: Desk) -> None:
    note(desk)
    note(desk)
    cursor = rows(desk, limit=1).next
    assert cursor is not None
    for who in (account("x", "auditor", tenant="rival"), account("x", "auditor", branches="North")):
        with pytest.raises(BadCursor):
            rows(desk, who, cursor)
    with pytest.raises(BadCursor):
        rows(desk, cursor=cursor + "A")


def test_the_bundle_of_the_vehicle_says_who_looked(desk: Desk, tmp_path: Path) -> None:
    desk.open("car-1")
    desk.open("car-2")
    note(desk, device="car-1")
    note(desk, device="car-2", purpose="car-1")
    desk.sequencer.step()
    out = bundles.export(desk.store, TENANT, "car-1", tmp_path / "car-1.hfb")
    report = verify(out.read_bytes(), desk.kit.trust)
    assert report.ok and report.titles == [
        "2026-12-01T04:40:00.000Z access: car-1, exact_position, li, operator, the whole track, case 7"
    ]


def test_entries_by_what_an_auditor_asks_for(desk: Desk) -> None:
    other = account("wang")
    note(desk)
    audit.note(
        desk.store, other, audit.EVIDENCE_EXPORT, "car-2", "bundle", "case 8", desk.key, START_MS + 1000
    )
    with desk.store.transaction() as db:
        audit.note_account(db, TENANT, "wang", "login", "", START_MS + 2000)

    def found(**filters: Any) -> list[int]:
        page = audit.rows(desk.store.db, CHEN, None, 50, now_ms=START_MS, **filters)
        return [row["number"] for row in page["items"]]

    assert found() == [3, 2, 1]
    assert found(account="wang") == [3, 2] and found(account="wan") == []
    assert found(action="login") == [3] and found(device="car-1") == [1]
    assert found(from_ms=START_MS + 1000) == [3, 2] and found(to_ms=START_MS + 1000) == [1]
    assert found(account="wang", device="car-2", from_ms=START_MS, to_ms=START_MS + 2000) == [2]
    with pytest.raises(BadRequest, match="later"):
        found(from_ms=2, to_ms=1)
    cursor = audit.rows(desk.store.db, CHEN, None, 1, account="wang", now_ms=START_MS)["next"]
    rest = audit.rows(desk.store.db, CHEN, cursor, 1, account="wang", now_ms=START_MS)
    assert [row["number"] for row in rest["items"]] == [2]
    with pytest.raises(BadCursor):
        audit.rows(desk.store.db, CHEN, cursor, 1, now_ms=START_MS)


def test_a_statement_that_no_checkpoint_covers_yet_says_so(desk: Desk) -> None:
    note(desk)
    with desk.store.transaction() as db:
        audit.note_account(db, TENANT, "wang", "login", "", START_MS)
    login, access = rows(desk).items
    assert access.awaiting_checkpoint and access.log_index is None
    assert not login.awaiting_checkpoint, "an unsigned entry waits for nothing"
    desk.sequencer.step()
    assert not rows(desk).items[1].awaiting_checkpoint
    with desk.store.transaction() as db:
        db.execute("UPDATE checkpoints SET note = NULL")
    assert rows(desk).items[1].awaiting_checkpoint, "in the tree, but nobody has signed that"
