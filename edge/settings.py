"""What can be set in node.toml: names, units, ranges, defaults and their reasons, told in words. Pure.

Everything here is read off the types of `edge.config`, so that an explanation cannot differ from what the
daemons enforce.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from enum import Enum
from typing import Any, Final

from edge import config
from edge.config import Choice, Config, Limit, Words, rules
from edge.errors import ConfigError

_TABLES: Final[dict[str, type]] = {
    "node": config.Node, "clock": config.ClockConfig, "port": config.Port, "fence": config.Fence,
    "uplink": config.UplinkConfig, "chirpstack": config.ChirpStack, "outbox": config.OutboxLimits,
    "edge": config.EdgeLimits, "telemetry": config.Telemetry,
}  # fmt: skip
_FILE_NAMES: Final = {"lat_deg": "lat", "lon_deg": "lon"}
"""Where the file says it shorter than the code."""
_ABSENT: Final = "not set"
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


def explain(name: str) -> list[Setting]:
    """The settings of the table `name`, or the one key `name` (with or without its table).

    Raises ConfigError with the nearest name where there is none.
    """
    every = settings()
    found = [one for one in every if name in (one.name, one.name.split(".")[0], one.name.rsplit(".", 1)[-1])]
    if found:
        return found
    names = [one.name for one in every]
    near = get_close_matches(name, [*names, *(n.rsplit(".", 1)[-1] for n in names), *_TABLES], 1)
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
    return [
        Difference(name, known[name], own[name])
        for name in sorted(own)
        if name in known and own[name] != known[name]
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
    unit = f", {one.unit}" if one.unit else ""
    allowed = f" ({one.allowed}{unit})" if one.allowed else ""
    yield f"# {one.reason}{allowed}"
    if value is not None:
        yield f"{key} = {_toml(value)}"
    else:
        yield f"#{key} = {one.default if one.default != _ABSENT else ''}".rstrip()


def _setting(name: str, kind: Any, rule: Limit | Choice | Words, default: object) -> Setting:
    said = _ABSENT if default is MISSING or default is None or default == "" else _toml(default)
    if isinstance(rule, Limit):
        return Setting(
            name,
            "integer" if kind is int else "number",
            rule.unit,
            f"{rule.low:,} .. {rule.high:,}",
            said,
            rule.reason,
        )
    if isinstance(rule, Choice):
        return Setting(name, "text", "", ", ".join(rule.allowed), said, rule.reason)
    return Setting(name, "true or false" if kind is bool else "text", "", "", said, rule.reason)


def _toml(value: object) -> str:
    if isinstance(value, Enum):
        return _toml(value.name.lower())
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return _ABSENT if value is None else str(value)
