"""Which configurations there are, and who reads each: node.toml and ca.toml here, others by entry point.

A package above registers its own in the group `holdfast.configs`: a `ConfigKind`. So `holdfast config` reads
the collector's file without this package knowing the collector.
"""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge import settings
from edge.config import MAX_PORTS, BadConfig, Port, Problem, parse
from edge.errors import ConfigError
from edge.runtime.load import load_config, shared_devices
from edge.settings import Setting, check_flat, toml_value
from provisioning.errors import ProvisioningError
from provisioning.runtime import ca_config

GROUP: Final = "holdfast.configs"
"""Entry-point group of the configurations of other packages."""
MAX_CONFIG_BYTES: Final = 256 * 1024
"""A configuration has a few kB; a larger file is another one."""


@dataclass(frozen=True, slots=True)
class ConfigKind:
    """One kind of configuration file."""

    name: str
    """As it is called: node.toml."""
    table: str
    """The table that only this kind has."""
    what: str
    """Whose it is, in words."""
    settings: Callable[[], Sequence[Setting]]
    check: Callable[[Path, str], list[Problem]]
    """Everything that is wrong with that text of that file; reads what the file names, changes nothing."""
    values: Callable[[Path, str], Mapping[str, str]]
    """Every setting in effect, by name, as it would stand in the file. Raises ConfigError."""


def read_text(path: Path) -> str:
    """The text of a configuration. Raises ConfigError that says why it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: more than {MAX_CONFIG_BYTES} bytes: is it the right file?")
        return data.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error


def kinds() -> dict[str, ConfigKind]:
    """Every kind that is installed, by name."""
    found = {NODE.name: NODE, CA.name: CA}
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            kind = point.load()
        except (ImportError, AttributeError):
            continue  # the package above is not whole here (a node has no web server)
        if isinstance(kind, ConfigKind):
            found[kind.name] = kind
    return found


def kind_of(path: Path, text: str, name: str | None = None) -> ConfigKind:
    """The kind of a file: `name`, or by its own name, or by its tables. Raises ConfigError."""
    every = kinds()
    wanted = name if name is None or name.endswith(".toml") else f"{name}.toml"
    if wanted is not None:
        if wanted not in every:
            raise ConfigError(f"there is no configuration {wanted:.80}; there are {', '.join(sorted(every))}")
        return every[wanted]
    by_name = every.get(path.name.removesuffix(".example"))
    try:
        tables = set(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError):
        tables = set()
    by_table = [kind for kind in every.values() if kind.table in tables]
    if by_name is not None or len(by_table) == 1:
        return by_name or by_table[0]
    raise ConfigError(
        f"{path}: cannot tell what this configures; say --kind, one of {', '.join(sorted(every))}"
    )


def check_by_table(
    text: str, every: Sequence[Setting], load: Callable[[], object], errors: type[Exception]
) -> list[Problem]:
    """Problems of a file by its table of settings; where there is none, what its daemon's own reader says."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return [Problem("", f"not TOML: {error}")]
    if problems := check_flat(document, every):
        return problems
    try:
        load()
    except (errors, OSError) as error:
        return [Problem(_where(str(error), every), str(error))]
    return []


def values_by_table(text: str, every: Sequence[Setting]) -> dict[str, str]:
    """What a file says, and defaults for the rest. Raises ConfigError where it is not TOML."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"not TOML: {error}") from error
    found = {}
    for one in every:
        table, _, key = one.name.partition(".")
        inner = document.get(table)
        value = inner.get(key) if isinstance(inner, dict) else None
        found[one.name] = one.default if value is None else toml_value(value)
    return found


def _where(error: str, every: Sequence[Setting]) -> str:
    """The setting a reader's sentence is about, as far as it names one."""
    named = [one.name for one in every if f"[{one.name.split('.')[0]}] {one.name.split('.')[-1]}" in error]
    return named[0] if named else ""


def _check_node(path: Path, text: str) -> list[Problem]:
    base = str(path.absolute().parent)
    try:
        return shared_devices(parse(text, base=base).ports)
    except BadConfig as error:
        return [*error.problems, *shared_devices(_ports_said(text, base))]


def _ports_said(text: str, base: str) -> tuple[Port, ...]:
    """The ports of a file that has mistakes, as far as they name a device."""
    try:
        items = tomllib.loads(text).get("port")
    except (tomllib.TOMLDecodeError, RecursionError):
        return ()
    tables = [one if isinstance(one, dict) else {} for one in (items if isinstance(items, list) else [])]
    paths = [one.get("path") for one in tables[:MAX_PORTS]]
    return tuple(
        Port(str(one.get("name", "?")), str(Path(base) / path) if isinstance(path, str) else f"?{n}", "nmea")
        for n, (one, path) in enumerate(zip(tables, paths, strict=False))
    )


def _node_values(path: Path, _text: str) -> Mapping[str, str]:
    return settings.flat(load_config(path))


def ca_settings() -> list[Setting]:
    """Every setting of ca.toml."""
    text, integer = "text", "integer"
    return [
        Setting("ca.tenant", text, "", "", "not set", "Whose authority this is; stands in every name.",
                required=True),
        Setting("ca.hosts", "list of texts", "", "", "not set",
                "Names and addresses by which devices reach the enrolment server.", required=True),
        Setting("ca.days", integer, "days", "1 .. 398", str(ca_config.DAYS),
                "Life of certificates: renewal at two thirds leaves a month for a car in a garage.", 1, 398),
        Setting("est.host", text, "", "", '"0.0.0.0"', "Where the enrolment server listens: everywhere."),
        Setting("est.port", integer, "", "0 .. 65,535", str(ca_config.EST_PORT),
                "EST has no port of its own but HTTPS's, which needs root; 0: any free one.", 0, 65_535),
        Setting("collector.folder", text, "", "", '""',
                "Gets devices/, and has the trust.json that devices are given; none at first."),
        Setting("uplink.host", text, "", "", '""', "The broker as devices reach it; none at first."),
        Setting("uplink.port", integer, "", "1 .. 65,535", str(ca_config.BROKER_PORT),
                "MQTT over TLS, as IANA has it.", 1, 65_535),
        Setting("uplink.server_name", text, "", "", "uplink.host", "The name in the broker's certificate."),
    ]  # fmt: skip


def _check_ca(path: Path, text: str) -> list[Problem]:
    return check_by_table(text, ca_settings(), lambda: ca_config.load_config(path), ProvisioningError)


NODE: Final = ConfigKind(
    "node.toml", "node", "a node: edge, roadside and uplink", settings.settings, _check_node, _node_values
)
CA: Final = ConfigKind(
    "ca.toml", "ca", "the certificate authority and its enrolment server", ca_settings, _check_ca,
    lambda _path, text: values_by_table(text, ca_settings()),
)  # fmt: skip
