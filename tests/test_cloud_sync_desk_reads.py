"""Titles, log and alarms as the API tells them: pages, words, proofs, tenants and branches apart."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from casekit import Desk, account, copy_to_tenant, open_desk
from cloudkit import START_MS, TENANT

from cloud_sync.access import Principal
from cloud_sync.collector import Message
from cloud_sync.errors import BadCursor, BadRequest, NotFound
from cloud_sync.ledger.vin import Market
from cloud_sync.runtime import audit, desk_reads, titles
from cloud_sync.runtime.serve.schemas import (
    AlarmList,
    LogEntries,
    LogProof,
    LogState,
    TitleDetail,
    TitleList,
)  # fmt: skip
from edge.merkle import leaf_hash, verify_inclusion
from edge.note import verify_checkpoint

LI, CHEN, PARTNER = account("li"), account("chen", "auditor"), account("p", "partner")
VIN, OTHER_VIN = "WDB1110011A000006", "WVWZZZ1JZ3W386752"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path) as made:
        yield made


def title_list(desk: Desk, who: Principal = LI, **filters: Any) -> TitleList:
    return TitleList.model_validate(desk_reads.titles(desk.store.db, who, now_ms=START_MS, **filters))


def pledged(desk: Desk, vin: str = VIN, device: str = "car-1") -> str:
    told = titles.pledge_for_demo(desk.kit.config_path, vin=vin, device=device, tyres=())
    return str(told["token"])


def minted(desk: Desk, vin: str = OTHER_VIN) -> str:
    with titles.open_desk(desk.kit.config_path) as office:
        return str(office.mint(vin, Market.EU, "Zhang San", "", "registry")["token"])


def test_titles_the_gravest_first_with_their_counts(desk: Desk) -> None:
    free, locked = minted(desk), pledged(desk)
    answer = title_list(desk)
    assert [(row.token, row.state, row.locked) for row in answer.items] == [
        (locked, "PLEDGED", True), (free, "FREE", False),
    ]  # fmt: skip
    assert (answer.items[0].lender, answer.items[0].guarantor) == ("lender", "guarantor")
    assert answer.items[0].devices == ["car-1"] and answer.items[1].devices == []
    assert answer.counts["PLEDGED"] == 1 and answer.counts["FREE"] == 1 and answer.total == 2
    desk.open("car-1")
    assert title_list(desk).items[0].state == "ALERT"


def test_titles_filtered_and_paged(desk: Desk) -> None:
    free, locked = minted(desk), pledged(desk)
    assert [row.token for row in title_list(desk, state=["FREE"]).items] == [free]
    assert (
        title_list(desk, state=["FREE"]).total == 1
        and title_list(desk, state=["FREE"]).counts["PLEDGED"] == 1
    )
    assert [row.token for row in title_list(desk, q=free[:8].upper()).items] == [free]
    assert [row.token for row in title_list(desk, q="car-").items] == [locked]
    assert title_list(desk, q="%").items == [] and title_list(desk, q=free[1:9]).items == []
    first = title_list(desk, limit=1)
    second = title_list(desk, limit=1, cursor=first.next)
    assert [row.token for row in first.items + second.items] == [locked, free] and second.next is None
    with pytest.raises(BadCursor):
        title_list(desk, limit=1, cursor=first.next, q="car")
    with pytest.raises(BadCursor):
        title_list(desk, account("li", tenant="rival"), cursor=first.next)
    for bad in ({"limit": 0}, {"limit": 501}, {"state": ["STOLEN"]}, {"q": "x" * 81}, {"q": "a\nb"}):
        with pytest.raises(BadRequest):
            title_list(desk, **bad)


def test_a_title_gives_its_words_to_those_who_may_read_them(desk: Desk) -> None:
    token = pledged(desk)
    desk.sequencer.step()
    for who in (LI, CHEN):
        detail = TitleDetail.model_validate(desk_reads.title(desk.store.db, who, token))
        assert (detail.owner, detail.loan) == ("demo owner", "demo loan 1")
        assert [step.state for step in detail.steps] == ["FREE", "PROPOSED", "PROPOSED", "PLEDGED"]
        assert all(step.log_index is not None for step in detail.steps)
    for role in ("partner", "technician"):
        detail = TitleDetail.model_validate(desk_reads.title(desk.store.db, account("x", role), token))
        assert detail.owner is None and detail.loan is None and len(detail.steps) == 4
        assert "demo" not in repr(detail)


@pytest.mark.parametrize("token", ["", "ab", "ab" * 32, "AB" * 32, "../../etc", "ab" * 32 + "\n"])
def test_a_title_that_is_not_there(desk: Desk, token: str) -> None:
    pledged(desk)
    with pytest.raises(NotFound, match="there is no such title"):
        desk_reads.title(desk.store.db, LI, token)


def test_titles_of_others_are_not_there(desk: Desk) -> None:
    free, locked = minted(desk), pledged(desk)
    desk.card("car-1", branch="North")
    rival, north = account("li", tenant="rival"), account("li", branches="North")
    south = account("li", branches="South East")
    assert title_list(desk, rival).items == [] and title_list(desk, rival).total == 0
    assert [row.token for row in title_list(desk, north).items] == [locked]
    assert title_list(desk, north, q="car").total == 1 and title_list(desk, north).counts["FREE"] == 0
    assert title_list(desk, south).items == []
    assert desk_reads.title(desk.store.db, north, locked)["title"]["devices"] == ["car-1"]
    for who, token in ((rival, locked), (south, locked), (north, free)):
        with pytest.raises(NotFound):
            desk_reads.title(desk.store.db, who, token)


def test_the_state_of_the_log(desk: Desk) -> None:
    empty = LogState.model_validate(desk_reads.log_state(desk.store.db, START_MS))
    assert (empty.size, empty.checkpoint, empty.made_at, empty.cosigners) == (0, "", None, [])
    desk.open()
    desk.act(LI, desk.open("car-2"), "acknowledge")
    state = LogState.model_validate(desk_reads.log_state(desk.store.db, START_MS))
    assert (state.size, state.pending, state.cosigners) == (2, 1, [])
    seen = verify_checkpoint(state.checkpoint.encode(), state.origin or "", base64.b64decode(state.log_key))
    assert (seen.size, seen.root.hex()) == (2, state.root)


def test_entries_newest_first_and_what_they_are(desk: Desk) -> None:
    token = pledged(desk)
    desk.act(LI, desk.open(), "acknowledge")
    audit.note(desk.store, LI, audit.EVIDENCE_EXPORT, "car-1", "x", "case 7", desk.key, START_MS)
    desk.sequencer.step()
    answer = entries(desk)
    size = desk.store.size()
    assert [row.index for row in answer.items] == list(range(size - 1, -1, -1))
    said = {(row.kind, row.type, row.device) for row in answer.items}
    assert {
        ("segment", None, "car-1"), ("statement", "case", "car-1"), ("statement", "access", "car-1"),
        ("statement", "binding", "car-1"), ("statement", "title", None),
    } == said  # fmt: skip
    assert all(row.at is not None and not row.erased for row in answer.items)
    assert token not in repr(answer)


def entries(desk: Desk, who: Principal = LI, **more: Any) -> LogEntries:
    return LogEntries.model_validate(desk_reads.log_entries(desk.store.db, who, now_ms=START_MS, **more))


def test_entries_page(desk: Desk) -> None:
    desk.open()
    desk.open(number=2)
    desk.open(number=3)
    found, cursor = [], None
    while True:
        page = entries(desk, cursor=cursor, limit=2)
        found += [row.index for row in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert found == [2, 1, 0]
    with pytest.raises(BadCursor):
        entries(desk, account("x", tenant="rival"), cursor=entries(desk, limit=1).next)
    with pytest.raises(BadRequest):
        entries(desk, limit=0)


def test_of_another_tenants_entry_there_is_a_hash(desk: Desk) -> None:
    desk.act(LI, desk.open(), "note", "His name is Zhang.")
    desk.sequencer.step()
    seen = entries(desk, account("x", tenant="rival"))
    assert {(row.kind, row.type, row.device, row.at, row.erased) for row in seen.items} == {
        ("other tenant", None, None, None, False)
    }
    assert [row.hash for row in seen.items] == [row.hash for row in entries(desk).items]


def test_entries_of_other_branches_name_no_device(desk: Desk) -> None:
    desk.act(LI, desk.open("car-1"), "acknowledge")
    desk.open("car-2")
    desk.card("car-1", branch="North")
    desk.sequencer.step()
    seen = entries(desk, account("x", branches="North"))
    assert {row.device for row in seen.items} == {"car-1", None}


def test_an_erased_entry_says_so(desk: Desk) -> None:
    desk.act(LI, desk.open(), "acknowledge")
    desk.sequencer.step()
    with desk.store.transaction() as db:
        db.execute("UPDATE bodies SET data = NULL")
    assert [(row.kind, row.device, row.erased) for row in entries(desk).items] == [
        ("statement", None, True), ("segment", "car-1", True),
    ]  # fmt: skip


def test_every_proof_leads_to_the_root_that_was_signed(desk: Desk) -> None:
    with pytest.raises(NotFound, match="no signed checkpoint"):
        desk_reads.log_proof(desk.store.db, 0)
    device = desk.device()
    desk.intake.process(device.messages(300, 1))
    state = desk_reads.log_state(desk.store.db, START_MS)
    for index in (0, 1, 255, 256, 299):
        proof = LogProof.model_validate(desk_reads.log_proof(desk.store.db, index))
        nodes = tuple(bytes.fromhex(node) for node in proof.proof)
        leaf = leaf_hash(bytes.fromhex(proof.entry))
        verify_inclusion(index, proof.size, leaf, nodes, bytes.fromhex(proof.root))
        assert (proof.size, proof.root, proof.checkpoint) == (300, state["root"], state["checkpoint"])
    for index in (-1, 300, 10**18):
        with pytest.raises(NotFound, match="has 300 entries: the last is 299"):
            desk_reads.log_proof(desk.store.db, index)


def test_alarms_in_groups_with_what_to_do(desk: Desk) -> None:
    first, second = desk.device(), desk.kit.device("car-1")
    desk.tell(first.event())
    fork = second.seal([second.event(), second.event()])
    stranger = Message(first.topic, b"rubbish")
    desk.intake.process([second.message(fork), stranger, Message("fund/car-2/seg/x", b"!")])
    answer = AlarmList.model_validate(desk_reads.alarms(desk.store.db, LI, START_MS))
    assert [(row.device, row.kind, row.count) for row in answer.alarms] == [("car-1", "chain_fork", 1)]
    assert answer.quarantine and all(row.remedy for row in (*answer.alarms, *answer.quarantine))
    assert answer.left_out == 0
    rival = AlarmList.model_validate(desk_reads.alarms(desk.store.db, account("x", tenant="rival"), START_MS))
    assert rival.alarms == [] and rival.quarantine == []
    desk.card("car-1", branch="North")
    south = desk_reads.alarms(desk.store.db, account("x", branches="South"), START_MS)
    assert south["alarms"] == [] and south["quarantine"] == []
    north = desk_reads.alarms(desk.store.db, account("x", branches="North South"), START_MS)
    assert [row["device"] for row in north["alarms"]] == ["car-1"]


def test_a_flood_of_alarms_is_counted_not_listed(desk: Desk) -> None:
    with desk.store.transaction() as db:
        db.executemany(
            "INSERT INTO alarms(tenant, device, kind, raised_ms, detail) VALUES(?, ?, 'chain_fork', ?, 'x')",
            [(TENANT, f"ghost-{n}", START_MS + n) for n in range(desk_reads.LISTED + 7)],
        )
    answer = desk_reads.alarms(desk.store.db, LI, START_MS)
    assert len(answer["alarms"]) == desk_reads.LISTED and answer["left_out"] == 7
    assert answer["alarms"][0]["device"] == f"ghost-{desk_reads.LISTED + 6}"


def test_titles_of_two_tenants_stand_apart(desk: Desk) -> None:
    pledged(desk)
    copy_to_tenant(desk, "rival", "title_state")
    desk.open("car-1")
    rival = title_list(desk, account("x", tenant="rival"))
    assert [row.state for row in rival.items] == ["PLEDGED"] and rival.items[0].devices == []
    assert title_list(desk).items[0].state == "ALERT"


def test_titles_of_a_branch(desk: Desk) -> None:
    minted(desk)
    locked = pledged(desk)
    desk.open("car-1")
    with pytest.raises(BadRequest, match="no branch"):
        title_list(desk, branch="North")
    desk.card("car-1", branch="North")
    desk.card("car-2", branch="South")
    assert [row.token for row in title_list(desk, branch="North").items] == [locked]
    assert title_list(desk, branch="South").items == []
    assert title_list(desk, branch="North", q="car-2").items == []
    north = account("n", branches="North")
    assert [row.token for row in title_list(desk, north, branch="North").items] == [locked]
    with pytest.raises(BadRequest, match="no branch"):
        title_list(desk, north, branch="South")


def test_the_log_of_one_device(desk: Desk) -> None:
    incident = desk.open("car-1")
    desk.open("car-2")
    desk.act(LI, incident, "acknowledge")
    audit.note(desk.store, LI, audit.EXACT_POSITION, "car-1", "w", "case 7", desk.key, START_MS)
    desk.sequencer.step()

    def found(device: str | None, who: Principal = LI, **more: Any) -> LogEntries:
        page = desk_reads.log_entries(desk.store.db, who, device=device, now_ms=START_MS, **more)
        return LogEntries.model_validate(page)

    assert {row.device for row in found(None).items} == {"car-1", "car-2"}
    mine = found("car-1").items
    assert {row.device for row in mine} == {"car-1"}
    assert sorted(row.type or row.kind for row in mine) == ["access", "case", "segment"]
    first = found("car-1", limit=1)
    assert [row.index for row in found("car-1", limit=9, cursor=first.next).items] == [
        row.index for row in mine[1:]
    ]
    with pytest.raises(BadCursor):
        found("car-2", limit=1, cursor=first.next)
    assert found("nobody").items == []
    desk.card("car-1", branch="North")
    assert found("car-1", account("s", branches="South")).items == []
    assert len(found("car-1", account("n", branches="North")).items) == 3
    assert found("car-1", account("r", tenant="rival")).items == []


def test_alarms_page_by_page(desk: Desk) -> None:
    with desk.store.transaction() as db:
        for number in range(5):
            db.execute(
                "INSERT INTO alarms(tenant, device, kind, detail, raised_ms)"
                " VALUES(?, ?, 'chain_fork', 'd', ?)",
                (TENANT, f"car-{number}", START_MS + number // 2),
            )

    def page(limit: int, cursor: str | None = None, who: Principal = LI) -> AlarmList:
        value = desk_reads.alarms(desk.store.db, who, START_MS, limit=limit, cursor=cursor)
        return AlarmList.model_validate(value)

    whole = [row.device for row in page(500).alarms]
    assert len(whole) == 5 and page(500).next is None
    seen: list[str] = []
    cursor: str | None = None
    for left in (3, 1, 0):
        one = page(2, cursor)
        seen += [row.device for row in one.alarms]
        cursor = one.next
        assert one.left_out == left
    assert seen == whole and cursor is None
    with pytest.raises(BadCursor):
        page(2, page(2).next, account("r", tenant="rival"))
    with pytest.raises(BadRequest):
        page(0)
