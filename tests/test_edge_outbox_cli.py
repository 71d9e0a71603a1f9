"""`holdfast outbox` and `holdfast status`: read-only, exact, and helpful when there is nothing to see."""

from __future__ import annotations

import json
import os
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from edge_kit import EPOCH_NS, KEY, SIGNER, draft
from edge_live import Live
from typer.testing import CliRunner

from edge.__main__ import outbox, status
from edge.config import OutboxLimits
from edge.intake import Intake
from edge.runtime.outbox import Outbox
from edge.segment import segment_hash
from firmware_bridge.wire.stamp import NS

RUN = CliRunner()


def certificate(path: Path, key: ec.EllipticCurvePrivateKey = KEY) -> Path:
    """A self-signed event certificate."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "car-1")])
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    built = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(begin).not_valid_after(begin + timedelta(days=9999))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state folder with 5 segments and the event certificate."""
    box = Outbox(tmp_path, SIGNER, OutboxLimits(), seal_interval_ns=60 * NS, say=lambda *_, **__: None)
    intake = Intake(box.run)
    for n in range(200):
        intake.add(draft(n, urgent=n == 0, text="günstig"))
    box.commit(intake.take(), now_ns=200 * NS, wall_ns=EPOCH_NS, flush=True, clean=True)
    box.close()
    (tmp_path / "keys").mkdir()
    certificate(tmp_path / "keys" / "event.crt")
    return tmp_path


def test_fsck_of_a_good_outbox(folder: Path) -> None:
    done = RUN.invoke(outbox, ["fsck", str(folder)])
    assert done.exit_code == 0, done.output
    assert "5 segments, 200 events, signatures checked" in done.output and "in order" in done.output


def test_fsck_without_a_certificate_says_so(folder: Path) -> None:
    (folder / "keys" / "event.crt").unlink()
    done = RUN.invoke(outbox, ["fsck", str(folder / "outbox.db")])
    assert done.exit_code == 0 and "NOT checked" in done.output


def test_fsck_with_another_key_is_a_failure(folder: Path, tmp_path: Path) -> None:
    other = certificate(tmp_path / "other.crt", ec.derive_private_key(99, ec.SECP256R1()))
    done = RUN.invoke(outbox, ["fsck", str(folder), "--cert", str(other)])
    assert done.exit_code == 40 and "not known" in done.output


def _change(folder: Path, sql: str, *args: object) -> None:
    with sqlite3.connect(folder / "outbox.db") as db:
        db.execute(sql, args)
    db.close()


@pytest.mark.parametrize(
    ("sql", "args", "told"),
    [
        ("UPDATE segments SET body = x'd2' || body WHERE number = 2", (), "hash"),
        (
            "UPDATE segments SET body = ?, hash = ? WHERE number = 2",
            (b"\xd2\x00", segment_hash(b"\xd2\x00")),
            "segment",
        ),
        ("UPDATE segments SET events = 7 WHERE number = 2", (), "columns"),
        ("UPDATE segments SET number = 9 WHERE number = 2", (), "columns"),
    ],
)
def test_fsck_finds_what_was_changed(folder: Path, sql: str, args: tuple[object, ...], told: str) -> None:
    _change(folder, sql, *args)
    done = RUN.invoke(outbox, ["fsck", str(folder)])
    assert done.exit_code == 40 and told in done.output


def test_fsck_says_which_segments_are_not_here(folder: Path) -> None:
    _change(folder, "DELETE FROM segments WHERE number IN (2, 3)")
    done = RUN.invoke(outbox, ["fsck", str(folder)])
    assert done.exit_code == 0 and "segments 2 to 3" in done.output


def test_a_broken_structure_is_found(folder: Path) -> None:
    path = folder / "outbox.db"
    with path.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(os.urandom(4096 * 3))
    done = RUN.invoke(outbox, ["fsck", str(folder)])
    assert done.exit_code == 40 and "structure" in done.output


def test_peek_shows_the_newest_in_words(folder: Path) -> None:
    done = RUN.invoke(outbox, ["peek", str(folder), "-n", "2"])
    assert done.exit_code == 0, done.output
    shown = [json.loads(line) for line in done.output.splitlines()]
    assert [segment["number"] for segment in shown] == [3, 4]
    assert shown[0]["events"][0]["body"] == {"source": "test", "text": "günstig"}
    assert shown[0]["lane"] == "telemetry" and shown[0]["clock"] == "simulated"


def test_export_writes_every_segment_with_an_index(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    done = RUN.invoke(outbox, ["export", str(folder), str(target)])
    assert done.exit_code == 0 and "5 segments" in done.output
    index = json.loads((target / "index.json").read_text())
    assert len(index) == 5
    assert all(
        segment_hash((target / entry["file"]).read_bytes()).hex() == entry["sha256"] for entry in index
    )


@pytest.mark.parametrize("command", ["peek", "fsck", "export"])
def test_nothing_there_and_no_outbox(command: str, tmp_path: Path) -> None:
    extra = [str(tmp_path / "out")] if command == "export" else []
    absent = RUN.invoke(outbox, [command, str(tmp_path), *extra])
    assert absent.exit_code == 2 and "state folder" in absent.output
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"not a database" * 500)
    done = RUN.invoke(outbox, [command, str(garbage), *extra])
    assert done.exit_code == 1 and "not a database" in done.output
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE x(y)")
    done = RUN.invoke(outbox, [command, str(tmp_path / "other.db"), *extra])
    assert done.exit_code == 1 and "no outbox" in done.output


def test_the_tools_change_nothing(folder: Path, tmp_path: Path) -> None:
    before = (folder / "outbox.db").read_bytes()
    for args in (["peek", str(folder)], ["fsck", str(folder)], ["export", str(folder), str(tmp_path / "o")]):
        assert RUN.invoke(outbox, args).exit_code == 0
    assert (folder / "outbox.db").read_bytes() == before


def test_status_of_a_running_and_of_an_absent_node() -> None:
    node = Live()
    try:
        config = ["--config", str(node.config)]
        absent = RUN.invoke(status, config)
        assert absent.exit_code == 1 and "is `holdfast edge` running?" in " ".join(absent.output.split())
        node.start()
        node.drive(3)
        screen = RUN.invoke(status, config)
        assert screen.exit_code == 0 and "port gnss" in screen.output and "none open" in screen.output
        raw = RUN.invoke(status, [*config, "--json"])
        assert json.loads(raw.output)["device"] == "car-1"
    finally:
        node.close()
    assert RUN.invoke(status, ["--config", "/nowhere/node.toml"]).exit_code == 2
