"""Titles in the collector's database: races, statements in the log, secrets, tenants, bindings."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_sync.errors import CloudError, ConfigError, StoreBusy
from cloud_sync.ledger.engine import Call, TitleKey
from cloud_sync.ledger.errors import Conflict, NotAllowed, Refused, VinError, WrongState
from cloud_sync.ledger.vin import Market
from cloud_sync.runtime import title_state, titles
from cloud_sync.runtime.sequencer import Published, Sequencer
from cloud_sync.runtime.store import Store
from cloud_sync.runtime.titles import Desk
from cloud_sync.statement import BINDING, TITLE, parse_statement
from edge.errors import FormatError
from provisioning.runtime.lab import make_lab

KEY = ec.generate_private_key(ec.SECP256R1())
VIN, VIN2 = "LTESTAAA5N0000001", "LTESTAAAXN0000009"
TYRES = ("a1b2c3d4", "a1b2c3d5")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.db") as opened:
        yield opened


@pytest.fixture
def desk(store: Store, tmp_path: Path) -> Desk:
    return make_desk(store, tmp_path)


def make_desk(store: Store, folder: Path, tenant: str = "fund-a", start_ms: int = 1_800_000_000_000) -> Desk:
    ticks = iter(range(start_ms, start_ms + 1_000_000, 1000))
    return Desk(store, tenant, folder, KEY, lambda: next(ticks))


def mint(desk: Desk, vin: str = VIN) -> str:
    return str(desk.mint(vin, Market.CN, "Wang Wei", "", "registry")["token"])


def pledge(desk: Desk, vin: str = VIN, loan: str = "4711") -> str:
    token = mint(desk, vin)
    desk.propose(token, loan, "bank")
    desk.consent(token, loan, "fund", "guarantor")
    assert desk.consent(token, loan, "registry", "registry")["state"] == "PLEDGED"
    return token


def bodies(store: Store, tenant: str = "fund-a") -> list[bytes]:
    rows = store.db.execute(
        "SELECT b.data FROM pending p JOIN bodies b ON b.hash = p.hash WHERE p.tenant = ? ORDER BY p.id",
        (tenant,),
    )
    return [bytes(row[0]) for row in rows]


def test_every_transition_is_a_signed_statement_waiting_for_the_log(store: Store, desk: Desk) -> None:
    token = pledge(desk)
    desk.release(token, "bank")
    said = [parse_statement(data, lambda kid: KEY.public_key()) for data in bodies(store)]
    assert [one.type for one in said] == [TITLE] * 5
    assert [one.body[TitleKey.TO] for one in said] == ["FREE", "PROPOSED", "PROPOSED", "PLEDGED", "FREE"]
    listed = desk.show(token)["transitions"]
    assert [step["statement"] for step in listed] == [one.hash.hex() for one in said]
    assert [step["events"] for step in listed] == [["Transfer"], [], [], ["Locked"], ["Unlocked"]]


def test_the_sequencer_logs_them(store: Store, desk: Desk, tmp_path: Path) -> None:
    pledge(desk)
    key = Ed25519PrivateKey.generate()
    sequencer = Sequencer(store, "log.example/t", key, Published(tmp_path / "published"), lambda: 1)
    assert sequencer.step() == 4
    assert store.size() == 4
    assert bodies(store) == []


def test_neither_vin_nor_names_stand_in_state_or_log(store: Store, desk: Desk) -> None:
    token = pledge(desk)
    desk.bind(token, "vehicle-1", TYRES)
    secret = [VIN.encode(), b"Wang Wei", b"4711"]
    state = b"".join(bytes(row[0]) for row in store.db.execute("SELECT value FROM title_state"))
    events = "".join(str(row) for row in store.db.execute("SELECT * FROM title_events")).encode()
    for text in secret:
        assert text not in state + events + b"".join(bodies(store))
    for (table,) in store.db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        rows = store.db.execute(f"SELECT * FROM {table}").fetchall()
        assert VIN not in repr(rows), table
        assert table == "title_private" or "Wang Wei" not in repr(rows), table


def test_one_vehicle_one_title_whatever_the_spelling(desk: Desk) -> None:
    token = mint(desk)
    for spelled in (VIN.lower(), f" {VIN} ", f"{VIN[:3]}-{VIN[3:8]} {VIN[8:]}"):
        with pytest.raises(WrongState, match="already has a title"):
            mint(desk, spelled)
        assert desk.token(spelled) == token
    with pytest.raises(WrongState, match="already has a title"):
        desk.mint(VIN, Market.EU, "another", "", "registry-2")
    with pytest.raises(VinError):
        mint(desk, "11111111111111111")
    assert len(desk.list()) == 1


def test_a_refused_call_leaves_no_statement_and_no_words(store: Store, desk: Desk) -> None:
    token = pledge(desk)
    before = bodies(store)
    with pytest.raises(WrongState):
        desk.transfer(token, "Mallory", "registry")
    with pytest.raises(WrongState):
        desk.propose(token, "4712", "bank-2")
    with pytest.raises(NotAllowed):
        desk.release(token, "bank-2")
    assert bodies(store) == before
    assert (desk.show(token)["owner"], desk.show(token)["loan"]) == ("Wang Wei", "4711")


def test_html_and_odd_names_are_only_data(store: Store, desk: Desk) -> None:
    owner = "<script>alert('x')</script>'; DROP TABLE title_state; --"
    token = str(desk.mint(VIN, Market.CN, owner, "<a href=x>", "registry")["token"])
    shown = desk.show(token)
    assert (shown["owner"], shown["uri"]) == (owner, "<a href=x>")
    assert json.loads(json.dumps(shown)) == shown
    assert b"script" not in b"".join(bodies(store))


@pytest.mark.parametrize("owner", ["", "x" * 201, "a\x1b[2Jb", "line\nline", "\x00"])
def test_impossible_words_undo_the_whole_transition(store: Store, desk: Desk, owner: str) -> None:
    with pytest.raises(Refused, match="printable"):
        desk.mint(VIN, Market.CN, owner, "", "registry")
    assert desk.list() == []
    assert bodies(store) == []


def test_a_failing_log_undoes_the_transition(store: Store, desk: Desk) -> None:
    token = mint(desk)
    store.db.execute("CREATE TRIGGER full BEFORE INSERT ON pending BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(CloudError):
        desk.propose(token, "4711", "bank")
    assert desk.show(token)["state"] == "FREE"
    assert len(desk.show(token)["transitions"]) == 1
    store.db.execute("DROP TRIGGER full")
    assert desk.propose(token, "4711", "bank")["state"] == "PROPOSED"


def test_a_read_only_store_says_so(tmp_path: Path, store: Store, desk: Desk) -> None:
    token = mint(desk)
    with Store(tmp_path / "store.db", read_only=True) as reader:
        other = make_desk(reader, tmp_path)
        assert other.show(token)["state"] == "FREE"
        with pytest.raises(StoreBusy):
            other.propose(token, "4711", "bank")


def test_a_lost_race_is_run_again_on_what_the_winner_left(store: Store, tmp_path: Path) -> None:
    desk = make_desk(store, tmp_path)
    token = mint(desk)
    calls = [Call("ProposeLien", (token, f"{n}" * 64), f"bank-{n}", "lender", 1) for n in (1, 2)]
    with Store(tmp_path / "store.db") as rival:
        interrupted: list[bool] = []

        class Slow(Store):
            """Lets the rival in between the simulation and the transaction, once."""

            def transaction(self) -> Any:
                if not interrupted:
                    interrupted.append(True)
                    titles.submit(rival, "fund-a", calls[1], KEY)
                return super().transaction()

        with Slow(tmp_path / "store.db") as slow, pytest.raises(WrongState, match="PROPOSED"):
            titles.submit(slow, "fund-a", calls[0], KEY)
    assert interrupted
    assert desk.show(token)["lender"] == "bank-2"


def test_endless_races_end_in_a_conflict(store: Store, tmp_path: Path) -> None:
    desk = make_desk(store, tmp_path)
    token = pledge(desk)
    rounds: list[int] = []
    with Store(tmp_path / "store.db") as rival:

        class Unlucky(Store):
            """Somebody else reports evidence before each of its transactions."""

            def transaction(self) -> Any:
                rounds.append(1)
                evidence = f"{len(rounds):064x}"
                call = Call("ReportAlert", (token, evidence, "jammed"), "collector", "oracle", 1)
                titles.submit(rival, "fund-a", call, KEY)
                return super().transaction()

        call = Call("ReportAlert", (token, "f" * 64, "jammed"), "collector", "oracle", 1)
        with Unlucky(tmp_path / "store.db") as slow, pytest.raises(Conflict, match="lost 5 races"):
            titles.submit(slow, "fund-a", call, KEY)
    assert len(rounds) == titles.ATTEMPTS
    assert "f" * 64 not in desk.show(token)["evidence"]


def race(path: Path, token: str, n: int, gate: Any, results: Any) -> None:
    """One bank that wants the vehicle, in its own thread or process."""
    with Store(path) as store:
        call = Call("ProposeLien", (token, f"{n:064x}"), f"bank-{n}", "lender", 1)
        gate.wait()
        try:
            titles.submit(store, "fund-a", call, KEY)
            results.put((n, "won"))
        except WrongState:
            results.put((n, "lost"))


def check_race(store: Store, desk: Desk, token: str, outcomes: list[tuple[int, str]]) -> None:
    winners = [n for n, outcome in outcomes if outcome == "won"]
    assert len(winners) == 1, outcomes
    assert desk.show(token)["lender"] == f"bank-{winners[0]}"
    assert len(desk.show(token)["transitions"]) == 2
    assert len(bodies(store)) == 2


def test_of_two_threads_exactly_one_pledges(store: Store, tmp_path: Path) -> None:
    import queue

    desk = make_desk(store, tmp_path)
    token = mint(desk)
    gate, results = threading.Barrier(2), queue.SimpleQueue[tuple[int, str]]()
    threads = [
        threading.Thread(target=race, args=(tmp_path / "store.db", token, n, gate, results)) for n in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    check_race(store, desk, token, [results.get(timeout=1) for _ in range(2)])


def test_of_four_processes_exactly_one_pledges(store: Store, tmp_path: Path) -> None:
    desk = make_desk(store, tmp_path)
    token = mint(desk)
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(4), context.Queue()
    children = [
        context.Process(target=race, args=(tmp_path / "store.db", token, n, gate, results)) for n in range(4)
    ]
    for child in children:
        child.start()
    outcomes = [results.get(timeout=30) for _ in range(4)]
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0] * 4
    check_race(store, desk, token, outcomes)


def test_tenants_stay_apart(store: Store, tmp_path: Path) -> None:
    one, other = make_desk(store, tmp_path, "fund-a"), make_desk(store, tmp_path, "fund-b")
    token = pledge(one)
    assert other.list() == []
    with pytest.raises(WrongState, match="no title"):
        other.show(token)
    with pytest.raises(WrongState, match="0 titles begin"):
        other.token(token[:16])
    theirs = mint(other)
    assert theirs != token, "each tenant has a key of its own"
    other.bind(theirs, "vehicle-1", TYRES)
    assert one.show(token)["devices"] == []
    assert title_state.bound_token(store.db, "fund-a", "vehicle-1") is None
    assert len(bodies(store, "fund-b")) == 2


def test_a_device_cannot_be_led_away_from_a_pledge(store: Store, desk: Desk) -> None:
    pledged, free = pledge(desk), mint(desk, VIN2)
    desk.bind(pledged, "vehicle-1", TYRES)
    with pytest.raises(WrongState, match="another pledged vehicle"):
        desk.bind(free, "vehicle-1", [])
    assert title_state.bound_token(store.db, "fund-a", "vehicle-1") == pledged
    desk.bind(pledged, "vehicle-1", TYRES[:1])
    desk.release(pledged, "bank")
    desk.bind(free, "vehicle-1", [])
    assert desk.show(free)["devices"] == ["vehicle-1"]
    said = [parse_statement(data, lambda kid: KEY.public_key()) for data in bodies(store)]
    bound = [one.body for one in said if one.type == BINDING]
    assert bound == [{1: bytes.fromhex(t), 2: "vehicle-1"} for t in (pledged, pledged, free)]


def test_bindings_that_cannot_be_meant(desk: Desk) -> None:
    token = mint(desk)
    with pytest.raises(WrongState, match="mint it first"):
        desk.bind("0" * 64, "vehicle-1", [])
    with pytest.raises(FormatError, match="not a tyre sensor id"):
        desk.bind(token, "vehicle-1", ["not hex"])
    with pytest.raises(Refused, match="at most 8"):
        desk.bind(token, "vehicle-1", [f"{n:08x}" for n in range(9)])
    with pytest.raises(Refused, match="device"):
        desk.bind(token, "Vehicle 1", [])
    assert desk.show(token)["devices"] == []


def test_a_token_prefix_must_mean_one_title(desk: Desk) -> None:
    token, other = mint(desk), mint(desk, VIN2)
    assert desk.token(token[:12].upper()) == token
    assert desk.token(f" {other} ") == other
    with pytest.raises(WrongState, match="0 titles"):
        desk.token("0" * 63 + "z0"[1:])
    with pytest.raises(VinError):
        desk.token("")
    common = next((n for n in range(64) if token[n] != other[n]), 64)
    if common:
        with pytest.raises(WrongState, match="2 titles"):
            desk.token(token[:common])


def test_questions_only_ask(desk: Desk, store: Store) -> None:
    token = mint(desk)
    assert title_state.ask(store.db, "fund-a", "TotalSupply") == 1
    with pytest.raises(Refused, match="not a question"):
        title_state.ask(store.db, "fund-a", "Tick", token)
    with pytest.raises(Refused, match="is a question"):
        titles.submit(store, "fund-a", Call("OwnerOf", (token,), "bank", "lender", 1), KEY)


def test_the_token_key_is_private_made_once_and_never_replaced(desk: Desk, tmp_path: Path) -> None:
    mint(desk)
    path = tmp_path / "token-fund-a.key"
    assert path.stat().st_mode & 0o777 == 0o600
    first = path.read_bytes()
    mint(desk, VIN2)
    assert path.read_bytes() == first
    assert [item.name for item in tmp_path.glob("token-*")] == [path.name]
    path.unlink()
    with pytest.raises(ConfigError, match="restore it"):
        desk.propose(desk.list()[0]["token"], "4711", "bank")
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "zz" * 32, "ab" * 31, "ab" * 33, "\x00"])
def test_a_damaged_token_key_is_named(desk: Desk, tmp_path: Path, text: str) -> None:
    (tmp_path / "token-fund-a.key").write_text(text)
    with pytest.raises(ConfigError, match=r"token-fund-a\.key"):
        mint(desk)


def test_a_key_folder_that_cannot_be_written_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write .*token-fund-a\.key"):
        mint(make_desk(store, tmp_path / "absent"))


def test_alert_cure_and_time_at_the_desk(store: Store, tmp_path: Path) -> None:
    desk = make_desk(store, tmp_path)
    token = pledge(desk)
    assert desk.alert(token, "1" * 64, "removed_or_opened", "collector")["state"] == "ALERT"
    with pytest.raises(WrongState, match="another 72 h"):
        desk.tick(token, "fund")
    assert desk.cure(token, "2" * 64, "collector")["state"] == "PLEDGED"
    assert desk.alert(token, "3" * 64, "removed_or_opened", "collector")["evidence"] == [
        "1" * 64, "2" * 64, "3" * 64,
    ]  # fmt: skip
    later = make_desk(store, tmp_path, start_ms=1_800_000_000_000 + 4 * 86_400_000)
    assert later.tick(token, "fund")["state"] == "DEFAULT"


def test_transfer_of_a_free_title(desk: Desk) -> None:
    token = mint(desk)
    assert desk.transfer(token, "Li Na", "registry")["owner"] == "Li Na"
    with pytest.raises(Refused, match="already belongs"):
        desk.transfer(token, "Li Na", "registry")


def test_pledge_for_demo_on_a_lab(tmp_path: Path) -> None:
    config = lab_config(tmp_path)
    title = titles.pledge_for_demo(config, vin="LHFDEM006N0000001", device="vehicle-1", tyres=TYRES)
    assert (title["state"], title["device"]) == ("PLEDGED", "vehicle-1")
    with titles.open_desk(config) as desk:
        assert [row["token"] for row in titles.list_titles(desk.store.db, "fund-a")] == [title["token"]]


def lab_config(tmp_path: Path) -> Path:
    lab = make_lab(tmp_path / "lab", "fund-a", [("vehicle-1", "vehicle")], "127.0.0.1")
    config = lab.collector / "collector.toml"
    config.write_text(
        '[collector]\ntenant = "fund-a"\norigin = "log.example/t"\n[mqtt]\nhost = "127.0.0.1"\nport = 1\n',
        "utf-8",
    )
    return config


def test_the_desk_needs_a_tenant(tmp_path: Path) -> None:
    config = lab_config(tmp_path)
    text = config.read_text("utf-8")
    config.write_text(text.replace('tenant = "fund-a"\n', ""), "utf-8")
    with pytest.raises(ConfigError, match="give --tenant"), titles.open_desk(config):
        pass
    with titles.open_desk(config, "fund-b") as desk:
        assert desk.list() == []
    with pytest.raises(ConfigError, match="give --tenant"), titles.open_desk(config, "Fund B"):
        pass
