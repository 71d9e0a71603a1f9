"""What can be set in node.toml: names, units, ranges, defaults and their reasons, told in words. Pure.

Everything here is read off the types of `edge.config`, so that an explanation cannot differ from what the
daemons enforce. `check_flat` holds the other configurations of Holdfast against tables of the same shape.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from enum import Enum
from typing import Any, Final

from edge import config
from edge.config import Choice, Config, Limit, Problem, Words, rules
from edge.errors import ConfigError

_TABLES: Final[dict[str, type]] = {
    "node": config.Node, "clock": config.ClockConfig, "port": config.Port, "fence": config.Fence,
    "uplink": config.UplinkConfig, "chirpstack": config.ChirpStack, "outbox": config.OutboxLimits,
    "edge": config.EdgeLimits, "telemetry": config.Telemetry,
}  # fmt: skip
_FILE_NAMES: Final = {"lat_deg": "lat", "lon_deg": "lon"}
"""Where the file says it shorter than the code."""
_ABSENT: Final = "not set"
_DERIVED: Final = {"uplink.server_name": "uplink.host", "clock.synced": "false; true with source = page"}
"""Defaults that follow from something else."""
_EXAMPLES: Final = {
    "clock.page": '"/run/holdfast-scenario/clock.page"', "clock.synced": "true",
    "port.protocol": '"nmea"', "fence.lat": "47.25", "fence.lon": "8.7", "fence.radius_m": "2500",
    "uplink.server_name": '"broker.example"', "chirpstack.host": '"localhost"',
    "edge.acceptance_socket": '"/run/holdfast-oracle/accepted.sock"', "vehicle.tyres.FL": '"a1b2c3d1"',
    "vehicle.tyres.FR": '"a1b2c3d2"', "vehicle.tyres.RL": '"a1b2c3d3"', "vehicle.tyres.RR": '"a1b2c3d4"',
}  # fmt: skip
"""What stands in a template where there is no default, so that taking the # away gives a valid line."""
_RELOADED: Final = ("port.", "outbox.", "telemetry.", "chirpstack.", "edge.")
_AT_START: Final = frozenset({"edge.acceptance_socket"})
RELOAD: Final = "systemctl reload holdfast-edge"
RESTART: Final = "systemctl restart holdfast-edge"
RESTART_UPLINK: Final = "systemctl restart holdfast-uplink"
_HEAD: Final = (
    "# {path}: the configuration of a Holdfast node. `holdfast config explain` tells what each does;\n"
    "# `holdfast config check` reads this file as the daemons do. A key that is not known is an error.\n"
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of node.toml."""

    name: str
    """table.key, as in the file."""
    type: str
    unit: str
    allowed: str
    """Range or words, for people; "" for a name or a path."""
    default: str
    """As it would stand in the file; `not set` where there is none."""
    reason: str
    low: float = -math.inf
    high: float = math.inf
    words: tuple[str, ...] = ()
    """What a word may be; empty: anything."""
    required: bool = False
    example: str = ""


def takes_effect(name: str, *, kind: str = "vehicle") -> str:
    """The command after which a changed setting of node.toml is in force."""
    if name.startswith("uplink."):
        return RESTART_UPLINK
    command = RELOAD if name.startswith(_RELOADED) and name not in _AT_START else RESTART
    return command.replace("holdfast-edge", "holdfast-roadside") if kind == "roadside" else command


def reloadable(name: str) -> bool:
    """Whether the running edge takes a changed setting on SIGHUP."""
    return takes_effect(name) == RELOAD


def settings() -> list[Setting]:
    """Every setting, in the order of the file."""
    found = [
        Setting("state.dir", "text", "", "", '"."', "Where outbox.db, facts.sock, keys/ and trust.json lie.")
    ]
    for table, shape in _TABLES.items():
        for field in fields(shape):
            kind, rule = rules(shape)[field.name]
            found.append(
                _setting(f"{table}.{_FILE_NAMES.get(field.name, field.name)}", kind, rule, field.default)
            )
    for wheel in config.WHEELS:
        found.append(
            Setting(
                f"vehicle.tyres.{wheel}",
                "text",
                "",
                "2 to 32 hexadecimal digits",
                _ABSENT,
                "The sensor id of this wheel; without tyres there is no tow verdict.",
            )
        )
    return found


def explain(name: str, every: Sequence[Setting] | None = None) -> list[Setting]:
    """Of `every` setting (default: node.toml's) those of the table `name`, or the one key `name`.

    A key is meant with or without its table. Raises ConfigError with the nearest name where there is none.
    """
    every = settings() if every is None else every
    found = [one for one in every if name in (one.name, one.name.split(".")[0], one.name.rsplit(".", 1)[-1])]
    if found:
        return found
    names = [one.name for one in every]
    tables = dict.fromkeys(n.split(".")[0] for n in names)
    near = get_close_matches(name, [*names, *(n.rsplit(".", 1)[-1] for n in names), *tables], 1)
    raise ConfigError(f"there is no setting {name!r:.80}" + (f"; did you mean {near[0]}?" if near else ""))


def flat(value: Config) -> dict[str, str]:
    """Every setting of a configuration as it would stand in the file, by name."""
    out: dict[str, str] = {"state.dir": _toml(value.state_dir)}
    tables: list[tuple[str, object]] = [
        ("node", value.node), ("clock", value.clock), ("fence", value.fence), ("uplink", value.uplink),
        ("chirpstack", value.chirpstack), ("outbox", value.outbox), ("edge", value.edge),
        ("telemetry", value.telemetry),
    ]  # fmt: skip
    tables += [(f"port.{port.name}", port) for port in value.ports]
    for table, one in tables:
        if one is not None:
            for name in (field.name for field in fields(one)):  # type: ignore[arg-type]
                out[f"{table}.{_FILE_NAMES.get(name, name)}"] = _toml(getattr(one, name))
    for wheel, code in config.WHEELS.items():
        for sensor, where in value.tyres.items():
            if where == code:
                out[f"vehicle.tyres.{wheel}"] = _toml(sensor)
    return out


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that is not the same in two configurations."""

    name: str
    before: str
    after: str


def diff(before: Config, after: Config) -> list[Difference]:
    """What is different, by name; defaults are compared like everything else."""
    a, b = flat(before), flat(after)
    return [
        Difference(name, a.get(name, _ABSENT), b.get(name, _ABSENT))
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]


def defaults(value: Config) -> list[Difference]:
    """Where `value` is not the default: from the default to what is set; what has no default is left out."""
    own = flat(value)
    known = {one.name: one.default for one in settings() if one.default != _ABSENT}
    known["uplink.server_name"] = own.get("uplink.host", _ABSENT)
    known["clock.synced"] = _toml(value.clock.source == "page")
    known["state.dir"] = own["state.dir"]  # where the file lies, in most cases; never a limit
    return [
        Difference(name, known[name], own[name])
        for name in sorted(own)
        if (name in known and own[name] != known[name])
    ]


def template(path: str, *, tenant: str, device: str, kind: str, host: str | None) -> str:
    """A first node.toml: what must be said, and every other setting as a comment with its default and reason.

    Raises ConfigError when a name is not one.
    """
    lines = [_HEAD.format(path=path)]
    said = {"node.tenant": tenant, "node.device": device, "node.kind": kind, "uplink.host": host}
    table = ""
    for one in settings():
        head, _, key = one.name.partition(".")
        if head != table:
            table = head
            lines += ["", *_heading(head, host)]
        lines += list(_lines(one, key, said.get(one.name)))
    text = "\n".join(lines) + "\n"
    config.parse(text, base="/")
    return text


def _heading(table: str, host: str | None) -> Iterator[str]:
    optional = table in ("port", "fence", "chirpstack", "vehicle") or (table == "uplink" and host is None)
    name = "[[port]]" if table == "port" else f"[{table}]"
    if table == "port":
        yield "# One for each serial port: take the # away and copy it as often as needed."
    yield f"#{name}" if optional else name


def _lines(one: Setting, key: str, value: str | None) -> Iterator[str]:
    unit = f" {one.unit}" if one.unit else ""
    allowed = f" ({one.allowed}{unit})" if one.allowed else ""
    yield f"# {one.reason}{allowed}"
    if value is not None:
        yield f"{key} = {_toml(value)}"
        return
    literal = one.default not in (_ABSENT, _DERIVED.get(one.name))
    if not literal and one.name in _DERIVED:
        yield f"# Default: {one.default}."
    elif not literal:
        yield "# An example; no default."
    yield f"#{key} = {one.default if literal else _EXAMPLES.get(one.name) or _toml(one.example)}"


def _setting(name: str, kind: Any, rule: Limit | Choice | Words, default: object) -> Setting:
    said = _ABSENT if default is MISSING or default is None or default == "" else _toml(default)
    said = _DERIVED.get(name, said)
    required = default is MISSING
    if isinstance(rule, Limit):
        kind = "integer" if kind is int else "number"
        allowed = f"{rule.low:,} .. {rule.high:,}"
        return Setting(
            name, kind, rule.unit, allowed, said, rule.reason, rule.low, rule.high, required=required
        )
    if isinstance(rule, Choice):
        allowed = ", ".join(rule.allowed)
        return Setting(name, "text", "", allowed, said, rule.reason, words=rule.allowed, required=required)
    kind = "true or false" if kind is bool else "text"
    return Setting(name, kind, "", "", said, rule.reason, required=required, example=rule.example)


def _toml(value: object) -> str:
    if isinstance(value, Enum):
        return _toml(value.name.lower())
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return _ABSENT if value is None else str(value)


# ---- where a setting stands in a file ---------------------------------------------------------------

_TABLE_LINE: Final = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY_LINE: Final = re.compile(r"\s*([\w.\-\"' ]+?)\s*=")


def lines_of(text: str) -> dict[str, int]:
    """Line (from 1) of each table and key of a TOML text: `edge`, `edge.log_level`, `port[1].path`."""
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    table, quoted = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if quoted:  # inside a string of several lines
            quoted = "" if quoted in line else quoted
            continue
        if match := _TABLE_LINE.match(line):
            table = match[2]
            if match[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                found.setdefault(table, number)
                table = f"{table}[{counts[table]}]"
            found.setdefault(table, number)
        elif match := _KEY_LINE.match(line):
            key = re.sub(r"[\"' ]", "", match[1])
            found.setdefault(f"{table}.{key}" if table else key, number)
        quoted = next((mark for mark in ('"""', "'''") if line.count(mark) % 2), "")
    return found


def line_of(where: str, lines: Mapping[str, int]) -> int | None:
    """The line of `where`, or of the table it belongs in; None where the file has neither."""
    while where:
        if where in lines:
            return lines[where]
        where = where.rpartition(".")[0] if "." in where else where.partition("[")[0] if "[" in where else ""
    return None


# ---- the other configurations -----------------------------------------------------------------------

_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "text": str, "integer": int, "number": (int, float), "true or false": bool, "list of texts": list,
    "table": dict,
}  # fmt: skip


def check_flat(document: Mapping[str, object], every: Sequence[Setting]) -> list[Problem]:
    """What of a parsed TOML `document` is not as `every` setting says: unknown names, types, ranges."""
    tables: dict[str, dict[str, Setting]] = {}
    for one in every:
        table, _, key = one.name.partition(".")
        tables.setdefault(table, {})[key] = one
    problems: list[Problem] = []
    for table, value in document.items():
        if table not in tables:
            problems.append(Problem(table, f"[{table:.80}] is not known{_near(table, list(tables))}"))
        elif not isinstance(value, dict):
            problems.append(Problem(table, f"[{table}] is not a table"))
        else:
            for key, one in value.items():
                if key not in tables[table]:
                    text = f"[{table}] does not know {key:.80}{_near(key, list(tables[table]))}"
                    problems.append(Problem(f"{table}.{key}", text))
                elif told := _wrong(one, tables[table][key]):
                    problems.append(Problem(f"{table}.{key}", f"[{table}] {key} {told}"))
    return problems


def _near(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, 1)
    return f" (did you mean {near[0]}?)" if near else f"; there are {', '.join(names)}"


def _wrong(value: object, setting: Setting) -> str:
    """What is wrong with a value, in words that follow its name; "" for nothing."""
    wanted = f" from {setting.allowed.replace(' ..', ' to')}" if setting.high < math.inf else ""
    unit = f" {setting.unit}" if setting.unit else ""
    if not isinstance(value, _TYPES[setting.type]) or (
        isinstance(value, bool) and setting.type != "true or false"
    ):
        return f"must be {setting.type}{wanted}{unit}, not {value!r:.80}"
    if isinstance(value, (int, float)) and not setting.low <= value <= setting.high:
        return f"is {value!r}; it must lie{wanted}{unit}"
    for word in value if isinstance(value, list) else [value]:
        if isinstance(value, list) and not isinstance(word, str):
            return f"must be a list of texts, and holds {word!r:.80}"
        if setting.words and isinstance(word, str) and word.lower() not in setting.words:
            near = get_close_matches(word, setting.words, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            return f"is {word!r:.80}; it must be one of {', '.join(setting.words)}{hint}"
    return ""


def toml_value(value: object) -> str:
    """A value as it stands in a file."""
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(one) for one in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml_value(v)}" for k, v in value.items()) + " }"
    return _toml(value)
