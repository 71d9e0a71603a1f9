"""What the tests of cases share: a collector with devices that tell incidents, and people at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cloudkit import START_MS, TENANT, Device, Kit, make_kit

from cloud_sync.access import Principal, scopes_of
from cloud_sync.casework import Ref
from cloud_sync.runtime import case_reads, cases, fleet
from cloud_sync.runtime.collector_files import load_keys
from cloud_sync.runtime.intake import Intake
from cloud_sync.runtime.sequencer import Sequencer
from cloud_sync.runtime.store import Store
from edge.event import Event, Key, Kind
from firmware_bridge.wire import cose
from firmware_bridge.wire.signals import Sig
from models.verdict import Action, Cause

OPERATORS = ("li", "wang")


def account(name: str = "li", role: str = "operator", tenant: str = TENANT, branches: str = "") -> Principal:
    """Somebody who is logged in; `branches` parted by spaces."""
    return Principal(tenant, 1, name, role, scopes_of(role, False), frozenset(branches.split()))


def told(
    device: Device,
    number: int = 1,
    action: Action = Action.OPENED,
    cause: Cause = Cause.MOVED_WITHOUT_WHEELS,
    permille: int = 900,
    place: tuple[float, float] | None = (31.2345, 121.4567),
) -> Event:
    """An incident event with a position."""
    body: dict[int, object] = {
        int(Key.INCIDENT): number, int(Key.CAUSE): int(cause), int(Key.ACTION): int(action),
        int(Key.CONFIDENCE_PERMILLE): permille, int(Key.SENTENCE): "The car moves 41 m, no wheel turns.",
        int(Key.EVIDENCE): [["position", "41 m in 20 s"], ["tyres", "not rolling"]],
    }  # fmt: skip
    if place is not None:
        body |= {int(Sig.LATITUDE): round(place[0] * 1e4), int(Sig.LONGITUDE): round(place[1] * 1e4)}
    return device.event(Kind.INCIDENT, body)


@dataclass(slots=True)
class Desk:
    """A collector with people at it."""

    kit: Kit
    store: Store
    sequencer: Sequencer
    intake: Intake
    key: cose.PrivateKey
    wall_ms: int = START_MS + 60_000
    devices: dict[str, Device] = field(default_factory=dict)

    def device(self, name: str = "car-1") -> Device:
        return self.devices.setdefault(name, self.kit.device(name))

    def tell(self, *events: Event, name: str = "car-1") -> None:
        """A device seals `events` and the collector takes and logs them."""
        device = self.device(name)
        outcome, _ = self.intake.process([device.message(device.seal(events))])
        assert outcome.accepted == 1

    def open(self, name: str = "car-1", number: int = 1, **changes: object) -> str:
        """An incident; its id."""
        device = self.device(name)
        self.tell(told(device, number, **changes), name=name)  # type: ignore[arg-type]
        return str(Ref(name, device.run, number))

    def card(self, device: str, name: str | None = None, branch: str | None = None) -> None:
        with self.store.transaction() as db:
            fleet.set_card(db, TENANT, device, name, branch, None)

    def act(self, who: Principal, incident: str, action: str, note: str = "", **more: object) -> None:
        """An act upon the version that stands, unless `version` says another."""
        self.wall_ms += 1000
        version = more.pop("version", None)
        if version is None:
            version = self.version(incident)
        cases.act(
            self.store, who, incident, action=action, version=version, note=note, accounts=OPERATORS,
            key=self.key, wall_ms=self.wall_ms, **more,
        )  # type: ignore[arg-type]  # fmt: skip

    def version(self, incident: str) -> int:
        return int(case_reads.row(self.store.db, TENANT, incident)["version"])

    def state(self, incident: str) -> str:
        return str(case_reads.row(self.store.db, TENANT, incident)["state"])

    def rows(self, table: str) -> list[tuple[object, ...]]:
        return self.store.db.execute(f"SELECT * FROM {table}").fetchall()


@contextmanager
def open_desk(home: Path, nodes: tuple[str, ...] = ("car-1", "car-2")) -> Iterator[Desk]:
    """A desk below `home`."""
    kit = make_kit(home, nodes)
    with kit.collector() as (store, sequencer, intake):
        yield Desk(kit, store, sequencer, intake, load_keys(kit.config).ledger)


def copy_to_tenant(desk: Desk, tenant: str, *tables: str) -> None:
    """Give `tenant` the same rows of `tables`, as if its own devices had said the same."""
    with desk.store.transaction() as db:
        for table in tables:
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] != "tenant"]
            names = ", ".join(columns)
            db.execute(f"INSERT INTO {table}(tenant, {names}) SELECT ?, {names} FROM {table}", (tenant,))
