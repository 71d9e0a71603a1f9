"""What a vehicle costs a day at one event a second: bytes on the wire, and bytes written to flash."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paths import COMMIT_NS, KEY, WALL_NS, draft, open_outbox
from rows import Row

from cloud_sync.log.checkpoint import sign_checkpoint
from edge.intake import Intake
from edge.note import Checkpoint
from edge.receipt import ReceiptItem, make_receipt
from edge.segment import peek
from edge.topics import receipt_topic, seg_topic
from firmware_bridge.wire.stamp import NS

MEASURED_S: Final = 3600
"""An hour is measured, in scenario time, and stands for each of the day's."""
HOURS: Final = 24
TLS_RECORD: Final = 22
"""TLS 1.3 (RFC 8446 section 5.2): header 5, content type 1, tag 16; one record a packet of MQTT."""
PUBACK: Final = 4
TCP_IP: Final = 40
"""IPv4 and TCP headers without options; each packet of at most MSS bytes has them, and so has its ACK."""
MSS: Final = 1400
TENANT: Final = "fund-a"
DEVICE: Final = "vehicle-1"


def publish_bytes(topic: str, payload: int) -> int:
    """An MQTT 3.1.1 PUBLISH with QoS 1 (section 3.3): header, length, topic, packet id, payload."""
    remaining = 2 + len(topic) + 2 + payload
    length = 1 + sum(remaining >= 1 << bits for bits in (7, 14, 21))
    return 1 + length + remaining


def on_the_line(mqtt: int) -> int:
    """Bytes of one MQTT packet with its TLS record, TCP segments and their acknowledgements."""
    data = mqtt + TLS_RECORD
    return data + 2 * TCP_IP * -(-data // MSS)


def receipt_for(data: bytes, index: int, log_key: Ed25519PrivateKey) -> bytes:
    """The receipt a collector sends for one segment."""
    sealed = peek(data)
    note = sign_checkpoint(Checkpoint("log.holdfast.example/demo", index + 1, sealed.hash), log_key)
    item = ReceiptItem(sealed.segment.run, sealed.segment.number, sealed.hash, index)
    return make_receipt(TENANT, DEVICE, "log.holdfast.example/demo", note, [item], KEY)


def written() -> tuple[int, int]:
    """(bytes given to write calls, bytes sent to block devices) of this process so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text("ascii").splitlines())
    return int(fields["wchar"]), int(fields["write_bytes"])


def day(folder: Path) -> Iterator[Row]:
    """One event a second, committed every 5 s, sealed at 50, receipted and forgotten a few seconds later."""
    outbox = open_outbox(folder / "day")
    intake = Intake(outbox.run)
    outbox.ensure(WALL_NS)
    reader = sqlite3.connect(
        f"{(folder / 'day' / 'outbox.db').as_uri()}?mode=ro", uri=True, isolation_level=None
    )
    log_key = Ed25519PrivateKey.generate()
    mqtt = line = bodies = segments = events = 0
    before = written()
    for second in range(MEASURED_S):
        intake.add(draft(second))
        now_ns = second * NS
        if not (intake.due(now_ns, COMMIT_NS) or outbox.seal_due(now_ns)):
            continue
        done = outbox.commit(intake.take(), now_ns=now_ns, wall_ns=WALL_NS + now_ns)
        intake.done()
        events += len(done.events)
        if not done.sealed:
            continue
        entries = []
        for run, number, digest, data in reader.execute(
            "SELECT run, number, hash, body FROM segments"
        ).fetchall():
            down = receipt_for(data, segments, log_key)
            packets = (
                publish_bytes(seg_topic(TENANT, DEVICE), len(data)), PUBACK,
                publish_bytes(receipt_topic(TENANT, DEVICE), len(down)), PUBACK,
            )  # fmt: skip
            mqtt += sum(packets)
            line += sum(on_the_line(packet) for packet in packets)
            bodies, segments = bodies + len(data), segments + 1
            entries.append((run, number, digest))
        outbox.forget(entries, WALL_NS + now_ns)
    calls, device = (after - earlier for after, earlier in zip(written(), before, strict=True))
    reader.close()
    outbox.close()
    scale = HOURS * MEASURED_S / events
    mb = 1e6
    yield Row("signed_bytes_per_event", round(bodies / events, 1), "B, event and its share of the segment")
    yield Row("wire_mqtt_bytes_per_event", round(mqtt / events, 1), "B, both directions, with receipts")
    yield Row("wire_per_vehicle_day", round(line * scale / mb, 2), "MB, with TLS, TCP and IP, at 1 event/s")
    yield Row("flash_per_vehicle_day", round(calls * scale / mb, 2), "MB written by SQLite, at 1 event/s")
    if device:
        yield Row(
            "flash_device_per_vehicle_day", round(device * scale / mb, 2), "MB sent to the block device"
        )
