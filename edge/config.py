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
TOP: Final = "node.toml"
"""The file as a table of tables, in messages."""
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


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing in a file that cannot be meant."""

    where: str
    """Table and key, as `edge.log_level` or `port[1].path` (counted from 0); "" for the whole file."""
    text: str
    """What is wrong, and what would be right."""


class BadConfig(ConfigError):
    """Everything that is wrong with a file, in its own order."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(problem.text for problem in problems))
        self.problems = tuple(problems)


class _Table:
    """One table of the file; remembers which keys were asked for, so that the rest can be refused.

    What cannot be meant is noted in `problems`, and a default or None stands in, so that one reading finds
    every mistake.
    """

    def __init__(self, name: str, value: object, problems: list[Problem], at: str = "") -> None:
        self.name = name
        self.at = at or name
        self.problems = problems
        self._broken = not isinstance(value, dict)
        if self._broken:
            problems.append(Problem(self.at, f"[{name}] is not a table"))
        self._left: dict[str, Any] = dict(value) if isinstance(value, dict) else {}
        self._known: list[str] = []

    def bad(self, key: str, text: str) -> None:
        """Note that `key` cannot be meant."""
        if not self._broken:
            where = key if self.at == TOP else f"{self.at}.{key}"
            self.problems.append(Problem(where, f"[{self.name}] {text}"))

    def take(self, key: str, default: object = None) -> Any:
        self._known.append(key)
        return self._left.pop(key, default)

    def table(self, name: str, value: object) -> _Table:
        """The table `name` of the same file."""
        return _Table(name, value, self.problems)

    def text(self, key: str, default: str | None = None) -> Any:
        value = self.take(key, default)
        if isinstance(value, str) and value:
            return value
        self.bad(key, f"{key}{' is missing: it' if value is None else ''} must be a non-empty string")
        return default

    def optional(self, key: str) -> str | None:
        if key in self._left:
            return self.text(key)  # type: ignore[no-any-return]
        self._known.append(key)
        return None

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None = None) -> Any:
        value = self.text(key, default)
        if value is None or value in allowed:
            return value
        near = get_close_matches(value, allowed, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        self.bad(key, f"{key} is {value!r:.80}; it must be one of {', '.join(allowed)}{hint}")
        return default or allowed[0]

    def integer(self, key: str, rule: Limit, default: int | None = None) -> Any:
        value = self.take(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and rule.low <= value <= rule.high:
            return value
        self.bad(key, f"{key} must be an integer from {_range(rule)}, {_not(value)}")
        return default

    def number(self, key: str, rule: Limit, default: float | None = None) -> Any:
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.bad(key, f"{key} must be a number from {_range(rule)}, {_not(value)}")
        elif not math.isfinite(value) or not rule.low <= value <= rule.high:
            self.bad(key, f"{key} is {value!r}; it must lie from {_range(rule)}")
        else:
            return float(value)
        return default

    def flag(self, key: str, default: bool) -> bool:
        value = self.take(key, default)
        if not isinstance(value, bool):
            self.bad(key, f"{key} must be true or false, {_not(value)}")
            return default
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
            return take(key, rule, given)
        if isinstance(rule, Choice):
            return self.choice(key, rule.allowed, given)
        return self.text(key, given)

    def done(self) -> None:
        """Refuse what nobody asked for, with the nearest name that exists."""
        for key in self._left:
            near = get_close_matches(key, self._known, 1)
            self.bad(key, f"does not know {key!s:.80}" + (f" (did you mean {near[0]}?)" if near else ""))


def _range(rule: Limit) -> str:
    return f"{rule.low} to {rule.high}" + (f" {rule.unit}" if rule.unit else "")


def _not(value: object) -> str:
    return "and is missing" if value is None else f"not {value!r:.80}"


def parse(text: str, *, base: str) -> Config:
    """The configuration of `text`; relative paths are meant from the folder `base`.

    Raises BadConfig, which lists every problem; each names table and key.
    """
    problems: list[Problem] = []
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadConfig([Problem("", f"not TOML: {error}")]) from error
    top = _Table(TOP, document, problems)
    node = _node(top.table("node", top.take("node", {})))
    state = top.table("state", top.take("state", {}))
    state_dir = _absolute(base, state.text("dir", "."))
    state.done()
    config = Config(
        node=node,
        state_dir=state_dir,
        clock=_clock(top.table("clock", top.take("clock", {})), base),
        ports=_ports(top.take("port", []), base, problems),
        tyres=_tyres(top.table("vehicle", top.take("vehicle", {}))),
        fence=_fence(top),
        uplink=_uplink(top),
        chirpstack=_chirpstack(top),
        outbox=_outbox(top.table("outbox", top.take("outbox", {}))),
        edge=_edge(top.table("edge", top.take("edge", {})), base),
        telemetry=_telemetry(top.table("telemetry", top.take("telemetry", {}))),
        hash=hashlib.sha256(text.encode()).digest(),
    )
    top.done()
    _check_socket(state, "dir", "dir with facts.sock", config.path("facts.sock"))
    if problems:
        raise BadConfig(problems)
    return config


def _absolute(base: str, path: str | None) -> str:
    if path is None:
        return base
    joined = path if path.startswith("/") else f"{base}/{path}"
    return joined.removesuffix("/.").rstrip("/") or "/"


def _check_socket(table: _Table, key: str, what: str, path: str) -> None:
    if len(path.encode()) > MAX_UNIX_PATH:
        table.bad(key, f"{what}: a unix socket's path has at most {MAX_UNIX_PATH} bytes; shorten it")


def _node(table: _Table) -> Node:
    kind = table.setting("kind", Node)
    node = Node(table.setting("tenant", Node), table.setting("device", Node), kind)
    for key, value in (("tenant", node.tenant), ("device", node.device)):
        if value is not None and not NAME.fullmatch(value):
            table.bad(key, f"{key} {value!r:.80}: 1 to 63 lower-case letters, digits and hyphens")
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
        table.bad("page", 'source = "page" needs page, the file the scenario writes')
    if source == "page" and kind == "live":
        table.bad("kind", 'a page is never live: say kind = "replay" or "simulated"')
    if source == "system" and kind != "live":
        table.bad("kind", "the system's clock is live; replay and simulated need a page")
    return ClockConfig(source, ClockKind[kind.upper()], page and _absolute(base, page), epoch, synced)


def _ports(items: object, base: str, problems: list[Problem]) -> tuple[Port, ...]:
    if not isinstance(items, list):
        problems.append(Problem("port", "[[port]] must be an array of tables, with double brackets"))
        return ()
    if len(items) > MAX_PORTS:
        problems.append(Problem("port", f"[[port]] {len(items)} ports, at most {MAX_PORTS}"))
    ports: list[Port] = []
    for number, item in enumerate(items[:MAX_PORTS]):
        table = _Table("port", item, problems, f"port[{number}]")
        path = table.setting("path", Port)
        port = Port(
            table.setting("name", Port), _absolute(base, path),
            table.setting("protocol", Port), table.setting("baud", Port),
        )  # fmt: skip
        table.done()
        if port.name is not None and port.name in {other.name for other in ports}:
            table.bad("name", f"name {port.name!r:.80} is there twice")
        if path is not None and port.path in {other.path for other in ports}:
            table.bad("path", f"path {port.path!r:.200} is there twice: one reader a port")
        ports.append(port)
    return tuple(ports)


def _tyres(table: _Table) -> dict[str, Wheel]:
    tyres = table.table("vehicle.tyres", table.take("tyres", {}))
    table.done()
    result: dict[str, Wheel] = {}
    for name, wheel in WHEELS.items():
        sensor = tyres.optional(name)
        if sensor is None:
            continue
        sensor = sensor.lower()
        if not _SENSOR_ID.fullmatch(sensor):
            tyres.bad(name, f"{name} {sensor!r:.80} is not a hexadecimal sensor id: 2 to 32 digits")
        elif sensor in result:
            tyres.bad(name, f"{name} {sensor!r:.80} is already another wheel's")
        result[sensor] = wheel
    tyres.done()
    return result


def _fence(top: _Table) -> Fence | None:
    if (value := top.take("fence")) is None:
        return None
    table = top.table("fence", value)
    fence = Fence(
        table.setting("lat", Fence, name="lat_deg"), table.setting("lon", Fence, name="lon_deg"),
        table.setting("radius_m", Fence),
    )  # fmt: skip
    table.done()
    return fence


def _uplink(top: _Table) -> UplinkConfig | None:
    if (value := top.take("uplink")) is None:
        return None
    table = top.table("uplink", value)
    host = table.setting("host", UplinkConfig)
    uplink = UplinkConfig(
        host, table.setting("port", UplinkConfig), table.setting("server_name", UplinkConfig, default=host),
        table.setting("mqtt", UplinkConfig),
    )  # fmt: skip
    table.done()
    return uplink


def _chirpstack(top: _Table) -> ChirpStack | None:
    if (value := top.take("chirpstack")) is None:
        return None
    table = top.table("chirpstack", value)
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
        _check_socket(table, "acceptance_socket", "acceptance_socket", limits.acceptance_socket)
    return limits


def _telemetry(table: _Table) -> Telemetry:
    telemetry = Telemetry(**{field.name: table.setting(field.name, Telemetry) for field in fields(Telemetry)})
    table.done()
    return telemetry
