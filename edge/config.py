"""`node.toml` as a frozen `Config`: what a node is, where its ports are, and every limit with its unit.

`parse` takes the text and the folder that relative paths are meant from; it reads no file. A key that is
not known is an error, so that a misspelt limit never silently stays at its default.
"""

from __future__ import annotations

import hashlib
import math
import re
import tomllib
from dataclasses import dataclass
from typing import Any, Final

from edge.errors import ConfigError
from firmware_bridge.reading import Wheel
from firmware_bridge.wire.stamp import ClockKind

NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""Tenant and device names: they stand in MQTT topics, certificates and file names."""
_SENSOR_ID: Final = re.compile(r"[0-9a-f]{2,32}")
WHEELS: Final[dict[str, Wheel]] = {
    "FL": Wheel.FRONT_LEFT, "FR": Wheel.FRONT_RIGHT, "RL": Wheel.REAR_LEFT, "RR": Wheel.REAR_RIGHT,
}  # fmt: skip
PROTOCOLS: Final = ("nmea", "board")
CHIRPSTACK_TOPIC: Final = "application/+/device/+/event/up"
"""ChirpStack 4's own name for uplinks of all its applications."""
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
MAX_PORTS: Final = 16
"""A node has a handful; more is a mistake, and each costs a task."""
MAX_UNIX_PATH: Final = 107
"""Bytes of a unix socket's path (sun_path, unix(7)), without the closing NUL."""


@dataclass(frozen=True, slots=True)
class Node:
    """Who this node is; the event certificate must say the same."""

    tenant: str
    device: str
    kind: str
    """vehicle or roadside"""


@dataclass(frozen=True, slots=True)
class ClockConfig:
    """Where time comes from: the system, or the page of a scenario."""

    source: str = "system"
    kind: ClockKind = ClockKind.LIVE
    page: str | None = None
    epoch_wall_ns: int = 0
    synced: bool = False
    """The host's clock is disciplined by NTP; the configuration says so, nobody else knows."""


@dataclass(frozen=True, slots=True)
class Port:
    """One serial port and what is at its other end."""

    name: str
    path: str
    protocol: str
    baud: int


@dataclass(frozen=True, slots=True)
class Fence:
    """The region the vehicle belongs in (for a roadside node: where the node stands)."""

    lat_deg: float
    lon_deg: float
    radius_m: float


@dataclass(frozen=True, slots=True)
class UplinkConfig:
    """The broker of the tenant's collector."""

    host: str
    port: int
    server_name: str
    mqtt: str = "3.1.1"
    """Protocol version, "3.1.1" or "5"; with 5 a broker can tell the largest packet it takes."""


@dataclass(frozen=True, slots=True)
class ChirpStack:
    """The MQTT integration of a LoRaWAN server near a roadside node."""

    host: str
    port: int = 1883
    topic: str = CHIRPSTACK_TOPIC


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """How much is kept while no receipt comes."""

    max_bytes: int = 128 << 20
    """Live bytes of the database: three weeks at one event a second and 65 bytes an event."""
    max_age_s: int = 90 * 86_400
    """Telemetry older than this is dropped whole: nobody may need a three month old track unsent."""
    keep_one_in: int = 4
    """Thinning keeps one of so many telemetry segments; what is left still shows where the car was."""


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """When what was read is accepted, and when it is sealed."""

    commit_interval_s: float = 5.0
    """The loss window: what a crash can cost at most. Stands in each heartbeat."""
    seal_interval_s: float = 60.0
    """Oldest unsealed event; a signature each second would cost 369 bytes an event instead of 211."""
    log_level: str = "info"
    acceptance_socket: str | None = None
    """Unix stream socket that is told of each accepted event after its commit, one JSON line each."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """How often what is written down while nothing is wrong. Incidents obey none of this."""

    position_interval_s: float = 1.0
    """Moving: as often as a receiver speaks."""
    position_parked_s: float = 60.0
    """Parked: shows that the receiver still works."""
    moving_mps: float = 1.0
    """Over ground; below it a receiver's noise looks like motion."""
    coarse_deg: float = 0.01
    """Grid of positions outside incidents, about 1 km: a track is personal data."""
    tyre_kpa: float = 5.0
    """Change of pressure worth an event: five times the resolution of common sensors."""
    tyre_degc: float = 3.0
    """Change of temperature worth an event: a tyre warms 20 degrees on a drive."""
    tyre_interval_s: float = 300.0
    """Each tyre at least this often while it is heard."""
    vibration_interval_s: float = 10.0
    vibration_parked_s: float = 60.0
    supply_v: float = 0.5
    """Change of supply worth an event: half the step between rest and charging."""
    power_interval_s: float = 3600.0
    refused_interval_s: float = 60.0
    """Counts of refused input are summed up this long."""
    heartbeat_s: float = 900.0
    """Bounds the unknown tail after the last segment a collector has."""
    sighting_interval_s: float = 60.0
    """One event an id in this time: a parked car's sensors repeat themselves."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a node is told."""

    node: Node
    state_dir: str
    clock: ClockConfig
    ports: tuple[Port, ...]
    tyres: dict[str, Wheel]
    """Sensor id (lower-case hexadecimal) -> wheel."""
    fence: Fence | None
    uplink: UplinkConfig | None
    chirpstack: ChirpStack | None
    outbox: OutboxLimits
    edge: EdgeLimits
    telemetry: Telemetry
    hash: bytes
    """SHA-256 of the text this was read from; stands in heartbeats."""

    def path(self, name: str) -> str:
        """A file of the state folder: outbox.db, high-water, facts.sock, trust.json, keys/..."""
        return f"{self.state_dir}/{name}"


class _Table:
    """One table of the file; remembers which keys were asked for, so that the rest can be refused."""

    def __init__(self, name: str, value: object) -> None:
        if not isinstance(value, dict):
            raise ConfigError(f"[{name}] is not a table")
        self.name = name
        self._left: dict[str, Any] = dict(value)

    def take(self, key: str) -> Any:
        return self._left.pop(key, None)

    def text(self, key: str, default: str | None = None) -> str:
        value = self._left.pop(key, default)
        if not isinstance(value, str) or not value:
            raise ConfigError(f"[{self.name}] {key} must be a non-empty string")
        return value

    def optional(self, key: str) -> str | None:
        return self.text(key) if key in self._left else None

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        value = self.text(key, default)
        if value not in allowed:
            raise ConfigError(f"[{self.name}] {key} is {value!r}; it must be one of {', '.join(allowed)}")
        return value

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self._left.pop(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(f"[{self.name}] {key} must be an integer from {low} to {high}, not {value!r}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = self._left.pop(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"[{self.name}] {key} must be a number, not {value!r}")
        if not math.isfinite(value) or not low <= value <= high:
            raise ConfigError(f"[{self.name}] {key} is {value!r}; it must lie from {low} to {high}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._left.pop(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"[{self.name}] {key} must be true or false, not {value!r}")
        return value

    def done(self) -> None:
        if self._left:
            raise ConfigError(f"[{self.name}] does not know {', '.join(sorted(self._left))}")


def parse(text: str, *, base: str) -> Config:
    """The configuration of `text`; relative paths are meant from the folder `base`.

    Raises ConfigError, whose message names table and key.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"not TOML: {error}") from error
    top = _Table("node.toml", document)
    node = _node(_Table("node", top.take("node") or {}))
    state = _Table("state", top.take("state") or {})
    state_dir = _absolute(base, state.text("dir", "."))
    state.done()
    config = Config(
        node=node,
        state_dir=state_dir,
        clock=_clock(_Table("clock", top.take("clock") or {}), base),
        ports=_ports(top.take("port") or [], base),
        tyres=_tyres(_Table("vehicle", top.take("vehicle") or {})),
        fence=_fence(top.take("fence")),
        uplink=_uplink(top.take("uplink")),
        chirpstack=_chirpstack(top.take("chirpstack")),
        outbox=_outbox(_Table("outbox", top.take("outbox") or {})),
        edge=_edge(_Table("edge", top.take("edge") or {}), base),
        telemetry=_telemetry(_Table("telemetry", top.take("telemetry") or {})),
        hash=hashlib.sha256(text.encode()).digest(),
    )
    top.done()
    _check_socket("[state] dir with facts.sock", config.path("facts.sock"))
    return config


def _absolute(base: str, path: str) -> str:
    joined = path if path.startswith("/") else f"{base}/{path}"
    return joined.removesuffix("/.").rstrip("/") or "/"


def _check_socket(what: str, path: str) -> None:
    if len(path.encode()) > MAX_UNIX_PATH:
        raise ConfigError(f"{what}: a unix socket's path has at most {MAX_UNIX_PATH} bytes; shorten it")


def _node(table: _Table) -> Node:
    kind = table.choice("kind", ("vehicle", "roadside"), "vehicle")
    node = Node(table.text("tenant"), table.text("device"), kind)
    for key, value in (("tenant", node.tenant), ("device", node.device)):
        if not NAME.fullmatch(value):
            raise ConfigError(f"[node] {key} {value!r}: 1 to 63 lower-case letters, digits and hyphens")
    table.done()
    return node


def _clock(table: _Table, base: str) -> ClockConfig:
    source = table.choice("source", ("system", "page"), "system")
    kind = table.choice("kind", ("live", "replay", "simulated"), "live")
    page = table.optional("page")
    epoch = table.integer("epoch_wall_ns", 0, 1 << 63, 0)
    synced = table.flag("synced", source == "page")
    table.done()
    if source == "page" and page is None:
        raise ConfigError('[clock] source = "page" needs page, the file the scenario writes')
    if source == "page" and kind == "live":
        raise ConfigError('[clock] a page is never live: say kind = "replay" or "simulated"')
    if source == "system" and kind != "live":
        raise ConfigError("[clock] the system's clock is live; replay and simulated need a page")
    return ClockConfig(source, ClockKind[kind.upper()], page and _absolute(base, page), epoch, synced)


def _ports(items: object, base: str) -> tuple[Port, ...]:
    if not isinstance(items, list):
        raise ConfigError("[[port]] must be an array of tables, with double brackets")
    if len(items) > MAX_PORTS:
        raise ConfigError(f"[[port]] {len(items)} ports, at most {MAX_PORTS}")
    ports: list[Port] = []
    for item in items:
        table = _Table("port", item)
        port = Port(
            table.text("name"), _absolute(base, table.text("path")), table.choice("protocol", PROTOCOLS),
            table.integer("baud", 300, 4_000_000, 9600),
        )  # fmt: skip
        table.done()
        if port.name in {other.name for other in ports}:
            raise ConfigError(f"[[port]] name {port.name!r} is there twice")
        if port.path in {other.path for other in ports}:
            raise ConfigError(f"[[port]] path {port.path!r} is there twice: one reader a port")
        ports.append(port)
    return tuple(ports)


def _tyres(table: _Table) -> dict[str, Wheel]:
    tyres = _Table("vehicle.tyres", table.take("tyres") or {})
    table.done()
    result: dict[str, Wheel] = {}
    for name, wheel in WHEELS.items():
        sensor = tyres.optional(name)
        if sensor is None:
            continue
        sensor = sensor.lower()
        if not _SENSOR_ID.fullmatch(sensor):
            raise ConfigError(f"[vehicle] tyres.{name} {sensor!r} is not a hexadecimal sensor id")
        if sensor in result:
            raise ConfigError(f"[vehicle] tyres.{name} {sensor!r} is already another wheel's")
        result[sensor] = wheel
    tyres.done()
    return result


def _fence(value: object) -> Fence | None:
    if value is None:
        return None
    table = _Table("fence", value)
    fence = Fence(
        table.number("lat", -90, 90), table.number("lon", -180, 180), table.number("radius_m", 1, 20_000_000)
    )
    table.done()
    return fence


def _uplink(value: object) -> UplinkConfig | None:
    if value is None:
        return None
    table = _Table("uplink", value)
    host = table.text("host")
    uplink = UplinkConfig(
        host, table.integer("port", 1, 65_535, 8883), table.text("server_name", host),
        table.choice("mqtt", ("3.1.1", "5"), "3.1.1"),
    )  # fmt: skip
    table.done()
    return uplink


def _chirpstack(value: object) -> ChirpStack | None:
    if value is None:
        return None
    table = _Table("chirpstack", value)
    chirpstack = ChirpStack(
        table.text("host"), table.integer("port", 1, 65_535, 1883), table.text("topic", CHIRPSTACK_TOPIC)
    )
    table.done()
    return chirpstack


def _outbox(table: _Table) -> OutboxLimits:
    default = OutboxLimits()
    limits = OutboxLimits(
        table.integer("max_bytes", 1 << 18, 1 << 36, default.max_bytes),
        table.integer("max_age_s", 3600, 10 * 366 * 86_400, default.max_age_s),
        table.integer("keep_one_in", 2, 100, default.keep_one_in),
    )
    table.done()
    return limits


def _edge(table: _Table, base: str) -> EdgeLimits:
    default = EdgeLimits()
    acceptance = table.optional("acceptance_socket")
    limits = EdgeLimits(
        commit_interval_s=table.number("commit_interval_s", 0.05, 300, default.commit_interval_s),
        seal_interval_s=table.number("seal_interval_s", 0.05, 3600, default.seal_interval_s),
        log_level=table.choice("log_level", LOG_LEVELS, default.log_level),
        acceptance_socket=None if acceptance is None else _absolute(base, acceptance),
    )
    table.done()
    if limits.acceptance_socket is not None:
        _check_socket("[edge] acceptance_socket", limits.acceptance_socket)
    return limits


_TELEMETRY_RANGES: Final[dict[str, tuple[float, float]]] = {
    "moving_mps": (0.1, 20), "coarse_deg": (1e-4, 1), "tyre_kpa": (1, 500), "tyre_degc": (1, 100),
    "supply_v": (0.1, 30), "heartbeat_s": (1, 86_400),
}  # fmt: skip
_INTERVAL_RANGE: Final = (0.1, 86_400.0)
"""Seconds; a day at most, so that a mistyped figure cannot silence a sensor."""


def _telemetry(table: _Table) -> Telemetry:
    default = Telemetry()
    values = {
        name: table.number(name, *_TELEMETRY_RANGES.get(name, _INTERVAL_RANGE), getattr(default, name))
        for name in Telemetry.__dataclass_fields__
    }
    table.done()
    return Telemetry(**values)
