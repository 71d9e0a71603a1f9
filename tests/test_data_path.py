"""One data path in one process: a receiver's bytes in, a log row out, a receipt back, the row forgotten."""

from __future__ import annotations

from pathlib import Path

from cloudkit import START_MS, TENANT, Kit, make_kit

from cloud_sync.collector import Message
from cloud_sync.runtime import queries
from edge import segment as sg
from edge.config import OutboxLimits, parse
from edge.event import Key, Kind
from edge.intake import Intake
from edge.pipeline import Pipeline
from edge.receipt import verify_receipt
from edge.runtime.edged import make_detector
from edge.runtime.outbox import Outbox
from edge.runtime.outbox_reader import OutboxReader
from edge.sealer import Signer
from edge.topics import seg_topic
from firmware_bridge.framing import frame
from firmware_bridge.sensors.board import encode_data, encode_hello
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire import cose
from firmware_bridge.wire.signals import Sig
from firmware_bridge.wire.stamp import NS, ClockKind

DEVICE = "car-1"
CONFIG = f"""
[node]
tenant = "{TENANT}"
device = "{DEVICE}"
kind = "vehicle"
[[port]]
name = "gnss"
path = "/dev/none-gnss"
protocol = "nmea"
[[port]]
name = "board"
path = "/dev/none-board"
protocol = "board"
"""


def sentence(body: str) -> bytes:
    check = 0
    for byte in body.encode():
        check ^= byte
    return f"${body}*{check:02X}\r\n".encode()


def minute(second: int) -> bytes:
    """One second of a car that drives east at 36 km/h from an invented place."""
    minutes = 32.98200 + second * 0.008
    return sentence(f"GNRMC,0440{second:02d}.00,A,4807.88400,N,011{minutes:08.5f},E,19.4,90.0,011226,,,A")


class Node:
    """An edge without its daemon: the same pipeline, intake and outbox, driven by the test."""

    def __init__(self, kit: Kit, folder: Path) -> None:
        config = parse(CONFIG, base=str(folder))
        key = kit.device(DEVICE).key
        self.pipeline = Pipeline(config, make_detector(config), software="test")
        signer = Signer(TENANT, DEVICE, ClockKind.LIVE, key, cose.key_id(key.public_key()))
        self.outbox = Outbox(
            folder, signer, OutboxLimits(), seal_interval_ns=60 * NS, say=lambda *args, **fields: None
        )
        self.outbox.ensure(START_MS * 1_000_000)
        self.intake = Intake(self.outbox.run)
        self.add(self.pipeline.start(self.now(0), "test"))

    @staticmethod
    def now(second: int) -> Now:
        return Now(second * NS, START_MS * 1_000_000 + second * NS, True, 0)

    def add(self, *drafts: object) -> None:
        for draft in drafts:
            self.intake.add(draft)  # type: ignore[arg-type]

    def commit(self, second: int, *, flush: bool = False) -> int:
        done = self.outbox.commit(
            self.intake.take(), now_ns=second * NS, wall_ns=self.now(second).host_wall_ns, flush=flush
        )
        self.intake.done()
        return len(done.events)


def test_from_bytes_to_a_log_row_and_back(tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "lab", [DEVICE])
    (tmp_path / "state").mkdir()
    node = Node(kit, tmp_path / "state")
    node.add(*node.pipeline.feed("board", frame(1, 0, encode_hello(b"\x01" * 8, "1.2.3", 1)), node.now(0)))
    power = frame(2, 1, encode_data(100, power=(14_200, 0, False, 60)))
    node.add(*node.pipeline.feed("board", power, node.now(0)))
    for second in range(20):
        node.add(*node.pipeline.feed("gnss", minute(second), node.now(second)))
    node.add(*node.pipeline.feed("gnss", b"$GNRMC,broken*00\r\n", node.now(20)))
    assert node.pipeline.continuity.position_valid == 20
    assert node.pipeline.continuity.refused == {"bad_checksum": 1}
    node.add(*node.pipeline.stop(node.now(20)))
    accepted = node.commit(20, flush=True)
    assert accepted >= 22

    reader = OutboxReader(tmp_path / "state" / "outbox.db")
    rows = reader.rows(100)
    bodies = [reader.body(row) for row in rows]
    topic = seg_topic(TENANT, DEVICE)
    with kit.collector() as (store, sequencer, intake):
        outcome, outgoing = intake.process([Message(topic, body) for body in bodies if body is not None])
        assert outcome.accepted == len(rows) and not outcome.quarantined
        logged = store.db.execute(
            "SELECT hash, log_index FROM segments WHERE tenant = ? AND device = ? ORDER BY number",
            (TENANT, DEVICE),
        ).fetchall()
        assert [bytes(row[0]) for row in logged] == [row.hash for row in rows]
        assert sequencer.size == len(rows)
    status = queries.log_status(kit.config.store)
    assert status["verified"] and status["size"] == len(rows)
    receipt = verify_receipt(outgoing[0].payload, kit.trust)
    assert (receipt.tenant, receipt.device) == (TENANT, DEVICE)
    deleted, _ = node.outbox.forget(
        [(item.run, item.number, item.hash) for item in receipt.items], START_MS * 1_000_000
    )
    assert deleted == len(rows) and reader.rows(100) == []

    events = [e for body in bodies if body is not None for e in sg.peek(body).segment.events]
    assert [event.seq for event in events] == list(range(accepted))
    kinds = [event.kind for event in events]
    assert kinds[0] is Kind.RUN_START and kinds.count(Kind.POSITION) >= 19 and Kind.POWER in kinds
    fix = next(event for event in events if event.kind is Kind.POSITION)
    assert fix.body[int(Sig.LATITUDE)] % 100 == 0, "telemetry leaves the node on a grid of 0.01 degrees"
    assert fix.stamp.wall_ns == START_MS * 1_000_000
    refused = [event for event in events if event.kind is Kind.REFUSED]
    assert refused and refused[0].body[int(Key.COUNTS)] == [["bad_checksum", 1]]
