"""`node.toml` as a frozen `Config`: what a node is, where its ports are, and every limit with its unit.

`parse` takes the text and the folder that relative paths are meant from; it reads no file. A key that is
not known is an error, so that a misspelt limit never silently stays at its default.
"""

from __future__ import annotations

import hashlib
import math
import re
import tomllib
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Final, get_args, get_type_hints

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
KINDS: Final = ("vehicle", "roadside")
CLOCK_KINDS: Final = ("live", "replay", "simulated")
_TIMES: Final = (0.1, 86_400.0)
"""Seconds; a day at most, so that a mistyped figure cannot silence a sensor."""
MAX_PORTS: Final = 16
"""A node has a handful; more is a mistake, and each costs a task."""
MAX_UNIX_PATH: Final = 107
"""Bytes of a unix socket's path (sun_path, unix(7)), without the closing NUL."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What a setting may be and why its default is what it is: what `holdfast config explain` says."""

    unit: str
    """"" for a word, a name or a pure number."""
    low: float
    high: float
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting that is one of a few words."""

    allowed: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Words:
    """A setting that is a name, a path or a flag."""

    reason: str
    example: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """Who this node is; the event certificate must say the same."""

    tenant: Annotated[
        str, Words("Whose node this is: 1 to 63 lower-case letters, digits and hyphens.", "fund-a")
    ]
    device: Annotated[
        str, Words("Its name within the tenant: 1 to 63 lower-case letters, digits and hyphens.", "car-1")
    ]
    kind: Annotated[str, Choice(KINDS, "A vehicle has tyres and a region; a roadside node hears others.")] = (
        "vehicle"
    )


@dataclass(frozen=True, slots=True)
class ClockConfig:
    """Where time comes from: the system, or the page of a scenario."""

    source: Annotated[
        str, Choice(("system", "page"), "A page is the clock of a scenario: demo and tests.")
    ] = "system"
    kind: Annotated[ClockKind, Choice(CLOCK_KINDS, "A page is never live, and every segment says so.")] = (
        ClockKind.LIVE
    )
    page: Annotated[str | None, Words("The file that the scenario writes; only with source = page.")] = None
    epoch_wall_ns: Annotated[
        int, Limit("ns", 0, 1 << 63, "Wall time of the page's zero since 1970-01-01T00:00:00Z.")
    ] = 0
    synced: Annotated[
        bool, Words("The host's clock is disciplined by NTP; the configuration says so, nobody else knows.")
    ] = False


@dataclass(frozen=True, slots=True)
class Port:
    """One serial port and what is at its other end."""

    name: Annotated[str, Words("Yours, each once; it stands in events and logs.", "gnss")]
    path: Annotated[
        str,
        Words(
            "The device; the links of /dev/holdfast keep their names over replugging.", "/dev/holdfast/gnss"
        ),
    ]
    protocol: Annotated[str, Choice(PROTOCOLS, "nmea: a receiver; board: the MCU board.")]
    baud: Annotated[int, Limit("bit/s", 300, 4_000_000, "What most receivers are delivered with.")] = 9600


@dataclass(frozen=True, slots=True)
class Fence:
    """The region the vehicle belongs in (for a roadside node: where the node stands)."""

    lat_deg: Annotated[float, Limit("degrees", -90, 90, "WGS-84 latitude of the middle.")]
    lon_deg: Annotated[float, Limit("degrees", -180, 180, "WGS-84 longitude of the middle.")]
    radius_m: Annotated[float, Limit("m", 1, 20_000_000, "20,000 km is the whole earth.")]


@dataclass(frozen=True, slots=True)
class UplinkConfig:
    """The broker of the tenant's collector."""

    host: Annotated[str, Words("Name or address of the broker.", "broker.example")]
    port: Annotated[int, Limit("", 1, 65_535, "MQTT over TLS, as IANA has it.")] = 8883
    server_name: Annotated[str, Words("The name in the broker's certificate; host unless given.")] = ""
    mqtt: Annotated[
        str,
        Choice(("3.1.1", "5"), "Every broker speaks 3.1.1; with 5 one can tell the largest packet it takes."),
    ] = "3.1.1"


@dataclass(frozen=True, slots=True)
class ChirpStack:
    """The MQTT integration of a LoRaWAN server near a roadside node."""

    host: Annotated[str, Words("Where its broker is; usually this machine.", "localhost")]
    port: Annotated[int, Limit("", 1, 65_535, "MQTT without TLS, as IANA has it.")] = 1883
    topic: Annotated[str, Words("ChirpStack 4's own name for uplinks of all its applications.")] = (
        CHIRPSTACK_TOPIC
    )


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """How much is kept while no receipt comes."""

    max_bytes: Annotated[
        int,
        Limit(
            "bytes",
            1 << 18,
            1 << 36,
            "Live bytes of the database: three weeks at one event a second and 65 bytes an event.",
        ),
    ] = 128 << 20
    max_age_s: Annotated[
        int,
        Limit(
            "s",
            3600,
            10 * 366 * 86_400,
            "Older telemetry is dropped whole: nobody may need a three month old track unsent.",
        ),
    ] = 90 * 86_400
    keep_one_in: Annotated[
        int,
        Limit(
            "",
            2,
            100,
            "Thinning keeps one of so many telemetry segments; what is left still shows where the car was.",
        ),
    ] = 4


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """When what was read is accepted, and when it is sealed."""

    commit_interval_s: Annotated[
        float,
        Limit("s", 0.05, 300, "The loss window: what a crash can cost at most. Stands in each heartbeat."),
    ] = 5.0
    seal_interval_s: Annotated[
        float,
        Limit(
            "s",
            0.05,
            3600,
            "Oldest unsealed event; a signature each second would cost 369 bytes an event instead of 211.",
        ),
    ] = 60.0
    log_level: Annotated[str, Choice(LOG_LEVELS, "What happened and what to do, without the chatter.")] = (
        "info"
    )
    acceptance_socket: Annotated[
        str | None,
        Words("Unix stream socket that is told of each accepted event after its commit, one JSON line each."),
    ] = None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """How often what is written down while nothing is wrong. Incidents obey none of this."""

    position_interval_s: Annotated[float, Limit("s", *_TIMES, "Moving: as often as a receiver speaks.")] = 1.0
    position_parked_s: Annotated[
        float, Limit("s", *_TIMES, "Parked: shows that the receiver still works.")
    ] = 60.0
    moving_mps: Annotated[
        float, Limit("m/s", 0.1, 20, "Over ground; below it a receiver's noise looks like motion.")
    ] = 1.0
    coarse_deg: Annotated[
        float,
        Limit(
            "degrees", 1e-4, 1, "Grid of positions outside incidents, about 1 km: a track is personal data."
        ),
    ] = 0.01
    tyre_kpa: Annotated[
        float,
        Limit(
            "kPa", 1, 500, "Change of pressure worth an event: five times the resolution of common sensors."
        ),
    ] = 5.0
    tyre_degc: Annotated[
        float,
        Limit(
            "degrees C", 1, 100, "Change of temperature worth an event: a tyre warms 20 degrees on a drive."
        ),
    ] = 3.0
    tyre_interval_s: Annotated[
        float, Limit("s", *_TIMES, "Each tyre at least this often while it is heard.")
    ] = 300.0
    vibration_interval_s: Annotated[
        float, Limit("s", *_TIMES, "Moving: six figures a minute show how a car rides.")
    ] = 10.0
    vibration_parked_s: Annotated[float, Limit("s", *_TIMES, "Parked: shows that the board still works.")] = (
        60.0
    )
    supply_v: Annotated[
        float,
        Limit("V", 0.1, 30, "Change of supply worth an event: half the step between rest and charging."),
    ] = 0.5
    power_interval_s: Annotated[
        float, Limit("s", *_TIMES, "The supply at least this often: a battery dies over days.")
    ] = 3600.0
    refused_interval_s: Annotated[
        float, Limit("s", *_TIMES, "Counts of refused input are summed up this long.")
    ] = 60.0
    heartbeat_s: Annotated[
        float, Limit("s", 1, 86_400, "Bounds the unknown tail after the last segment a collector has.")
    ] = 900.0
    sighting_interval_s: Annotated[
        float, Limit("s", *_TIMES, "One event an id in this time: a parked car's sensors repeat themselves.")
    ] = 60.0


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


@cache
def rules(shape: type) -> dict[str, tuple[Any, Limit | Choice | Words]]:
    """Type and rule of each setting of a dataclass of this module."""
    hints = get_type_hints(shape, include_extras=True)
    return {field.name: get_args(hints[field.name])[:2] for field in fields(shape)}


class _Table:
    """One table of the file; remembers which keys were asked for, so that the rest can be refused."""

    def __init__(self, name: str, value: object) -> None:
        if not isinstance(value, dict):
            raise ConfigError(f"[{name}] is not a table")
        self.name = name
        self._left: dict[str, Any] = dict(value)
        self._known: list[str] = []

    def take(self, key: str, default: object = None) -> Any:
        self._known.append(key)
        return self._left.pop(key, default)

    def text(self, key: str, default: str | None = None) -> str:
        value = self.take(key, default)
        if not isinstance(value, str) or not value:
            raise ConfigError(f"[{self.name}] {key} must be a non-empty string")
        return value

    def optional(self, key: str) -> str | None:
        if key in self._left:
            return self.text(key)
        self._known.append(key)
        return None

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        value = self.text(key, default)
        if value not in allowed:
            near = get_close_matches(value, allowed, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"[{self.name}] {key} is {value!r}; it must be one of {', '.join(allowed)}{hint}"
            )
        return value

    def integer(self, key: str, low: float, high: float, default: int | None = None) -> int:
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(f"[{self.name}] {key} must be an integer from {low} to {high}, not {value!r}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"[{self.name}] {key} must be a number, not {value!r}")
        if not math.isfinite(value) or not low <= value <= high:
            raise ConfigError(f"[{self.name}] {key} is {value!r}; it must lie from {low} to {high}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"[{self.name}] {key} must be true or false, not {value!r}")
        return value

    def setting(self, key: str, shape: type, *, name: str | None = None, default: object = MISSING) -> Any:
        """The setting `key` as the field `name` (or `key`) of the dataclass `shape` describes it."""
        field = name or key
        kind, rule = rules(shape)[field]
        if default is MISSING:
            default = next(f.default for f in fields(shape) if f.name == field)
        given: Any = None if default is MISSING else default
        if isinstance(rule, Limit):
            take = self.integer if kind is int else self.number
            return take(key, rule.low, rule.high, given)
        if isinstance(rule, Choice):
            return self.choice(key, rule.allowed, given)
        return self.text(key, given)

    def done(self) -> None:
        """Refuse what nobody asked for, with the nearest name that exists."""
        if not self._left:
            return
        said = []
        for key in sorted(self._left):
            near = get_close_matches(key, self._known, 1)
            said.append(f"{key} (did you mean {near[0]}?)" if near else key)
        raise ConfigError(f"[{self.name}] does not know {', '.join(said)}")


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
    kind = table.setting("kind", Node)
    node = Node(table.setting("tenant", Node), table.setting("device", Node), kind)
    for key, value in (("tenant", node.tenant), ("device", node.device)):
        if not NAME.fullmatch(value):
            raise ConfigError(f"[node] {key} {value!r}: 1 to 63 lower-case letters, digits and hyphens")
    table.done()
    return node


def _clock(table: _Table, base: str) -> ClockConfig:
    source = table.setting("source", ClockConfig)
    kind = table.setting("kind", ClockConfig, default="live")
    page = table.optional("page")
    epoch = table.setting("epoch_wall_ns", ClockConfig)
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
            table.setting("name", Port), _absolute(base, table.setting("path", Port)),
            table.setting("protocol", Port), table.setting("baud", Port),
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
        table.setting("lat", Fence, name="lat_deg"), table.setting("lon", Fence, name="lon_deg"),
        table.setting("radius_m", Fence),
    )  # fmt: skip
    table.done()
    return fence


def _uplink(value: object) -> UplinkConfig | None:
    if value is None:
        return None
    table = _Table("uplink", value)
    host = table.setting("host", UplinkConfig)
    uplink = UplinkConfig(
        host, table.setting("port", UplinkConfig), table.setting("server_name", UplinkConfig, default=host),
        table.setting("mqtt", UplinkConfig),
    )  # fmt: skip
    table.done()
    return uplink


def _chirpstack(value: object) -> ChirpStack | None:
    if value is None:
        return None
    table = _Table("chirpstack", value)
    chirpstack = ChirpStack(*(table.setting(key, ChirpStack) for key in ("host", "port", "topic")))
    table.done()
    return chirpstack


def _outbox(table: _Table) -> OutboxLimits:
    limits = OutboxLimits(
        **{field.name: table.setting(field.name, OutboxLimits) for field in fields(OutboxLimits)}
    )
    table.done()
    return limits


def _edge(table: _Table, base: str) -> EdgeLimits:
    acceptance = table.optional("acceptance_socket")
    limits = EdgeLimits(
        table.setting("commit_interval_s", EdgeLimits),
        table.setting("seal_interval_s", EdgeLimits),
        table.setting("log_level", EdgeLimits),
        acceptance_socket=None if acceptance is None else _absolute(base, acceptance),
    )
    table.done()
    if limits.acceptance_socket is not None:
        _check_socket("[edge] acceptance_socket", limits.acceptance_socket)
    return limits


def _telemetry(table: _Table) -> Telemetry:
    telemetry = Telemetry(**{field.name: table.setting(field.name, Telemetry) for field in fields(Telemetry)})
    table.done()
    return telemetry
