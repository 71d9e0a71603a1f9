"""SIGHUP: what a running node takes of a new configuration or key, on real ptys, without losing a reading."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import sqlite3
import threading
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from edge_kit import KEY, NODE, SIGNER, config, draft
from edge_live import Live, rmc

from edge.chain import check
from edge.config import OutboxLimits
from edge.errors import StoreFull
from edge.event import Key, Kind
from edge.pipeline import Pipeline
from edge.runtime.daemon import Daemon
from edge.runtime.log import Log
from edge.runtime.outbox import Outbox
from edge.runtime.store import Store
from edge.segment import Lost, Previous, Sealed, verify
from firmware_bridge.framing import frame
from firmware_bridge.runtime.clock import SystemClock
from firmware_bridge.sensors.board import encode_data
from firmware_bridge.wire import cose
from firmware_bridge.wire.stamp import NS
from provisioning import ca
from provisioning.ca import Validity
from provisioning.identity import Identity
from provisioning.runtime.lab import _EVENT_FROM, _EVENT_UNTIL, certificate_pem, key_pem

Make = Callable[..., Live]


@pytest.fixture
def live() -> Iterator[Make]:
    made: list[Live] = []

    def make(*args: object, **kwargs: object) -> Live:
        node = Live(*args, **kwargs)  # type: ignore[arg-type]
        made.append(node)
        return node

    yield make
    for node in made:
        node.close()


@pytest.fixture
def second_port() -> Iterator[tuple[int, str]]:
    """Another pty: (the sender's end, the path of the port)."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(master)
    os.close(slave)


def board(path: str, baud: int = 115200) -> str:
    return f'[[port]]\nname = "board"\npath = "{path}"\nprotocol = "board"\nbaud = {baud}\n'


def hup(node: Live) -> dict[str, Any]:
    """Reload, and what the node says of it."""
    before = (node.status()["reload"] or {"count": 0})["count"]
    assert node.process is not None
    node.process.send_signal(signal.SIGHUP)
    status = node.until(lambda s: s["reload"] is not None and s["reload"]["count"] > before)
    return dict(status["reload"])


def new_event_key(node: Live, *, certificate: bool = True) -> None:
    """What a renewal leaves: a whole pair, put in force by one rename each."""
    keys, key = node.folder / "keys", ca.new_key()
    folder = keys / "pairs" / "event" / str(time.monotonic_ns())
    folder.mkdir(parents=True, mode=0o700)
    (folder / "event.key").write_bytes(key_pem(key))
    if certificate:
        issued = ca.issue_event(
            node.lab.event, key.public_key(), Identity("tenant-a", "car-1"),
            Validity(_EVENT_FROM, _EVENT_UNTIL),
        )  # fmt: skip
        (folder / "event.crt").write_bytes(certificate_pem(issued))
    for name in ("event.crt", "event.key"):
        (keys / "turn").symlink_to(folder / name)
        (keys / "turn").rename(keys / name)


def public_key(node: Live) -> cose.PublicKey:
    key = load_pem_private_key((node.folder / "keys" / "event.key").read_bytes(), None)
    return key.public_key()  # type: ignore[return-value]


def segments(node: Live, *keys: cose.PublicKey) -> list[Sealed]:
    """The outbox's segments, verified with the keys."""
    known = {cose.key_id(key): key for key in keys}
    with sqlite3.connect(node.folder / "outbox.db") as db:
        bodies = db.execute("SELECT body FROM segments ORDER BY id").fetchall()
    db.close()
    return [verify(body, known.get) for (body,) in bodies]


def test_no_sentence_is_lost_or_counted_twice_while_ports_come_and_go(
    live: Make, second_port: tuple[int, str]
) -> None:
    """Half a sentence before each reload, half after it; the other port is added, changed and removed."""
    node = live("commit_interval_s = 0.2\n")
    plain = node.config.read_text()
    node.start()
    forms = [
        plain + board(second_port[1]),
        plain + board(second_port[1], 57600) + "[telemetry]\nposition_interval_s = 0.5\n",
        plain.replace("commit_interval_s = 0.2", "commit_interval_s = 0.4"),
    ]
    for number in range(12):
        node.config.write_text(forms[number % 3])
        node.second += 1
        node.page.advance(node.second * NS)
        line = rmc(node.second)
        cut = len(line) * (number + 1) // 13
        node.feed(line[:cut])
        told = hup(node)
        assert told["ok"] and told["text"].startswith("taken: "), told
        node.feed(line[cut:])
        node.drive(3)
    status = node.until(lambda s: s["readings"].get("position", 0) >= 48)
    assert status["readings"]["position"] == 48 and status["refused"] == {}
    assert status["bytes"] == sum(len(rmc(n)) for n in range(1, 49)) and status["faults"] == {}
    assert set(status["ports"]) == {"gnss"}
    assert node.stop() == 0
    report = check(node.segments())
    assert report.complete and report.lost == () and len(report.tips) == 1
    facts = [e.body for s in node.segments() for e in s.segment.events if e.kind is Kind.FACT]
    assert len([body for body in facts if body[Key.SOURCE] == "config"]) == 12


def test_a_port_that_was_added_is_read_and_one_that_was_removed_is_let_go(
    live: Make, second_port: tuple[int, str]
) -> None:
    master, path = second_port
    node = live()
    plain = node.config.read_text()
    node.start()
    node.config.write_text(plain + board(path))
    assert (
        hup(node)["text"] == "taken: port.board.baud, port.board.name, port.board.path, port.board.protocol"
    )
    node.until(lambda s: set(s["ports"]) == {"gnss", "board"})
    data = frame(2, 0, encode_data(5, tyres=[(bytes.fromhex("a1b2c3d4"), 230, 20, 3)]))

    def heard(status: dict[str, Any]) -> bool:
        os.write(master, data)  # what comes before a port is open is nobody's
        return bool(status["readings"].get("tyre")) and status["ports"]["board"] == "ok"

    node.until(heard)
    count = node.status()["bytes"]
    node.config.write_text(plain)
    hup(node)
    status = node.status()
    assert set(status["ports"]) == {"gnss"} and status["bytes"] >= count, "what was counted stays counted"
    again = os.open(path, os.O_RDWR | os.O_NOCTTY)  # exclusive while the node had it
    os.close(again)
    node.drive(2)
    node.until(lambda s: s["readings"].get("position") == 2)
    assert node.stop() == 0


def test_a_file_that_cannot_be_meant_changes_nothing(live: Make) -> None:
    node = live()
    plain = node.config.read_text()
    node.start()
    node.drive(2)
    node.config.write_text(plain + "[telemetry]\nhartbeat_s = 5\n")
    told = hup(node)
    assert not told["ok"] and "did you mean heartbeat_s?" in told["text"]
    assert "reload_refused" in node.logged() and "heartbeat_s" in node.logged()
    node.config.unlink()
    assert "cannot read" in hup(node)["text"]
    node.drive(2)
    status = node.until(lambda s: s["readings"].get("position") == 4)
    assert status["ports"] == {"gnss": "ok"} and status["loss_window_ms"] == 5000
    assert node.stop() == 0


def test_limits_and_log_level_are_taken_and_a_region_needs_a_restart(live: Make) -> None:
    node = live()
    plain = node.config.read_text()
    node.start()
    first = node.status()["config"]["sha256"]
    more = "commit_interval_s = 1\nlog_level = 'error'\n[fence]\nlat = 47\nlon = 8\nradius_m = 9\n"
    node.config.write_text(plain + more + "[uplink]\nhost = 'broker.example'\n")
    text = hup(node)["text"]
    assert "taken: edge.commit_interval_s, edge.log_level;" in text
    assert (
        "not in force before `systemctl restart holdfast-edge`: fence.lat, fence.lon, fence.radius_m" in text
    )
    assert "`systemctl restart holdfast-uplink`: uplink.host, uplink.mqtt" in text
    status = node.status()
    assert status["loss_window_ms"] == 1000
    assert status["config"]["sha256"] == first, "not before the whole of it is in force"
    assert "taken: " not in node.logged(), "log_level = error"
    node.config.write_text(plain + "commit_interval_s = 1\n")
    hup(node)
    assert node.status()["config"]["sha256"] != first
    assert node.stop() == 0


def test_a_new_event_key_begins_a_run_that_names_the_last_segment(live: Make) -> None:
    node = live()
    ready = node.start()
    old = public_key(node)
    node.drive(30)
    new_event_key(node)
    new = public_key(node)
    assert f"new event key {cose.key_id(new).hex()}" in hup(node)["text"]
    node.until(lambda s: s["run"] != ready["run"] and s["event_key"] == cose.key_id(new).hex())
    node.drive(30)
    assert node.call("fact", {1: "test", 2: "after"})[0] == "ok"
    assert node.status()["readings"]["position"] == 60
    assert node.stop() == 0
    found = segments(node, old, new)
    report = check(found)
    assert report.complete and report.lost == () and len(report.heads) == 1 and len(report.tips) == 1
    runs = list(dict.fromkeys(one.segment.run for one in found))
    assert runs[0].hex() == ready["run"] and len(runs) == 2
    last = [one for one in found if one.segment.run == runs[0]][-1]
    first = next(one for one in found if one.segment.run == runs[1])
    assert first.segment.number == 0
    assert first.segment.previous == Previous(runs[0], last.segment.number, last.hash)
    assert {one.kid for one in found if one.segment.run == runs[0]} == {cose.key_id(old)}
    assert {one.kid for one in found if one.segment.run == runs[1]} == {cose.key_id(new)}
    assert "new event key" in str(first.segment.events[0].body[Key.TEXT])
    assert hup_nothing(node)


def hup_nothing(node: Live) -> bool:
    """Started again, the node takes the key from the start: a reload finds nothing to take."""
    node.start()
    said = hup(node)
    assert node.stop() == 0
    return said["ok"] and said["text"] == "nothing to take"


def test_a_key_without_its_certificate_is_not_taken(live: Make) -> None:
    node = live()
    ready = node.start()
    new_event_key(node, certificate=False)
    told = hup(node)
    assert not told["ok"] and "without a certificate" in told["text"] and "provision renew" in told["text"]
    (node.folder / "keys" / "event.key").unlink()
    assert "enrol" in hup(node)["text"]
    assert node.status()["run"] == ready["run"]
    assert node.stop() == 0


def test_the_key_of_another_certificate_is_not_taken(live: Make) -> None:
    node = live()
    node.start()
    (node.folder / "keys" / "event.key").write_bytes(key_pem(ca.new_key()))
    assert "do not belong together" in hup(node)["text"]
    assert node.stop() == 0


@pytest.mark.crash
def test_killed_at_any_moment_of_a_reload_nothing_accepted_is_lost(live: Make) -> None:
    node = live("commit_interval_s = 0.05\nseal_interval_s = 0.2\n")
    keys = [public_key(node)]
    for number in range(5):
        node.start()
        node.drive(5)
        node.until(lambda s: s["events"] >= 6)
        new_event_key(node)
        keys.append(public_key(node))
        assert node.process is not None
        node.process.send_signal(signal.SIGHUP)
        time.sleep(number * 0.006)
        node.kill()
    node.start()
    node.drive(2)
    assert node.stop() == 0
    found = segments(node, *keys)
    report = check(found)
    assert report.complete, report
    stored = {(one.segment.run.hex(), event.seq) for one in found for event in one.segment.events}
    told = {(line["run"], line["seq"]) for line in node.oracle.lines}
    assert told <= stored and len(told) >= 30
    assert {reason for reason, _ in report.lost} <= {Lost.CRASH}


def test_systemd_is_told_when_a_reload_begins_and_ends(
    live: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        node = live()
        node.start()
        assert manager.recv(4096) == b"READY=1"
        hup(node)
        began = manager.recv(4096).decode().split("\n")
        assert began[0] == "RELOADING=1" and began[1].startswith("MONOTONIC_USEC=")
        assert manager.recv(4096) == b"READY=1"
        node.config.write_text("nonsense")
        assert not hup(node)["ok"]
        assert manager.recv(4096).startswith(b"RELOADING=1")
        assert manager.recv(4096) == b"READY=1", "a refused reload ends as well"
        assert node.stop() == 0


def test_many_reloads_at_once_harm_nobody(live: Make) -> None:
    """Many at once are one reload; none ends the node."""
    node = live()
    node.start()
    assert node.process is not None
    for _ in range(20):
        node.process.send_signal(signal.SIGHUP)
    node.until(lambda s: s["reload"] is not None)
    assert node.process.poll() is None
    assert json.dumps(node.status()["reload"])
    assert node.stop() == 0


def test_a_store_that_is_full_keeps_the_old_key_and_the_old_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon tries again; until then everything goes on under the old key, and nothing is lost."""
    parsed, log = config(NODE, str(tmp_path)), Log("error", (tmp_path / "log").open("w"))
    outbox = Outbox(tmp_path, SIGNER, OutboxLimits(), seal_interval_ns=60 * NS, say=log.say)
    daemon = Daemon(parsed, SystemClock(), Pipeline(parsed, None, software="x"), outbox, log)
    key = ca.new_key()
    fresh = replace(SIGNER, key=key, kid=cose.key_id(key.public_key()))

    def full(*_: object, **__: object) -> None:
        raise StoreFull("no space")

    async def main() -> None:
        await daemon.begin()
        before = daemon.committer.intake.run
        daemon.committer.accept(draft(1))
        with monkeypatch.context() as patch:
            patch.setattr(Store, "begin_run", full)
            assert not await daemon.committer.rekey(fresh)
        assert daemon.committer.intake.run == before == outbox.run
        daemon.committer.accept(draft(2))
        assert await daemon.committer.rekey(fresh)
        assert daemon.committer.intake.run == outbox.run != before
        daemon.committer.accept(draft(3))
        assert await daemon.committer.commit(flush=True, clean=True)
        await daemon.committer.close()

    asyncio.run(main())
    keys = {SIGNER.kid: KEY.public_key(), fresh.kid: key.public_key()}
    with sqlite3.connect(tmp_path / "outbox.db") as db:
        found = [verify(body, keys.get) for (body,) in db.execute("SELECT body FROM segments ORDER BY id")]
    db.close()
    report = check(found)
    assert report.complete and report.lost == ()
    assert [event.kind for one in found for event in one.segment.events] == [
        Kind.RUN_START, Kind.FACT, Kind.FACT, Kind.RUN_START, Kind.FACT,
    ]  # fmt: skip


def test_a_fact_that_comes_while_the_key_is_exchanged_is_answered_from_the_new_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was numbered in the old run while the new one was begun on disk is numbered anew, not lost."""
    parsed, log = config(NODE, str(tmp_path)), Log("error", (tmp_path / "log").open("w"))
    outbox = Outbox(tmp_path, SIGNER, OutboxLimits(), seal_interval_ns=60 * NS, say=log.say)
    daemon = Daemon(parsed, SystemClock(), Pipeline(parsed, None, software="x"), outbox, log)
    key = ca.new_key()
    fresh = replace(SIGNER, key=key, kid=cose.key_id(key.public_key()))
    entered, go_on, begin = threading.Event(), threading.Event(), Store.begin_run

    def slow(store: Store, *args: Any, **how: Any) -> Any:
        entered.set()
        assert go_on.wait(30)
        return begin(store, *args, **how)

    async def main() -> None:
        await daemon.begin()
        with monkeypatch.context() as patch:
            patch.setattr(Store, "begin_run", slow)
            exchange = asyncio.create_task(daemon.committer.rekey(fresh))
            await asyncio.to_thread(entered.wait)
            daemon.committer.accept(draft(5))
            fact = asyncio.create_task(daemon.committer.accept_durably(draft(6), 30))
            await asyncio.sleep(0)
            exchange.cancel()  # SIGTERM in the middle of it
            go_on.set()
            assert await fact == 2, "behind the start of the run and the event before it"
        assert await daemon.committer.commit(flush=True, clean=True)
        await daemon.committer.close()

    asyncio.run(main())
    keys = {SIGNER.kid: KEY.public_key(), fresh.kid: key.public_key()}
    with sqlite3.connect(tmp_path / "outbox.db") as db:
        found = [verify(body, keys.get) for (body,) in db.execute("SELECT body FROM segments ORDER BY id")]
    db.close()
    assert check(found).complete
    last = [one for one in found if one.kid == fresh.kid]
    assert [event.seq for one in last for event in one.segment.events] == [0, 1, 2]
