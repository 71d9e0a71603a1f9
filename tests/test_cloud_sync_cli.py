"""The cloud's commands as an operator types them."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typer.testing import CliRunner, Result

from cloud_sync import __main__ as cli
from cloud_sync.collector import Message
from cloud_sync.demo_options import DemoOptions
from cloud_sync.evidence.__main__ import verify
from cloud_sync.runtime import collectord
from cloud_sync.runtime.audit import AccessKey
from cloud_sync.runtime.collector_files import load_config, load_keys, make_clock
from cloud_sync.statement import ACCESS, TITLE, peek_statement
from edge.event import Event, Key, Kind
from edge.segment import Segment, seal
from edge.topics import seg_topic
from firmware_bridge.wire import cose
from firmware_bridge.wire.stamp import ClockKind, Stamp, TimeSource
from models.verdict import Action, Cause
from provisioning.runtime.lab import Lab, make_lab

VIN = "LTESTAAA5N0000001"
SENTENCE = "The car moved \x1b[31mwithout\x1b[0m its wheels."


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = make_lab(tmp_path / "lab", "fund-a", [("vehicle-1", "vehicle")], "127.0.0.1")
    config(made).write_text(
        '[collector]\ntenant = "fund-a"\norigin = "log.holdfast.example/demo"\n'
        '[mqtt]\nhost = "127.0.0.1"\nport = 1\n',
        "utf-8",
    )
    return made


def config(lab: Lab) -> Path:
    return lab.collector / "collector.toml"


def call(app: typer.Typer, *args: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)


def title(lab: Lab, verb: str, *args: object, stdin: str | None = None, code: int = 0) -> Result:
    result = call(cli.title, verb, "--config", config(lab), *args, stdin=stdin)
    assert result.exit_code == code, result.output
    return result


def pledge(lab: Lab) -> str:
    mint = title(
        lab, "mint", "--vin", "-", "--owner", "Wang Wei", "--org", "registry", "--device", "vehicle-1",
        "--tyre", "a1b2c3d4", "--tyre", "A1B2C3D5", "--json", stdin=f"{VIN}\n",
    )  # fmt: skip
    token = str(json.loads(mint.stdout)["token"])
    title(lab, "propose", token[:16], "--loan", "4711", "--org", "bank")
    title(lab, "consent", "-", "--loan", "4711", "--org", "fund", "--role", "guarantor", stdin=f"{VIN}\n")
    title(lab, "consent", token, "--loan", "4711", "--org", "registry", "--role", "registry")
    return token


def log_incident(lab: Lab) -> None:
    """Send one segment with an incident through the collector's own intake."""
    files = load_config(config(lab))
    store, _, intake = collectord.open_intake(files, load_keys(files), make_clock(files))
    key = load_pem_private_key((lab.nodes["vehicle-1"] / "keys" / "event.key").read_bytes(), None)
    stamp = Stamp(10**12, time.time_ns() - 60 * 10**9, TimeSource.GNSS, 50)
    body: dict[int, Any] = {
        int(Key.INCIDENT): 1,
        int(Key.CAUSE): int(Cause.MOVED_WITHOUT_WHEELS),
        int(Key.ACTION): int(Action.OPENED),
        int(Key.CONFIDENCE_PERMILLE): 900,
        int(Key.SENTENCE): SENTENCE,
        int(Key.EVIDENCE): [["position", "it moved"]],
    }
    segment = Segment(
        "fund-a",
        "vehicle-1",
        bytes(16),
        0,
        "first start",
        ClockKind.LIVE,
        (Event(0, Kind.INCIDENT, stamp, body),),
    )
    sealed = seal(segment, key, cose.key_id(key.public_key()))  # type: ignore[arg-type, union-attr]
    with store:
        outcome, receipts = intake.process([Message(seg_topic("fund-a", "vehicle-1"), sealed.data)])
    assert outcome.accepted == 1, outcome
    assert len(receipts) == 1


def test_a_pledge_typed_command_by_command(lab: Lab) -> None:
    token = pledge(lab)
    shown = title(lab, "show", token[:12])
    assert re.search(r"state +PLEDGED since .*, locked", shown.stdout)
    [row] = json.loads(title(lab, "list", "--json").stdout)
    assert (row["state"], row["lender"], row["guarantor"], row["device"]) == (
        "PLEDGED",
        "bank",
        "fund",
        "vehicle-1",
    )
    assert VIN not in shown.stdout
    assert "PLEDGED" in title(lab, "list").stdout


def test_refusals_are_one_line_and_exit_1(lab: Lab) -> None:
    token = pledge(lab)
    for verb, args, says in (
        ("transfer", (token, "--owner", "Mallory", "--org", "registry"), "no transfer before"),
        ("propose", (token, "--loan", "2", "--org", "bank-2"), "PLEDGED"),
        ("withdraw", (token, "--org", "bank"), "PLEDGED"),
        ("release", (token, "--org", "bank-2"), "not the lender"),
        ("tick", (token, "--org", "fund"), "PLEDGED"),
        ("cure", (token, "--evidence", "0" * 64, "--org", "collector"), "PLEDGED"),
        ("cure", (token, "--evidence", "short", "--org", "collector"), "64 lower-case"),
        ("show", ("ffff",), "0 titles begin"),
        ("mint", ("--vin", VIN.lower(), "--owner", "x", "--org", "registry"), "already has a title"),
        ("mint", ("--vin", "1" * 17, "--owner", "x", "--org", "registry"), "not a vehicle"),
        ("bind", (token, "--device", "vehicle-2", "--tyre", "nohex"), "not a tyre sensor id"),
    ):
        result = title(lab, verb, *args, code=1)
        assert says in result.stderr, verb
        assert result.stderr.count("\n") == 1
        assert "Traceback" not in result.output


def test_release_and_transfer(lab: Lab) -> None:
    token = pledge(lab)
    assert "FREE" in title(lab, "release", token, "--org", "bank").stdout
    assert "Li Na" in title(lab, "transfer", token, "--owner", "Li Na", "--org", "registry").stdout
    title(lab, "propose", token, "--loan", "4712", "--org", "bank")
    assert "FREE" in title(lab, "withdraw", token, "--org", "bank").stdout


@pytest.mark.parametrize(
    "args",
    [
        ("mint", "--vin", VIN, "--owner", "x"),
        ("mint", "--vin", VIN, "--owner", "x", "--org", "registry", "--market", "JP"),
        ("mint", "--vin", VIN, "--owner", "x", "--org", "registry", "--tyre", "a1b2c3d4"),
        ("list", "--tenant", "Not A Tenant"),
        ("nonsense",),
    ],
)
def test_command_lines_that_cannot_be_meant_exit_2(lab: Lab, args: tuple[str, ...]) -> None:
    result = call(cli.title, args[0], "--config", config(lab), *args[1:])
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_an_absent_configuration_exits_2(tmp_path: Path) -> None:
    absent = tmp_path / "collector.toml"
    for app, args in (
        (cli.title, ["list", "--config", absent]),
        (cli.collect, ["--config", absent]),
        (cli.erase, ["--config", absent, "--device", "v", "--month", "2026-01", "--reason", "r"]),
        (cli.evidence, ["--config", absent]),
    ):
        result = call(app, *args)
        assert result.exit_code == 2, result.output
        assert "collector.toml" in result.stderr


def test_a_tenant_sees_its_own_titles_only(lab: Lab) -> None:
    pledge(lab)
    assert json.loads(title(lab, "list", "--tenant", "fund-b", "--json").stdout) == []
    assert "no titles" in title(lab, "list", "--tenant", "fund-b").stderr


def test_an_incident_alerts_the_title_and_can_be_exported(lab: Lab, tmp_path: Path) -> None:
    token = pledge(lab)
    log_incident(lab)
    assert json.loads(title(lab, "show", token, "--json").stdout)["state"] == "ALERT"
    listed = call(cli.evidence, "--config", config(lab))
    assert "moved_without_wheels" in listed.stdout
    assert "\x1b" not in listed.stdout, "a device must not steer the terminal"
    [row] = json.loads(call(cli.evidence, "--config", config(lab), "--json").stdout)
    assert row["sentence"] == SENTENCE
    for number, choice in enumerate(
        (["--incident", "first"], ["--incident", "1"], ["--device", "vehicle-1"])
    ):
        out = tmp_path / f"{number}.hfb"
        result = call(cli.evidence, "--config", config(lab), "--out", out, *choice)
        assert result.exit_code == 0, result.output
        checked = call(verify, out, "--trust", lab.trust, "--json")
        assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("--incident", "2", "--out", "x.hfb"), 1),
        (("--incident", "0", "--out", "x.hfb"), 1),
        (("--incident", "²", "--out", "x.hfb"), 1),
        (("--incident", "first", "--device", "vehicle-9", "--out", "x.hfb"), 1),
        (("--device", "vehicle-9", "--out", "x.hfb"), 1),
        (("--incident", "first"), 2),
        (("--out", "x.hfb"), 2),
    ],
)
def test_evidence_that_is_not_there(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    pledge(lab)
    log_incident(lab)
    result = call(cli.evidence, "--config", config(lab), *args)
    assert result.exit_code == code, result.output
    assert not (tmp_path / "x.hfb").exists()


def test_evidence_taken_at_the_console_stands_in_the_audit_and_in_the_log(lab: Lab, tmp_path: Path) -> None:
    log_incident(lab)
    out = tmp_path / "x.hfb"
    bare = ("--config", config(lab), "--out", out)
    assert call(cli.evidence, *bare, "--incident", "first", "--purpose", "police, file 17").exit_code == 0
    assert call(cli.evidence, *bare, "--device", "vehicle-1").exit_code == 0
    [row] = json.loads(call(cli.evidence, "--config", config(lab), "--json").stdout)
    with closing(sqlite3.connect(lab.collector / "store.db")) as db:
        audited = db.execute(
            "SELECT account, action, device, what, purpose, statement_hash FROM audit ORDER BY id"
        ).fetchall()
        logged = dict(db.execute("SELECT hash, data FROM bodies").fetchall())
    first, second = audited
    assert first[:3] == ("console", "evidence_export", "vehicle-1") == second[:3]
    assert first[3] == f"bundle of incident vehicle-1.{row['run']}.{row['incident']}"
    assert (first[4], second[3]) == ("police, file 17", "bundle of device vehicle-1")
    assert "no purpose given" in second[4]
    for entry in audited:
        statement = peek_statement(logged[entry[5]])
        assert statement.type == ACCESS and statement.body[AccessKey.ACCOUNT] == ["console", "console"]


def test_no_bundle_where_its_reading_cannot_be_audited(lab: Lab, tmp_path: Path) -> None:
    log_incident(lab)
    out = tmp_path / "x.hfb"
    out.write_bytes(b"mine")
    bare = ("--config", config(lab), "--incident", "first", "--out", out)
    assert call(cli.evidence, *bare, "--purpose", " . ").exit_code == 2
    with closing(sqlite3.connect(lab.collector / "store.db", isolation_level=None)) as db:
        db.execute("CREATE TABLE IF NOT EXISTS audit(id INTEGER PRIMARY KEY)")
        db.execute("DROP TABLE audit")
        db.execute("CREATE TABLE audit(id INTEGER PRIMARY KEY)")
    refused = call(cli.evidence, *bare)
    assert refused.exit_code != 0
    assert out.read_bytes() == b"mine" and [file.name for file in tmp_path.glob("*.hfb")] == ["x.hfb"]


def test_erasure_takes_the_incident_and_keeps_the_title(lab: Lab) -> None:
    token = pledge(lab)
    log_incident(lab)
    [row] = json.loads(call(cli.evidence, "--config", config(lab), "--json").stdout)
    month = row["opened_at"][:7]
    args = ("--config", config(lab), "--device", "vehicle-1", "--month", month, "--reason", "order 17")
    done = call(cli.erase, *args, "--yes", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["erased"], said["segments"], said["rows"] >= 2) == (True, 1, True)
    assert json.loads(call(cli.evidence, "--config", config(lab), "--json").stdout) == []
    assert json.loads(title(lab, "show", token, "--json").stdout)["state"] == "ALERT"
    assert "0 segments" in call(cli.erase, *args, "--yes").stdout
    assert call(cli.erase, *args[:4], "--month", "2026-13", "--reason", "r").exit_code == 2


def contents(lab: Lab) -> list[str]:
    with closing(sqlite3.connect(lab.collector / "store.db")) as db:
        return list(db.iterdump())


def test_erasure_without_yes_is_a_preview(lab: Lab) -> None:
    log_incident(lab)
    [row] = json.loads(call(cli.evidence, "--config", config(lab), "--json").stdout)
    month = row["opened_at"][:7]
    before = contents(lab)
    args = ("--config", config(lab), "--device", "vehicle-1", "--month", month, "--reason", "order 17")
    shown = call(cli.erase, *args)
    assert shown.exit_code == 0, shown.output
    plan = json.loads(call(cli.erase, *args, "--json").stdout)
    assert (plan["erased"], plan["segments"], plan["bytes"] > 0) == (False, 1, True)
    [incident] = plan["open_incidents"]
    assert incident == {"incident": 1, "opened_at": row["opened_at"], "cause": "moved_without_wheels"}
    assert f"1 segments ({plan['bytes']} bytes)" in shown.stdout
    assert "1 open incidents would lose their bodies" in shown.stdout
    assert row["opened_at"] in shown.stdout
    assert "--yes" in shown.stdout
    assert contents(lab) == before
    other = call(cli.erase, *args[:4], "--month", "2020-01", "--reason", "r", "--json")
    assert json.loads(other.stdout)["segments"] == 0
    assert call(cli.erase, *args, "--yes").exit_code == 0
    assert contents(lab) != before


@pytest.mark.parametrize("more", [(), ("--yes",), ("--yes", "--json")])
@pytest.mark.parametrize(
    "whose", [("--device", "vehicle-9"), ("--device", "vehicle-1", "--tenant", "fund-b")]
)
def test_erasing_an_unknown_device_changes_nothing(
    lab: Lab, whose: tuple[str, ...], more: tuple[str, ...]
) -> None:
    log_incident(lab)
    before = contents(lab)
    result = call(
        cli.erase, "--config", config(lab), *whose, "--month", "2026-11", "--reason", "order 17", *more
    )
    assert result.exit_code == 1, result.output
    assert f"knows no device '{whose[1]}'" in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert contents(lab) == before


def test_transitions_of_a_stopped_collector_wait_for_it(lab: Lab) -> None:
    pledge(lab)
    files = load_config(config(lab))
    store, sequencer, _ = collectord.open_intake(files, load_keys(files), make_clock(files))
    with store:
        rows = store.db.execute("SELECT b.data FROM pending p JOIN bodies b ON b.hash = p.hash ORDER BY p.id")
        assert [peek_statement(row[0]).type for row in rows] == [TITLE, "binding", TITLE, TITLE, TITLE]
        assert sequencer.step() == 5


def test_demo_options_reach_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cloud_sync.runtime import demo

    seen: list[DemoOptions] = []

    def run(options: DemoOptions) -> int:
        seen.append(options)
        return 1

    monkeypatch.setattr(demo, "run", run)
    assert call(cli.demo).exit_code == 1
    args = [
        "--speed",
        "60",
        "--headless",
        "--keep",
        "--replay",
        "a.nmea",
        "--json",
        "o.json",
        "--scenario",
        "quiet",
    ]
    assert call(cli.demo, *args, "--dir", tmp_path).exit_code == 1
    assert seen == [
        DemoOptions(),
        DemoOptions(60.0, True, True, Path("a.nmea"), Path("o.json"), "quiet", tmp_path),
    ]
    assert call(cli.demo, "--speed", "-1").exit_code == 2


@pytest.mark.parametrize("app", ["collect", "broker", "title", "erase", "evidence", "demo"])
def test_every_command_explains_itself(app: str) -> None:
    result = call(getattr(cli, app), "--help")
    assert result.exit_code == 0
    assert "--config" in result.stdout or app in ("title", "demo")
