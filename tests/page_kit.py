"""What browser tests share: a store full of everything a page can show, a server, Debian's Chromium.

    def test_it(world: World, browser: Pages) -> None:
        page = browser.page(world, "#/fleet", language="zh", phone=True)

`python tests/page_kit.py --screenshots FOLDER` writes a picture of every view in both languages.
The Chinese ones need a Chinese font on this machine (Debian: fonts-wqy-microhei or fonts-noto-cjk).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import re
import socket
import struct
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from cloudkit import START_MS, TENANT, Device
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from serve_kit import OTHER, ServeKit, add_device, make_serve_kit, quick_passwords

from cloud_sync.ledger.vin import Market, check_digit
from cloud_sync.runtime import fleet
from cloud_sync.runtime.collector_files import load_keys
from cloud_sync.runtime.serve import accounts
from cloud_sync.runtime.serve.accounts import NewAccount
from cloud_sync.runtime.serve.app import create_app, open_context
from cloud_sync.runtime.serve.daemon import Running
from cloud_sync.runtime.store import Store
from cloud_sync.runtime.titles import Desk
from edge import segment as sg
from edge.event import Event, Key, Kind
from firmware_bridge.wire.signals import Sig, quantise
from firmware_bridge.wire.stamp import ClockKind
from models.verdict import Action, Cause

CHROMIUM: Final = Path("/usr/bin/chromium")
MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
NOW_MS: Final = START_MS + 14 * DAY
"""The collector's clock: two weeks after the devices' first words."""
EVIL: Final = "<img src=x onerror=\"document.title='owned'\"><b>Bold</b>"
"""Name of a car: must show up as exactly this text."""
EVIL_DEVICE: Final = "van-html"
PLAIN: Final = ("van-9", ("Loan car 9", "South", ""))
"""What stands in its place in pictures: device and card."""
ALL_KINDS: Final = ("live", "replay", "simulated")
DESKTOP: Final = {"width": 1280, "height": 800}
PHONE: Final = {"width": 390, "height": 844}
SETTLE_MS: Final = 10_000
"""Longest wait for a view: a bound for a broken page, not a measurement."""

TOW: Final = (
    (
        "Moved 1.4 km in 6 min without a wheel turning: 4 tyres cold and unchanged, no engine (12.4 V), a "
        "tilt of 11 degrees before it moved, transport vibration; most likely on a flatbed."
    ),
    (
        ("tyres", "4 of 4 enrolled tyre sensors heard, none rolled since it was parked"),
        ("position", "1.4 km from where it was parked, by fixes and by Doppler speed"),
        ("vibration", "tilted up to 11 degrees against the parked position"),
        ("supply", "supply at rest, 12.4 V: no engine"),
    ),
)
JAM: Final = (
    (
        "No satellite heard for 7 min although the receiver works, although it stood under an open sky; most "
        "likely it is being jammed."
    ),
    (
        ("position", "no position for 7 min"),
        ("radio", "satellites in view, none heard for 7 min, although it stood under an open sky"),
    ),
)
FENCE: Final = (
    (
        "Left its region of 25.0 km around its place: now 3.1 km beyond the edge, 9 min after it was last "
        "inside, at 84 km/h."
    ),
    (
        ("position", "3.1 km beyond the edge, by fixes that persist"),
        ("position", "Doppler speed adds up to the same way"),
    ),
)
OPENED: Final = (
    "The tracker's case was opened and its supply was cut (0.1 V); most likely it is being removed.",
    (("case", "the tracker's case is open"), ("supply", "its supply is cut (0.1 V)")),
)
SILENT: Final = (
    (
        "The board at rear-axle has been silent for 45 min, 15 min were announced; nothing announced it and "
        "the port is in order."
    ),
    (("radio", "the board at rear-axle has been silent for 45 min, 15 min were announced"),),
)
SAID: Final = {
    Cause.MOVED_WITHOUT_WHEELS: TOW, Cause.JAMMED: JAM, Cause.LEFT_REGION: FENCE,
    Cause.REMOVED_OR_OPENED: OPENED, Cause.SILENT: SILENT,
}  # fmt: skip
PURPOSE: Final = "Patrol 4 is on the way, case 2026-118"
TYPED: Final = f"{PURPOSE} Asia Shanghai Night duty Control room Nightly report Owner"
"""What people typed elsewhere."""
CARDS: Final = {
    "car-1": ("White flatbed 7", "North", "Key with the porter. Towed before, in March."),
    "car-2": ("Red van 12", "North", ""),
    "truck-3": ("浦东 3 号货车", "华东", "夜间停在仓库后院。"),
    "truck-4": ("Tipper 4", "South", ""),
    "van-5": ("Courier 5", "South", ""),
    "van-6": ("Courier 6", "North", ""),
    EVIL_DEVICE: (EVIL, "South", "<script>alert(1)</script>"),
    "car-8": ("Pool car 8", "华东", ""),
}
PLACES: Final = (
    "name,lat,lon,radius_m,kind\nRiverside depot,31.23,121.44,600,depot\n"
    "Harbour yard,31.36,121.60,900,depot\n浦东仓库,31.22,121.53,800,depot\n"
    "Motorway services,31.12,121.30,500,services\n"
)


@dataclass(slots=True)
class World:
    """A served store."""

    kit: ServeKit
    url: str = ""
    title: str = ""
    """Token of a pledged title."""
    tow: str = ""
    """Id of an open incident of car-1."""
    far: str = ""
    """Id of an incident of the other tenant."""
    pictured: bool = False
    """Made for pictures: the car whose name is HTML is left out."""
    opened: dict[str, str] = field(default_factory=dict)
    """Device -> id of its first incident."""
    _numbers: dict[str, int] = field(default_factory=dict)
    _stop: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    # -- devices ---------------------------------------------------------------------------------------

    @property
    def cards(self) -> dict[str, tuple[str, str, str]]:
        """Device -> name, branch and note of its card."""
        if not self.pictured:
            return CARDS
        return {**{name: card for name, card in CARDS.items() if name != EVIL_DEVICE}, PLAIN[0]: PLAIN[1]}

    @property
    def last(self) -> str:
        """The car whose name is HTML, or what stands in its place."""
        return PLAIN[0] if self.pictured else EVIL_DEVICE

    def device(self, name: str) -> Device:
        return self.kit.devices[name]

    def seal(self, name: str, *events: Event, **options: Any) -> None:
        """A segment of `name` arrives at the collector."""
        one = self.device(name)
        self.kit.take((name, one.seal(list(events) or 1, **options)))

    def beat(self, name: str, *, due_s: int = 15 * 60, waiting: int = 0) -> Event:
        body = {
            int(Key.NEXT_HEARTBEAT_S): due_s, int(Key.SOFTWARE): "0.1.0", int(Key.OUTBOX_SEGMENTS): waiting,
            int(Key.OUTBOX_BYTES): waiting * 900, int(Key.LOSS_WINDOW_MS): 1000,
        }  # fmt: skip
        return self.device(name).event(Kind.HEARTBEAT, dict(body))

    def fix(self, name: str, lat: float, lon: float, speed: float = 0.0) -> Event:
        body = {
            int(Sig.LATITUDE): quantise(Sig.LATITUDE, lat), int(Sig.LONGITUDE): quantise(Sig.LONGITUDE, lon),
            int(Sig.SPEED): quantise(Sig.SPEED, speed), int(Sig.SATELLITES): 9,
        }  # fmt: skip
        return self.device(name).event(Kind.POSITION, dict(body))

    def tyres(self, name: str, kpa: float = 230.0, rolling: int = 0) -> Event:
        body = {int(Sig.TYRE_PRESSURE_FL) + n: round(kpa + n) for n in range(4)}
        body |= {int(Sig.TYRE_TEMPERATURE_FL) + n: 8 + n for n in range(4)}
        body[int(Sig.TYRE_ROLLING)] = rolling
        return self.device(name).event(Kind.TYRES, dict(body))

    def shake(self, name: str, rms: float, tilt: float = 0.0) -> Event:
        body = {int(Sig.VIBRATION_RMS_X) + n: quantise(Sig.VIBRATION_RMS_X, rms) for n in range(3)}
        body |= {
            int(Sig.VIBRATION_PEAK): quantise(Sig.VIBRATION_PEAK, rms * 4),
            int(Sig.TILT): quantise(Sig.TILT, tilt),
        }
        return self.device(name).event(Kind.VIBRATION, dict(body))

    def power(self, name: str, volts: float, state: int = 1, *, case_open: bool = False) -> Event:
        body = {
            int(Sig.SUPPLY_VOLTAGE): quantise(Sig.SUPPLY_VOLTAGE, volts), int(Sig.CASE_OPEN): int(case_open),
            int(Sig.POWER_STATE): state,
        }  # fmt: skip
        return self.device(name).event(Kind.POWER, dict(body))

    def claim(
        self, name: str, cause: Cause, *, number: int = 1, action: Action = Action.OPENED,
        confidence: int = 930, lat: float | None = None, lon: float | None = None,
    ) -> Event:  # fmt: skip
        """An incident event with a sentence of the detector's."""
        one = self.device(name)
        text, evidence = SAID[cause]
        if action is Action.CLOSED:
            text = "It is back in its region."
        body: dict[int, Any] = {
            int(Key.INCIDENT): number, int(Key.CAUSE): int(cause), int(Key.ACTION): int(action),
            int(Key.CONFIDENCE_PERMILLE): confidence, int(Key.SENTENCE): text,
            int(Key.EVIDENCE): [list(line) for line in evidence],
            int(Key.SINCE): [one.seq * 1_000_000_000, one.wall_ms - 2 * MINUTE, 4, 100],
        }  # fmt: skip
        if lat is not None and lon is not None:
            body[int(Sig.LATITUDE)] = quantise(Sig.LATITUDE, lat)
            body[int(Sig.LONGITUDE)] = quantise(Sig.LONGITUDE, lon)
        return one.event(Kind.INCIDENT, body)

    def open(self, name: str, cause: Cause = Cause.MOVED_WITHOUT_WHEELS, **options: Any) -> str:
        """`name` opens one more incident, now; its id."""
        one = self.device(name)
        one.wall_ms = max(one.wall_ms, self.kit.kit.clock.wall_ms - 5_000)
        number = self._numbers.get(name, 0) + 1
        self._numbers[name] = number
        self.seal(name, self.claim(name, cause, number=number, **options))
        id_ = f"{name}.{one.run.hex()}.{number}"
        self.opened.setdefault(name, id_)
        return id_

    def unreal(self, kind: ClockKind) -> str:
        """A device that replays or simulates is heard for the first time, with an incident; its id."""
        name = f"{kind.name.lower()}-1"
        one = self.kit.devices[name] = add_device(self.kit.kit, TENANT, name)
        one.run, one.clock = bytes([0x70 + kind]) * 16, kind
        one.wall_ms = self.kit.kit.clock.wall_ms - 30_000
        self.seal(name, self.beat(name), self.power(name, 12.6), self.fix(name, 31.24, 121.47))
        return self.open(name, confidence=910, lat=31.24, lon=121.47)

    # -- server ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def serving(self, port: int = 0) -> Iterator[str]:
        """The application on a loopback port, which may be one that it had before."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        context = self.kit.context
        url = context.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        context.stopping.clear()
        server = Running(self.kit.app, context)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        thread.start()
        try:
            assert server.ready.wait(30), "the server does not start"
            yield url
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server does not end"

    def start(self) -> None:
        """Serve until `stop`, at the address it had before; the second time as a new process would."""
        port = int(self.url.rpartition(":")[2]) if self.url else 0
        if self.url:
            old = self.kit.context
            self.kit.context = open_context(old.config, clock=self.kit.kit.clock, passwords=quick_passwords())
            self.kit.app = create_app(self.kit.context)
            old.close()
        self.url = self._stop.enter_context(self.serving(port))

    def stop(self) -> None:
        """The server goes away; its store stays."""
        self._stop.close()

    def close(self) -> None:
        self.stop()
        self.kit.close()


def make_world(home: Path, *, pictured: bool = False, kinds: tuple[str, ...] = ("live",)) -> World:
    """A store with incidents, titles, gaps, tombstones, two tenants, HTML in a name (but not in pictures).

    `kinds`: what the collector takes besides what these devices say, which is live.
    """
    (home / "places.csv").write_text(PLACES, "utf-8")
    kit = make_serve_kit(home, "[webhooks]\nallow_private = true", 'places = "places.csv"', kinds)
    world = World(kit, pictured=pictured)
    kit.kit.clock.wall_ms = START_MS
    for name in world.cards:
        if name not in kit.devices:
            kit.devices[name] = add_device(kit.kit, TENANT, name)
            kit.devices[name].run = bytes([len(kit.devices)]) * 16
    kit.devices["road-1"] = add_device(kit.kit, TENANT, "road-1")
    _fill(world)
    _cards_and_accounts(world)
    return world


def _fill(world: World) -> None:
    """The devices' two weeks."""
    clock = world.kit.kit.clock
    for name in (*world.cards, "road-1"):
        world.device(name).wall_ms = START_MS
        world.seal(name, world.beat(name), world.power(name, 12.6), world.tyres(name))
    if world.pictured:
        _default(world)
    clock.wall_ms = NOW_MS - 2 * DAY
    world.device("van-6").wall_ms = clock.wall_ms
    world.seal(
        "van-6",
        world.beat("van-6", due_s=3600),
        world.power("van-6", 12.3),
        world.fix("van-6", 31.31, 121.38),
    )
    clock.wall_ms = NOW_MS - 3 * HOUR
    for name in world.cards:
        world.device(name).wall_ms = NOW_MS - 3 * HOUR
    _drive(world, "car-1", 31.23, 121.44)
    _drive(world, "truck-3", 31.22, 121.53)
    _titles(world)
    _troubles(world)
    clock.wall_ms = NOW_MS
    _last_words(world)


def _drive(world: World, name: str, lat: float, lon: float) -> None:
    """An hour of standing, a drive, an hour of standing: lanes for the time line."""
    one = world.device(name)
    for n in range(30):
        driving = 10 <= n < 20
        way = max(0, min(n, 20) - 10) * 0.012
        world.seal(
            name,
            world.fix(name, lat + way, lon + way / 2, 62.0 if driving else 0.0),
            world.tyres(name, 232.0 + (n if driving else 0), 15 if driving else 0),
            world.shake(name, 0.8 if driving else 0.02),
            world.power(name, 14.1 if driving else 12.5, 0 if driving else 1),
        )
        one.wall_ms += 4 * MINUTE


def _titles(world: World) -> None:
    """Titles in several states, bound to devices."""
    config = world.kit.kit.config
    with Store(config.store) as store:
        clock = world.kit.kit.clock

        def wall_ms() -> int:
            clock.wall_ms += MINUTE
            return clock.wall_ms

        desk = Desk(store, TENANT, config.keys, load_keys(config).ledger, wall_ms)
        tokens = []
        for n, device in enumerate(("car-1", "truck-3", "van-5", "van-6")):
            bare = f"LTESTAAA0N{n + 1:07d}"
            number = bare[:8] + check_digit(bare) + bare[9:]
            token = str(desk.mint(number, Market.CN, f"Owner {n}", "", "registry")["token"])
            tokens.append(token)
            if n < 3:
                desk.propose(token, f"47{n}", "bank")
            if n < 2:
                desk.consent(token, f"47{n}", "fund", "guarantor")
                desk.consent(token, f"47{n}", "registry", "registry")
            desk.bind(token, device, [f"a1b2c3{n}{wheel}" for wheel in range(4)])
        world.title = tokens[0]


def _troubles(world: World) -> None:
    """A gap and a tombstone."""
    world.device("truck-4").wall_ms = NOW_MS - DAY
    world.seal("truck-4", world.fix("truck-4", 31.36, 121.60), skip=2)
    five = world.device("van-5")
    assert isinstance(five.previous, bytes)
    lost = sg.Tombstone(
        sg.Lost.THINNED, five.run, five.number, five.number + 3, 160, five.seq * 10**9, five.seq * 10**9,
        five.previous, b"\x05" * 32,
    )  # fmt: skip
    five.number += 4
    world.kit.take(("van-5", five.seal([world.fix("van-5", 31.12, 121.30, 81.0)], tombstones=[lost])))


def _default(world: World) -> None:
    """A title whose alert nobody settled in time: DEFAULT."""
    config = world.kit.kit.config
    with Store(config.store) as store:
        desk = Desk(store, TENANT, config.keys, load_keys(config).ledger, lambda: world.kit.kit.clock.wall_ms)
        bare = "LTESTAAA0N0000009"
        number = bare[:8] + check_digit(bare) + bare[9:]
        token = str(desk.mint(number, Market.CN, "Owner 9", "", "registry")["token"])
        desk.propose(token, "479", "bank")
        desk.consent(token, "479", "fund", "guarantor")
        desk.consent(token, "479", "registry", "registry")
        desk.bind(token, "truck-4", [f"a1b2c39{wheel}" for wheel in range(4)])
        world.kit.kit.clock.wall_ms = START_MS + 4 * DAY
        desk.alert(token, "5e" * 32, "left_region", "fund")
        world.kit.kit.clock.wall_ms = START_MS + 8 * DAY
        desk.tick(token, "keeper")


def _tow(world: World) -> None:
    """Twenty minutes of car-1: parked, tilted, then moved with cold tyres and no engine."""
    one = world.device("car-1")
    one.wall_ms = NOW_MS - 22 * MINUTE
    for n in range(20):
        moved = max(0, n - 13) / 6
        world.seal(
            "car-1",
            world.fix("car-1", 31.342 + moved * 0.012, 121.502 + moved * 0.006, 14.0 if moved else 0.0),
            world.tyres("car-1"),
            world.shake("car-1", 0.45 if moved else 0.02, 11.0 if n >= 12 else 0.3),
            world.power("car-1", 12.4),
        )
        one.wall_ms = NOW_MS - (21 - n) * MINUTE


def _last_words(world: World) -> None:
    """Heartbeats of today, and the incidents."""
    last = world.last
    _tow(world)
    for name in ("car-1", "car-2", "truck-3", "truck-4", "van-5", last, "car-8", "road-1"):
        one = world.device(name)
        one.wall_ms = max(one.wall_ms, NOW_MS - 20 * MINUTE)
        world.seal(
            name,
            world.beat(name, due_s=3600, waiting=140 if name == "truck-4" else 1),
            world.power(name, {"car-8": 11.4, "car-1": 12.4}.get(name, 12.5), 2 if name == "car-8" else 1),
        )
        one.wall_ms = max(one.wall_ms, NOW_MS - 10 * MINUTE)
    world.seal("car-2", world.fix("car-2", 31.23, 121.44))
    world.seal("car-8", world.fix("car-8", 31.27, 121.50))
    world.seal(last, world.fix(last, 31.17, 121.40))
    road = world.device("road-1")
    road.wall_ms = NOW_MS - 7 * MINUTE
    heard = [
        road.event(Kind.SIGHTING, {int(Key.SENSOR_ID): f"a1b2c30{n}", int(Key.RSSI_DBM): -71})
        for n in range(3)
    ]
    world.tow = world.open("car-1", confidence=960, lat=31.352, lon=121.504)
    world.seal("road-1", *heard)
    world.open("truck-3", Cause.JAMMED, confidence=700)
    world.open("van-5", Cause.LEFT_REGION, confidence=880, lat=31.10, lon=121.21)
    world.open(last, Cause.REMOVED_OR_OPENED, confidence=900)
    world.open("car-8", Cause.SILENT, confidence=500)
    world.seal("van-5", world.claim("van-5", Cause.LEFT_REGION, action=Action.CLOSED, confidence=880))
    world.device("far-1").wall_ms = NOW_MS - 9 * MINUTE
    world.far = world.open("far-1")


def _cards_and_accounts(world: World) -> None:
    kit = world.kit
    with kit.context.stores.writing() as store, store.transaction() as db:
        for device, (name, branch, note) in world.cards.items():
            fleet.set_card(db, TENANT, device, name, branch, note)
        fleet.set_card(db, OTHER, "far-1", "Their secret car", "Elsewhere", "")
    stored = kit.context.passwords.hash("four unrelated words")
    with kit.context.db.transaction() as db:
        for name, language in (("anna", "en"), ("mei", "zh")):
            new = NewAccount(
                TENANT, name, "operator", manages=True, language=language, email=f"{name}@fund.example"
            )
            kit.accounts[TENANT, name] = accounts.add(db, new, kit.context.real_ms(), stored)


def confined(world: World, name: str, branches: tuple[str, ...]) -> None:
    """One more operator, who manages and sees these branches only."""
    stored = world.kit.context.passwords.hash("four unrelated words")
    with world.kit.context.db.transaction() as db:
        new = NewAccount(TENANT, name, "operator", manages=True, branches=branches)
        world.kit.accounts[TENANT, name] = accounts.add(db, new, world.kit.context.real_ms(), stored)


def tell(world: World) -> None:
    """Rules, a webhook, a token, an audited reading, some work on incidents: through the API."""
    client = world.kit.client("anna")

    def must(answer: Any) -> Any:
        assert answer.status_code < 300, f"{answer.request.url}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    hook = must(
        client.post("/api/v1/webhooks", json={"name": "Control room", "url": "http://127.0.0.1:9/hook"})
    )
    must(client.post("/api/v1/rules", json={
        "name": "Night duty", "emails": ["duty@fund.example"], "webhooks": [hook["webhook"]["id"]],
        "quiet": {"start": "22:00", "end": "07:00", "zone": "Asia/Shanghai", "except_severity": 700},
        "escalate_after_s": 900, "escalate_to": ["head@fund.example"],
    }))  # fmt: skip
    must(client.post("/api/v1/rules", json={
        "name": "华东白班", "branches": ["华东"], "causes": ["jammed", "silent"], "language": "zh",
        "emails": ["dispatch@fund.example"], "min_severity": 200,
    }))  # fmt: skip
    must(client.post("/api/v1/tokens", json={"name": "Nightly report", "scopes": ["read:fleet"], "days": 90}))
    must(client.post(
        f"/api/v1/incidents/{world.tow}/exact", json={"purpose": PURPOSE}
    ))  # fmt: skip


def work(world: World) -> None:
    """People work on the incidents, so that a picture shows them in several states."""

    def act(who: str, device: str, action: str, note: str = "", **more: Any) -> None:
        client, id_ = world.kit.client(who), world.opened[device]
        version = client.get(f"/api/v1/incidents/{id_}").json()["incident"]["version"]
        body = {"action": action, "version": version, "note": note, **more}
        answer = client.post(f"/api/v1/incidents/{id_}/acts", json=body)
        assert answer.is_success, answer.text

    world.open("truck-4", Cause.LEFT_REGION, confidence=820, lat=31.44, lon=121.77)
    act("mei", "truck-4", "acknowledge")
    act("anna", world.last, "assign", "The workshop does not answer; please drive there.", assignee="mei")
    act("mei", "truck-3", "escalate", "The gate is locked. Who has a key?")
    act("anna", "van-5", "confirm", "The driver says that he delivers abroad: not agreed.")
    act("anna", "car-8", "acknowledge")
    act("anna", "car-8", "refute", "Battery was disconnected in the workshop, papers seen.")
    client = world.kit.client("anna")
    assert client.post(
        f"/api/v1/incidents/{world.tow}/acts",
        json={"action": "note", "version": 0, "note": "Called the borrower: knows of no transport."},
    ).is_success


# -- the browser ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Pages:
    """Contexts of one browser; each page's console is watched."""

    browser: Browser
    troubles: list[str] = field(default_factory=list)
    """What the consoles of the pages complained of."""
    _contexts: list[BrowserContext] = field(default_factory=list)

    def context(
        self, world: World, who: str | None = "anna", *, language: str = "en", theme: str = "light",
        phone: bool = False, width: int | None = None, tenant: str = TENANT,
    ) -> BrowserContext:  # fmt: skip
        """A browser of its own, logged in as `who` (a role or a name) unless that is None."""
        size = dict(PHONE if phone else DESKTOP)
        if width is not None:
            size["width"] = width
        context = self.browser.new_context(
            viewport=size,
            device_scale_factor=1, is_mobile=phone, has_touch=phone, color_scheme=theme,  # type: ignore[arg-type]
            locale="zh-CN" if language == "zh" else "en-GB", timezone_id="Asia/Shanghai",
            reduced_motion="reduce",
        )  # fmt: skip
        context.set_default_timeout(SETTLE_MS)
        if who is not None:
            with world.kit.context.db.transaction() as db:
                accounts.change(db, tenant, world.kit.accounts[tenant, who], {"language": language})
            token = world.kit.session(who, tenant)
            context.add_cookies([
                {"name": world.kit.context.cookie, "value": token, "url": world.url, "sameSite": "Strict"}
            ])  # fmt: skip
        self._contexts.append(context)
        return context

    def page(self, world: World, address: str = "#/fleet", who: str | None = "anna", **options: Any) -> Page:
        """A page of a new context, settled at `address`."""
        page = self.watched(self.context(world, who, **options))
        page.goto(f"{world.url}/{address}")
        settle(page)
        return page

    def watched(self, context: BrowserContext) -> Page:
        """A page whose complaints are kept."""
        page = context.new_page()
        page.on(
            "console",
            lambda m: (
                self.troubles.append(f"{page.url}: {m.text}") if m.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: self.troubles.append(f"{page.url}: {error}"))
        return page

    def forgive(self, pattern: str) -> None:
        """Forget complaints like `pattern`: the browser itself reports every refusal and every lost line."""
        self.troubles[:] = [text for text in self.troubles if not re.search(pattern, text)]

    def close_contexts(self) -> None:
        for context in self._contexts:
            context.close()
        self._contexts.clear()


def settle(page: Page) -> None:
    """Wait until the view is there and nothing of it is still loading."""
    page.wait_for_function(
        "() => document.querySelector('main h1') && !document.querySelector('main .loading')"
    )


def go(page: Page, address: str) -> None:
    """Another view of the open page."""
    if page.evaluate("location.hash") != address:
        page.evaluate(
            """(address) => {
              const shown = document.querySelector('main > *');
              if (shown) shown.dataset.left = 'yes';
              location.hash = address;
            }""",
            address,
        )
        page.wait_for_function("() => !document.querySelector('main > [data-left]')")
    settle(page)


def views(world: World) -> dict[str, str]:
    """Name of every view for somebody who is logged in, with its address."""
    return {
        "fleet": "#/fleet",
        "incidents": "#/incidents",
        "story": f"#/incident/{world.tow}",
        "vehicle": "#/vehicle/car-1",
        "titles": "#/titles",
        "title": f"#/title/{world.title}",
        "completeness": "#/completeness",
        "devices": "#/health",
        "log": "#/log",
        "alarms": "#/alarms",
        "audit": "#/audit",
        "accounts": "#/admin/accounts",
        "tokens": "#/admin/tokens",
        "rules": "#/admin/rules",
        "webhooks": "#/admin/webhooks",
        "messages": "#/admin/deliveries",
    }


def launch(playwright: Any) -> Browser:
    """Debian's Chromium, headless."""
    browser: Browser = playwright.chromium.launch(
        executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--font-render-hinting=none"]
    )
    return browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser for the tests of a module; they are skipped where there is none.

    Not for the whole session: while it is there, no other test of this thread can run an event loop.
    """
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is not here (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Pages]:
    """Pages whose consoles must stay free of errors and of violations of the policy."""
    pages = Pages(chromium)
    yield pages
    pages.close_contexts()
    assert pages.troubles == [], pages.troubles


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A filled store with its server, shared by the tests of a module."""
    made = make_world(tmp_path_factory.mktemp("page"))
    made.start()
    tell(made)
    yield made
    made.close()


# -- pictures ------------------------------------------------------------------------------------------

COLOURS: Final = 240
"""Of a picture: flat surfaces and text need no more, and every picture stays below 150 kB."""
PHONE_VIEWS: Final = ("fleet", "incidents", "story", "vehicle")
WHOLE: Final = ("story", "vehicle", "log")
"""Views whose picture holds the whole page, however long; on a phone the bar at its foot would cut it."""


def pictures(folder: Path, only: str | None = None) -> None:
    """Every view in both languages as FOLDER/<view>-<language>.png, some on a phone, some dark."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hf-page-") as home, sync_playwright() as playwright:
        world = make_world(Path(home), pictured=True)
        world.start()
        tell(world)
        work(world)
        assert world.kit.client("anna").post("/api/v1/webhooks/1/test").is_success
        pages = Pages(launch(playwright))
        try:
            for language in ("en", "zh"):
                for phone, theme in ((False, "light"), (False, "dark"), (True, "light")):
                    _picture_set(pages, world, folder, language, theme, phone=phone, only=only)
            if only is None or re.search(only, "marks"):
                _marks(pages, folder)
        finally:
            pages.close_contexts()
            pages.browser.close()
            world.close()
    for trouble in pages.troubles:
        print(trouble, file=sys.stderr)


def _picture_set(
    pages: Pages, world: World, folder: Path, language: str, theme: str, *, phone: bool, only: str | None
) -> None:
    page = pages.page(world, language=language, theme=theme, phone=phone)
    for name, address in views(world).items():
        if (phone and name not in PHONE_VIEWS) or (theme == "dark" and name not in ("fleet", "story")):
            continue
        if only is not None and not re.search(only, name):
            continue
        go(page, address)
        page.wait_for_timeout(300)
        suffix = "-phone" if phone else "-dark" if theme == "dark" else ""
        _shoot(page, folder / f"{name}-{language}{suffix}.png", whole=name in WHOLE and not phone)
    if not phone and theme == "light" and (only is None or re.search(only, "login")):
        shown = pages.page(world, "#/login", who=None, language=language)
        _shoot(shown, folder / f"login-{language}.png")


def _marks(pages: Pages, folder: Path) -> None:
    """How the page marks data that is not live: a fleet of three kinds, a simulated and a replayed story."""
    with tempfile.TemporaryDirectory(prefix="hf-marks-") as home:
        world = make_world(Path(home), pictured=True, kinds=ALL_KINDS)
        try:
            world.start()
            stories = {kind: world.unreal(kind) for kind in (ClockKind.SIMULATED, ClockKind.REPLAY)}
            for language in ("en", "zh"):
                page = pages.page(world, language=language)
                page.wait_for_timeout(300)
                _shoot(page, folder / f"marks-fleet-{language}.png")
                for kind, id_ in stories.items():
                    go(page, f"#/incident/{id_}")
                    page.wait_for_timeout(300)
                    _shoot(page, folder / f"marks-{kind.name.lower()}-{language}.png")
            pages.close_contexts()
        finally:
            world.close()


def _shoot(page: Page, path: Path, *, whole: bool = False) -> None:
    page.evaluate("() => window.scrollTo(0, 0)")
    data = page.screenshot(animations="disabled", caret="hide", full_page=whole)
    blank = page.context.new_page()
    pixels = base64.b64decode(blank.evaluate(_PIXELS, base64.b64encode(data).decode()))
    blank.close()
    path.write_bytes(_indexed(np.frombuffer(pixels, np.uint8), *struct.unpack(">II", data[16:24])))
    print(f"{path} {path.stat().st_size}")


_PIXELS: Final = """async (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const picture = await createImageBitmap(new Blob([bytes], { type: 'image/png' }));
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext('2d');
  context.drawImage(picture, 0, 0);
  const { data } = context.getImageData(0, 0, picture.width, picture.height);
  let out = '';
  for (let at = 0; at < data.length; at += 8192) out += String.fromCharCode(...data.subarray(at, at + 8192));
  return btoa(out);
}"""


def _indexed(rgba: np.ndarray[Any, np.dtype[np.uint8]], width: int, height: int) -> bytes:
    """A PNG (ISO/IEC 15948) of COLOURS colours: the commonest and the most different ones."""
    rgb = rgba.reshape(-1, 4)[:, :3].astype(np.int32)
    packed = (rgb[:, 0] << 16) | (rgb[:, 1] << 8) | rgb[:, 2]
    colours, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    parts = np.stack([colours >> 16, (colours >> 8) & 255, colours & 255], 1)
    chosen = parts[np.argsort(-counts)[: COLOURS // 2]]
    far = ((parts[:, None] - chosen) ** 2).sum(2).min(1)
    while len(chosen) < COLOURS and far.max() > 0:
        one = parts[np.argmax(far)]
        chosen = np.vstack([chosen, one])
        far = np.minimum(far, ((parts - one) ** 2).sum(1))
    nearest = np.array([np.argmin(((chosen - one) ** 2).sum(1)) for one in parts], np.uint8)
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = nearest[inverse].reshape(height, width)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"".join([
        b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        chunk(b"PLTE", chosen.astype(np.uint8).tobytes()), chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
        chunk(b"IEND", b""),
    ])  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--screenshots", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--only", help="regular expression of the views' names")
    chosen = parser.parse_args()
    pictures(chosen.screenshots, chosen.only)
