"""What the cloud's tests share: a lab on disk, devices that seal segments, a collector without a broker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cloud_sync.collector import Message
from cloud_sync.runtime.collector_files import CollectorConfig, load_config, load_keys
from cloud_sync.runtime.collectord import open_intake
from cloud_sync.runtime.intake import Intake
from cloud_sync.runtime.sequencer import Sequencer
from cloud_sync.runtime.store import Store
from edge import segment as sg
from edge.event import Event, Key, Kind
from edge.topics import seg_topic
from edge.trust import Trust
from firmware_bridge.wire import cose
from firmware_bridge.wire.stamp import ClockKind, Stamp, TimeSource
from models.verdict import Action, Cause
from provisioning.runtime.lab import Lab, make_lab

TENANT = "fund"
START_MS = 1_796_100_000_000
"""2026-12-01T04:40:00Z."""


class TestClock:
    """A clock that stands where it is put."""

    __test__ = False
    kind = ClockKind.LIVE
    synced = True
    floor_ns = 0

    def __init__(self, wall_ms: int = START_MS) -> None:
        self.wall_ms = wall_ms

    def mono_ns(self) -> int:
        return self.wall_ms * 1_000_000

    def wall_ns(self) -> int:
        return self.wall_ms * 1_000_000


@dataclass(slots=True)
class Device:
    """Seals segments as an edge does, without one."""

    tenant: str
    name: str
    key: ec.EllipticCurvePrivateKey
    run: bytes = b"\x01" * 16
    number: int = 0
    previous: bytes | sg.Previous | str = "first start"
    seq: int = 0
    wall_ms: int = START_MS
    clock: ClockKind = ClockKind.LIVE
    sealed: list[sg.Sealed] = field(default_factory=list)

    @property
    def topic(self) -> str:
        return seg_topic(self.tenant, self.name)

    def event(self, kind: Kind = Kind.HEARTBEAT, body: dict[int, object] | None = None) -> Event:
        stamp = Stamp(self.seq * 1_000_000_000, self.wall_ms * 1_000_000, TimeSource.GNSS, 100)
        event = Event(self.seq, kind, stamp, body or {int(Key.NEXT_HEARTBEAT_S): 60})  # type: ignore[arg-type]
        self.seq += 1
        self.wall_ms += 1000
        return event

    def incident(self, number: int = 1, action: Action = Action.OPENED, confidence: int = 900) -> Event:
        stamp = [self.seq * 1_000_000_000, self.wall_ms, 4, 100]
        return self.event(
            Kind.INCIDENT,
            {
                int(Key.INCIDENT): number, int(Key.CAUSE): int(Cause.MOVED_WITHOUT_WHEELS),
                int(Key.ACTION): int(action), int(Key.CONFIDENCE_PERMILLE): confidence,
                int(Key.SENTENCE): "The car moves 41 m, no wheel turns.",
                int(Key.EVIDENCE): [["position", "41 m in 20 s"], ["tyres", "not rolling"]],
                int(Key.SINCE): stamp,
            },
        )  # fmt: skip

    def seal(
        self,
        events: int | Sequence[Event] = 3,
        *,
        tombstones: Sequence[sg.Tombstone] = (),
        key: cose.PrivateKey | None = None,
        skip: int = 0,
    ) -> sg.Sealed:
        """The next segment of the chain; `skip` numbers are sealed and thrown away before it."""
        for _ in range(skip):
            self.seal(1)
            self.sealed.pop()
        made = [self.event() for _ in range(events)] if isinstance(events, int) else list(events)
        segment = sg.Segment(
            self.tenant,
            self.name,
            self.run,
            self.number,
            self.previous,
            self.clock,
            tuple(made),
            tuple(tombstones),
        )
        signer = key or self.key
        sealed = sg.seal(segment, signer, cose.key_id(signer.public_key()))
        self.number, self.previous = self.number + 1, sealed.hash
        self.sealed.append(sealed)
        return sealed

    def restart(self) -> None:
        """A new run that names the last segment of this one."""
        if isinstance(self.previous, bytes):
            self.previous = sg.Previous(self.run, self.number - 1, self.previous)
        self.run = hashlib.sha256(self.run).digest()[:16]
        self.number = self.seq = 0

    def message(self, sealed: sg.Sealed | bytes) -> Message:
        return Message(self.topic, sealed if isinstance(sealed, bytes) else sealed.data)

    def messages(self, count: int, events: int = 3) -> list[Message]:
        return [self.message(self.seal(events)) for _ in range(count)]


@dataclass(slots=True)
class Kit:
    """A lab with a collector's folder."""

    lab: Lab
    config: CollectorConfig
    clock: TestClock

    @property
    def trust(self) -> Trust:
        return Trust.from_json(self.lab.trust.read_text("utf-8"))

    @property
    def config_path(self) -> Path:
        return self.lab.collector / "collector.toml"

    def device(self, name: str) -> Device:
        key = load_pem_private_key((self.lab.nodes[name] / "keys" / "event.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        run = hashlib.sha256(name.encode()).digest()[:16]
        return Device(self.lab.tenant, name, key, run)

    def tls_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        key = load_pem_private_key((self.lab.nodes[name] / "keys" / "tls.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    @contextmanager
    def collector(self) -> Iterator[tuple[Store, Sequencer, Intake]]:
        store, sequencer, intake = open_intake(self.config, load_keys(self.config), self.clock)
        with store:
            yield store, sequencer, intake


def make_kit(
    home: Path, nodes: Sequence[str] = ("car-1", "car-2"), *, port: int = 1, kinds: Sequence[str] = ("live",)
) -> Kit:
    """A lab below `home`; the collector takes the clock `kinds` named and dials `port` when it is run."""
    lab = make_lab(home, TENANT, [(name, "vehicle") for name in nodes], "127.0.0.1")
    write_config(lab, port, kinds)
    return Kit(lab, load_config(lab.collector / "collector.toml"), TestClock())


def write_config(lab: Lab, port: int, kinds: Sequence[str] = ("live",)) -> Path:
    """collector.toml of the lab's collector."""
    path = lab.collector / "collector.toml"
    names = ", ".join(f'"{kind}"' for kind in kinds)
    path.write_text(
        f'[collector]\norigin = "log.holdfast.example/demo"\ntenant = "{lab.tenant}"\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nserver_name = "localhost"\n'
        f"[policy]\naccept_kinds = [{names}]\n",
        "utf-8",
    )
    return path
