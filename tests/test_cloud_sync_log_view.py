"""`holdfast log`, and what the collector says of what it refuses: device, reason, remedy, in bounds."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloudkit import START_MS, TENANT, Kit, make_kit
from typer.testing import CliRunner, Result

from cloud_sync import __main__ as cli
from cloud_sync.collector import REMEDIES, Message, Reason
from cloud_sync.runtime import log_view
from cloud_sync.runtime.collector_files import load_keys
from cloud_sync.runtime.collectord import Collector
from cloud_sync.runtime.erase import erase_month, signer
from cloud_sync.runtime.intake import Alarm, Intake, Outcome
from cloud_sync.runtime.said import printable
from cloud_sync.runtime.sequencer import Sequencer
from cloud_sync.runtime.store import Store
from edge.segment import Lost, Tombstone
from firmware_bridge.logline import BURST
from firmware_bridge.runtime.journal import Journal

Parts = tuple[Store, Sequencer, Intake]


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return make_kit(tmp_path / "lab")


@pytest.fixture
def parts(kit: Kit) -> Iterator[Parts]:
    with kit.collector() as made:
        yield made


def command(kit: Kit, *args: str) -> Result:
    return CliRunner().invoke(cli.log, ["--config", str(kit.config_path), *args])


def test_everything_that_was_refused_or_forked_is_shown_with_its_remedy(kit: Kit, parts: Parts) -> None:
    store, sequencer, intake = parts
    car, clone, other = kit.device("car-1"), kit.device("car-1"), kit.device("car-2")
    stranger = Message(car.topic.replace("car-1", "car-9"), car.seal().data)
    car.number, car.previous, car.seq = 0, "first start", 0
    intake.process([*car.messages(3), *other.messages(2)])
    intake.process([*clone.messages(1, events=5), stranger, stranger, Message("a\x1b[2J", b"x")])
    changes = store.db.total_changes
    value = json.loads(command(kit, "--json").stdout)
    assert store.db.total_changes == changes
    assert (value["log"]["size"], value["log"]["verified"]) == (sequencer.size, True)
    first, second = value["devices"]
    assert (first["device"], first["complete"], first["forks"]) == ("car-1", False, 1)
    assert "two devices use this identity" in first["missing"][0]
    assert (second["complete"], second["missing"], second["last_segment"]["number"]) == (True, [], 1)
    [alarm] = value["alarms"]
    assert (alarm["kind"], alarm["device"], alarm["count"]) == ("chain_fork", "car-1", 1)
    assert "revoke" in alarm["detail"]
    refused = {row["reason"]: row for row in value["quarantine"]}
    assert refused["unknown_device"]["count"] == 2 and refused["unknown_device"]["device"] == "car-9"
    assert "enrol" in refused["unknown_device"]["remedy"]
    assert refused["wrong_topic"]["tenant"] == ""
    shown = command(kit)
    assert shown.exit_code == 0
    assert "\x1b" not in shown.stdout and "\\x1b[2J" in shown.stdout
    for text in ("verified", "fund/car-9", REMEDIES[Reason.UNKNOWN_DEVICE], "revoke", "not complete"):
        assert text in shown.stdout, text


def test_a_tenant_is_shown_alone(kit: Kit, parts: Parts) -> None:
    _, _, intake = parts
    intake.process([*kit.device("car-1").messages(1), Message("nonsense", b"x")])
    value = json.loads(command(kit, "--tenant", "bank", "--json").stdout)
    assert (value["devices"], value["quarantine"]) == ([], [])
    value = json.loads(command(kit, "--tenant", TENANT, "--json").stdout)
    assert len(value["devices"]) == 1 and value["quarantine"] == []
    assert command(kit, "--tenant", "No Tenant").exit_code == 2


def test_what_is_missing_is_named_until_it_comes(kit: Kit, parts: Parts) -> None:
    store, _, intake = parts
    car = kit.device("car-1")
    messages = car.messages(5)
    intake.process([messages[0], messages[4]])
    [row] = log_view.view(store)["devices"]
    assert not row["complete"] and "segments 1 to 3 are missing" in row["missing"][0]
    intake.process(messages[1:4])
    assert log_view.view(store)["devices"][0]["complete"]


def test_a_run_without_its_beginning_is_not_complete(kit: Kit, parts: Parts) -> None:
    store, _, intake = parts
    intake.process(kit.device("car-1").messages(3)[1:])
    [row] = log_view.view(store)["devices"]
    assert not row["complete"] and "begins at segment 1" in row["missing"][0]


def test_what_the_device_itself_dropped_is_accounted_for(kit: Kit, parts: Parts) -> None:
    store, _, intake = parts
    car = kit.device("car-1")
    first, dropped = car.seal(), car.seal()
    stone = Tombstone(Lost.THINNED, car.run, 1, 1, 3, 0, 1, first.hash, dropped.hash)
    intake.process([car.message(first), car.message(car.seal(tombstones=[stone]))])
    assert log_view.view(store)["devices"][0]["complete"]


def test_an_erasure_is_named(kit: Kit, parts: Parts) -> None:
    store, sequencer, intake = parts
    intake.process(kit.device("car-1").messages(3))
    sign = signer(load_keys(kit.config).ledger, START_MS)
    erase_month(store, TENANT, "car-1", "2026-12", "order 17", sign=sign, wall_ms=START_MS)
    sequencer.step()
    value = log_view.view(store)
    assert value["log"]["verified"] and not value["devices"][0]["complete"]
    assert "3 segments were erased" in value["devices"][0]["missing"][0]


def test_an_invented_crowd_is_bounded_and_counted(
    kit: Kit, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, intake = parts
    monkeypatch.setattr(log_view, "LISTED", 3)
    intake.process([Message(f"hf/1/fund/x{n}/seg", b"x") for n in range(8)])
    value = json.loads(command(kit, "--json").stdout)
    assert len(value["quarantine"]) == 3 and value["left_out"]["quarantine"] == 5
    assert "5 older groups of quarantine" in command(kit).stdout


def test_a_folder_without_a_store_is_said_and_none_is_made(kit: Kit) -> None:
    for app, args in ((cli.log, []), (cli.erase, ["--device", "v", "--month", "2026-01", "--reason", "r"])):
        result = CliRunner().invoke(app, ["--config", str(kit.config_path), *args])
        assert result.exit_code == 1 and "has the collector run" in result.stderr, result.output
        assert not kit.config.store.exists()


def test_erasing_where_only_titles_are_kept_is_said(kit: Kit) -> None:
    with Store(kit.config.store):
        pass
    args = ["--config", str(kit.config_path), "--device", "v", "--month", "2026-01", "--reason", "r"]
    result = CliRunner().invoke(cli.erase, args)
    assert result.exit_code == 1 and "no collector has run" in result.stderr, result.output


# --- what is logged -----------------------------------------------------------------------------------


def test_every_reason_has_a_remedy() -> None:
    assert set(REMEDIES) == set(Reason)
    assert all(len(text) > 20 for text in REMEDIES.values())


def test_the_log_is_limited_by_reason_and_counts_what_it_left_out(kit: Kit) -> None:
    made, out = Collector(kit.config, None, None), io.StringIO()  # type: ignore[arg-type]
    journal = Journal("holdfast-collect", stream=out, form="json")
    logger = logging.getLogger("cloud_sync.collect")
    logger.addHandler(journal)
    crowd = {(TENANT, f"x{n}", Reason.MALFORMED): "bad\x1b[2J" + "y" * 5000 for n in range(100)}
    try:
        made._say(Outcome(refused=crowd, alarms=[Alarm(TENANT, "car-1", "chain_fork", "find the copy")]))
    finally:
        logger.removeHandler(journal)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["kind"] for line in lines] == ["quarantined"] * BURST + ["collector_alarm"], "not held back"
    assert "fund/x0" in lines[0]["text"] and lines[0]["text"].endswith(REMEDIES[Reason.MALFORMED])
    assert (lines[0]["device"], lines[0]["reason"]) == ("x0", "malformed")
    assert "fund/car-1" in lines[-1]["text"] and "find the copy" in lines[-1]["text"]
    assert all("\x1b" not in line["text"] and len(line["text"]) < 1000 for line in lines)
    journal.close()
    last = json.loads(out.getvalue().splitlines()[-1])
    assert (last["text"], last["reason"]) == (
        f"{100 - BURST} more of this kind were not written",
        "malformed",
    )


def test_printable() -> None:
    assert printable("a\x1b\u202e\nb") == "a\\x1b\\x202e\\x0ab"
    assert len(printable("\x00" * 10_000, 100)) == 100
    assert printable("é€") == "é€"
