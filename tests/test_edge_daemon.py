"""The daemon as a process: starts, works, refuses, survives, ends."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from edge_kit import NODE, SIGNER, config, draft, rows
from edge_live import Live

from edge.chain import check
from edge.config import OutboxLimits
from edge.errors import StoreFull
from edge.event import Kind
from edge.facts import FactIn, FactsError
from edge.intake import Batch
from edge.pipeline import Decides, Pipeline
from edge.runtime import show
from edge.runtime.daemon import Daemon
from edge.runtime.log import Log
from edge.runtime.outbox import Outbox
from edge.runtime.store import Committed, Store, StoreDamaged
from edge.segment import Lost
from edge.status import Work, as_json
from edge.uplink import Row, Trouble, Why
from firmware_bridge.framing import frame
from firmware_bridge.reading import Reading, Tyre
from firmware_bridge.runtime.clock import SystemClock
from firmware_bridge.sensors.board import encode_data
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire.stamp import NS
from models.verdict import Verdict

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


def test_a_drive_is_accepted_sealed_told_and_ended_in_order(live: Make) -> None:
    node = live()
    ready = node.start()
    assert ready["ready"] and ready["store"] == "ok"
    node.drive(120)
    status = node.until(lambda s: s["events"] > 110)
    assert status["run"] == ready["run"] and status["ports"] == {"gnss": "ok"}
    assert status["readings"]["position"] >= 119 and status["loss_window_ms"] == 5000
    assert 0 < status["rss_mb"] < 80
    assert node.stop() == 0
    segments = node.segments()
    report = check(segments)
    assert report.complete and report.lost == ()
    told = {(line["run"], line["seq"]) for line in node.oracle.lines}
    stored = {(s.segment.run.hex(), e.seq) for s in segments for e in s.segment.events}
    assert told == stored
    last = segments[-1].segment.events[-1]
    assert last.kind is Kind.HEARTBEAT and last.body[115] == "stopped"
    assert not (node.folder / "facts.sock").exists()


def test_status_says_the_last_thing_each_process_said_f17(
    live: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """A segment over the broker's limit: status names it, its size and the limit, until all is well again."""
    node = live()
    node.start()
    assert node.status()["facts"] == {}
    big = Row(1, 1, bytes.fromhex("c0ffee00") + bytes(12), 7, bytes(32), 41_000)
    trouble = str(Trouble(big, Why.BREAKS, 3, 2_048))
    node.call("fact", {1: "uplink", 2: trouble})
    node.call("fact", {1: "hello", 2: "[red] is no colour here"})
    status = node.status()
    assert status["facts"] == {"uplink": trouble, "hello": "[red] is no colour here"}
    assert set(status["facts_at"]) == {"uplink", "hello"}
    assert show.status(node.config, as_json=False) == 0
    screen = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in ("uplink says", "c0ffee00/7", "41000 bytes", "2048", "max_packet_size", "[red] is no colour"):
        assert part in screen, screen
    node.call("fact", {1: "uplink", 2: "all well again"})
    assert node.status()["facts"]["uplink"] == "all well again"
    assert node.stop() == 0


def screen(node: Live, capsys: pytest.CaptureFixture[str]) -> str:
    """What `holdfast status` prints, as one line."""
    assert show.status(node.config, as_json=False) == 0
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_status_says_whose_time_it_is_and_how_old_fix_and_receipt_are(
    live: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    node = live()
    node.start()
    status = node.status()
    assert status["clock"] == "simulated"
    assert status["last_fix_age_s"] is None and status["last_receipt_age_s"] is None
    assert "S I M U L A T E D" in screen(node, capsys)
    node.drive(60)
    node.until(lambda s: s["last_fix_age_s"] is not None and s["last_fix_age_s"] <= 1)
    node.page.advance((node.second + 300) * NS)
    node.until(lambda s: 300 <= s["last_fix_age_s"] <= 301)
    node.call("seal")
    text = screen(node, capsys)
    assert "last fix 5 min ago" in text and "is `holdfast uplink` running?" in text, text
    node.call("receipt", {1: node.receipt(node.segments())})
    assert "is `holdfast uplink` running?" not in screen(node, capsys)
    assert node.stop() == 0


@pytest.mark.parametrize(
    ("receipt_ns", "age", "row"), [(None, None, "age not known"), (100 * NS, 7300, "2 h ago")]
)
def test_the_age_of_a_receipt_counts_in_the_clocks_time(
    receipt_ns: int | None, age: int | None, row: str
) -> None:
    pipeline = Pipeline(config(NODE), None, software="x")
    pipeline.tick(Now(7400 * NS, 0, False, 0))
    work = Work("ab", 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, "ok", 1.0, {}, 7400 * NS, receipt_ns)
    told = json.loads(as_json({}, pipeline, work, 5000))
    assert (told["clock"], told["last_fix_age_s"], told["last_receipt_age_s"]) == ("live", None, age)
    assert show._receipt(told) == row


def test_a_clock_that_ended_seals_what_is_in_hand(live: Make) -> None:
    node = live()
    node.start()
    node.drive(7)
    node.until(lambda s: s["outbox"]["events_unsealed"] == 0 and s["events"] >= 7)
    segments = node.segments()
    assert check(segments).complete
    assert sum(len(s.segment.events) for s in segments) == node.status()["events"]


def test_seal_and_facts_are_answered_after_the_commit(live: Make) -> None:
    node = live()
    node.start()
    node.drive(3)
    assert node.call("seal")[1] == 0
    count = len(node.segments())
    seq = node.call("fact", {1: "uplink", 2: "no broker"})[1]
    with sqlite3.connect(node.folder / "outbox.db") as db:
        seqs = [row[0] for row in db.execute("SELECT seq FROM events")]
    assert seq in seqs and len(node.segments()) == count


def test_receipts_delete_and_only_good_ones(live: Make) -> None:
    node = live()
    node.start()
    node.drive(120)
    node.call("seal")
    segments = node.segments()
    with pytest.raises(FactsError, match="is for"):
        node.call("receipt", {1: node.receipt(segments, device="car-2")})
    with pytest.raises(FactsError, match="receipt"):
        node.call("receipt", {1: b"nonsense"})
    assert len(node.segments()) == len(segments)
    assert node.call("receipt", {1: node.receipt(segments[1:])}) == {0: "ok", 1: len(segments) - 1, 2: 0}
    assert [s.hash for s in node.segments()] == [segments[0].hash]
    assert node.call("receipt", {1: node.receipt(segments)})[1] == 1
    assert node.call("receipt", {1: node.receipt(segments)})[1] == 0
    assert node.status()["receipts"] == 3
    node.drive(60)
    assert node.stop() == 0
    assert check(segments + node.segments()).complete


def test_a_receipt_for_other_bytes_is_refused(live: Make) -> None:
    node = live()
    node.start()
    mine = node.segments()
    other = live()
    other.start()
    forged = other.segments()[0]
    item = type(mine[0])(mine[0].segment, forged.data, forged.kid)  # our place, other bytes
    with pytest.raises(FactsError, match="other bytes"):
        node.call("receipt", {1: node.receipt([item])})
    assert [s.hash for s in node.segments()] == [s.hash for s in mine]


def test_no_trust_file_means_no_deletes(live: Make) -> None:
    node = live()
    node.start()
    receipt = node.receipt(node.segments())
    (node.folder / "trust.json").rename(node.folder / "trust.away")
    with pytest.raises(FactsError, match=r"trust\.json"):
        node.call("receipt", {1: receipt})
    (node.folder / "trust.away").rename(node.folder / "trust.json")
    assert node.call("receipt", {1: receipt})[1] == 1


def test_a_second_edge_in_the_folder_is_refused(live: Make) -> None:
    node = live()
    node.start()
    done = _run(node.config)
    assert done.returncode == 12 and b"another edge" in done.stderr
    assert node.status()["store"] == "ok"


def _run(config: Path, command: str = "edge") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "firmware_bridge", command, "--config", str(config)],
        capture_output=True,
        timeout=60,
    )


def test_mistakes_at_the_start_have_their_exit_codes(live: Make, tmp_path: Path) -> None:
    node = live()
    assert _run(tmp_path / "absent.toml").returncode == 2
    wrong = _run(node.config, "roadside")
    assert wrong.returncode == 2 and b"holdfast edge" in wrong.stderr
    (node.folder / "keys" / "event.key").rename(node.folder / "keys" / "away")
    unenrolled = _run(node.config)
    assert unenrolled.returncode == 2 and b"enrol" in unenrolled.stderr


def test_a_damaged_outbox_never_stops_the_node(live: Make) -> None:
    node = live()
    node.start()
    node.drive(30)
    node.stop()
    (node.folder / "outbox.db").write_bytes(b"not a database" * 1000)
    node.start()
    node.drive(30)
    assert node.stop() == 0
    segments = node.segments()
    assert segments[0].segment.previous == "store was damaged and set aside as outbox.db.damaged-1"
    assert "store_damaged" in node.logged() and check(segments).complete


def test_damage_at_work_begins_a_new_run_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = _daemon(tmp_path, None)

    def broken(*_: object, **__: object) -> None:
        raise StoreDamaged("database disk image is malformed")

    async def main() -> None:
        await daemon.begin()
        for n in range(5):
            daemon.committer.accept(draft(n))
        assert await daemon.committer.commit()
        daemon.committer.accept(draft(6))
        with monkeypatch.context() as patch:
            patch.setattr(Store, "commit", broken)
            assert not await daemon.committer.commit()
        assert await daemon.committer.commit(flush=True, clean=True)

    asyncio.run(main())
    assert (tmp_path / "outbox.db.damaged-1").exists()
    segments = rows(tmp_path / "outbox.db")
    report = check(segments)
    assert report.complete and report.lost == (), report
    kinds = [event.kind for s in segments for event in s.segment.events]
    assert kinds == [Kind.RUN_START, *[Kind.FACT] * 5, Kind.RUN_START, Kind.FACT]


def test_an_alarm_on_a_full_disk_goes_in_and_says_what_was_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = _daemon(tmp_path, None)
    commit = Outbox.commit

    def full(box: Outbox, batch: Batch, **how: Any) -> Committed:
        if any(not item.urgent for item in batch.items):
            raise StoreFull("no space")
        return commit(box, batch, **how)

    async def main() -> None:
        await daemon.begin()
        with monkeypatch.context() as patch:
            patch.setattr(Outbox, "commit", full)
            for n in range(3):
                daemon.committer.accept(draft(n))
            assert not await daemon.committer.commit()
            assert len(daemon.committer.intake) == 3, "telemetry waits"
            daemon.committer.accept(draft(4, urgent=True, text="alarm"))
            daemon.committer.accept(draft(5))
            assert await daemon.committer.commit()
            assert len(daemon.committer.intake) == 1, "what came after the alarm waits"
            assert daemon.committer.store_state == "no space"
        alarm = rows(tmp_path / "outbox.db")[-1].segment
        assert alarm.events[-1].body[115] == "alarm"
        assert [(t.reason, t.first, t.last) for t in alarm.tombstones] == [(Lost.REFUSED_FULL, 1, 3)]
        assert await daemon.committer.commit(flush=True)
        assert daemon.committer.store_state == "ok" and (tmp_path / "reserve").exists()

    asyncio.run(main())
    assert check(rows(tmp_path / "outbox.db")).complete


def test_a_fact_that_cannot_be_committed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = _daemon(tmp_path, None)
    monkeypatch.setattr("edge.runtime.daemon.FACT_S", 0.2)

    def full(*_: object, **__: object) -> None:
        raise StoreFull("no space at all")

    async def main() -> None:
        await daemon.begin()
        with monkeypatch.context() as patch:
            patch.setattr(Outbox, "commit", full)
            with pytest.raises(FactsError, match="no space at all"):
                await daemon.handle(FactIn("uplink", "x"))
        assert await daemon.handle(FactIn("uplink", "y")) == {0: "ok", 1: 2}

    asyncio.run(main())


def test_a_commit_whose_waiter_is_cancelled_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fact that gives up after its time, or SIGTERM, in the middle of a commit on a slow card."""
    daemon = _daemon(tmp_path, None)
    commit, entered, go_on = Outbox.commit, threading.Event(), threading.Event()

    def slow(box: Outbox, batch: Batch, **how: Any) -> Committed:
        entered.set()
        assert go_on.wait(30)
        return commit(box, batch, **how)

    async def main() -> None:
        await daemon.begin()
        with monkeypatch.context() as patch:
            patch.setattr(Outbox, "commit", slow)
            daemon.committer.accept(draft(1))
            waiting = asyncio.create_task(daemon.committer.commit())
            await asyncio.to_thread(entered.wait)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            daemon.committer.accept(draft(2))
            go_on.set()
            assert await daemon.committer.commit(flush=True, clean=True)
        assert len(daemon.committer.intake) == 0 and daemon.committer.events == 3

    asyncio.run(main())
    assert check(rows(tmp_path / "outbox.db")).complete


def test_a_roadside_node_sights_tyres(live: Make) -> None:
    node = live(kind="roadside", protocol="board")
    node.start()
    data = encode_data(5, tyres=[(bytes.fromhex("a1b2c3d4"), 230, 20, 3)])
    node.feed(frame(2, 0, data))
    assert node.stop() == 0
    events = [e for s in node.segments() for e in s.segment.events]
    assert [e.body[116] for e in events if e.kind is Kind.SIGHTING] == ["a1b2c3d4"]


def test_a_dead_oracle_and_a_missing_port_harm_nobody(live: Make) -> None:
    node = live()
    node.oracle.close()
    (node.home / "oracle").unlink()
    text = node.config.read_text() + '[[port]]\nname = "board"\npath = "/dev/absent"\nprotocol = "board"\n'
    node.config.write_text(text)
    node.start()
    node.drive(20)
    status = node.until(lambda s: s["events"] > 10)
    assert status["ports"] == {"gnss": "ok", "board": "absent"} and status["faults"] == {}
    assert node.stop() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = Path("/tmp") / f"hf-disk-{os.getpid()}"
    mount = shutil.which("mount")
    folder.mkdir()
    try:
        if os.geteuid() != 0 or mount is None:
            pytest.skip("mounting a small file system needs root")
        done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip(f"cannot mount: {done.stderr.decode()}")
        yield folder
        subprocess.run(["umount", "-l", folder], check=True)
    finally:
        folder.rmdir()


def test_a_full_disk_is_survived_counted_and_healed_without_a_restart(live: Make, small_disk: Path) -> None:
    node = live(state=small_disk)
    node.start()
    node.drive(60)
    node.call("seal")
    held = node.segments()
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        while True:
            file.write(bytes(4096))
    for _ in range(40):
        node.drive(50)
        time.sleep(0.05)
        if node.status()["store"] != "ok":
            break
    assert "no space" in node.status()["store"]
    answer = node.call("receipt", {1: node.receipt(held)})
    assert answer[1] + answer[2] >= len(held), "every row is gone or remembered"
    accepted = node.status()["events"]
    filler.unlink()
    node.drive(10)
    node.until(lambda s: s["store"] == "ok" and s["events"] > accepted and s["outbox"]["remembered"] == 0)
    assert node.stop() == 0
    report = check(held + node.segments())
    assert report.complete, report
    assert not {s.hash for s in held} & {s.hash for s in node.segments()}


def test_a_read_only_folder_is_named_at_the_start(live: Make, small_disk: Path) -> None:
    node = live(state=small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = _run(node.config)
    assert done.returncode == 13 and b"owner, mode and mount" in done.stderr


def _daemon(folder: Path, detector: Decides | None) -> Daemon:
    parsed = config(NODE, str(folder))
    log = Log("error", (folder / "log").open("w"))
    outbox = Outbox(folder, SIGNER, OutboxLimits(), seal_interval_ns=60 * NS, say=log.say)
    return Daemon(parsed, SystemClock(), Pipeline(parsed, detector, software="x"), outbox, log)


class Bad:
    """A detector with a bug."""

    def observe(self, reading: Reading) -> list[Verdict]:
        raise ZeroDivisionError("a bug")

    def tick(self, t_ns: int) -> list[Verdict]:
        return []


def test_a_fault_in_the_path_costs_its_reading_only(tmp_path: Path) -> None:
    daemon = _daemon(tmp_path, Bad())
    for n in range(20):
        daemon.deliver([Tyre(n, "board", "aa", 230, 20, None)])
    assert daemon.committer.faults == {"pipeline": 20}
    assert (tmp_path / "log").read_text().count("ZeroDivisionError") == 5, "one kind of line is rate limited"


def test_what_was_refused_for_want_of_space_is_told(live: Make, small_disk: Path) -> None:
    """More than fits in memory as well: the oldest telemetry goes, and a tombstone says so."""
    node = live(extra="commit_interval_s = 0.5\n", state=small_disk)
    node.start()
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        while True:
            file.write(bytes(4096))
    for _ in range(200):
        node.drive(50)
        if node.status()["refused_full"] > 20:
            break
    refused = node.status()["refused_full"]
    assert refused > 20
    filler.unlink()
    node.until(lambda s: s["store"] == "ok" and s["pending"] == 0)
    assert node.stop() == 0
    report = check(node.segments())
    assert report.complete, report
    assert dict(report.lost)[Lost.REFUSED_FULL] >= refused
