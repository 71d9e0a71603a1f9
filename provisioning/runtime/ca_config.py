"""ca.toml: what the authority is told by people, typed, with unknown names refused."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from provisioning.errors import CaConfigError, IdentityError
from provisioning.identity import Identity

DAYS: Final = 90
"""Life of a device's certificates: renewal at 60 days leaves a month for a car that stands in a garage."""
EST_PORT: Final = 8443
"""Where the enrolment server listens: EST names no port of its own but HTTPS's, which needs root."""
BROKER_PORT: Final = 8883
"""MQTT over TLS, as registered."""
_KNOWN: Final = {
    "ca": {"tenant", "hosts", "days"},
    "est": {"host", "port"},
    "collector": {"folder"},
    "uplink": {"host", "port", "server_name"},
}


@dataclass(frozen=True, slots=True)
class CaConfig:
    """A ca.toml that can be meant."""

    tenant: str
    hosts: tuple[str, ...]
    """Names and addresses by which devices reach the enrolment server; they stand in its certificate."""
    days: int = DAYS
    """Life of certificates of devices and servers, 1 to 398 days."""
    est_host: str = "0.0.0.0"
    est_port: int = EST_PORT
    """0 lets the system choose."""
    collector: str = ""
    """The collector's folder on this machine; empty: none yet."""
    uplink_host: str = ""
    """The broker as devices reach it; empty: none yet."""
    uplink_port: int = BROKER_PORT
    uplink_name: str = ""
    """The name in the broker's certificate; empty: `uplink_host`."""

    def uplink(self) -> dict[str, str | int] | None:
        """[uplink] of a node's configuration, or None."""
        if not self.uplink_host:
            return None
        return {
            "host": self.uplink_host,
            "port": self.uplink_port,
            "server_name": self.uplink_name or self.uplink_host,
        }


def render_config(config: CaConfig) -> str:
    """ca.toml for `config`."""
    hosts = ", ".join(json.dumps(host) for host in config.hosts)
    return f"""# The certificate authority of one tenant. `holdfast ca collector` fills in its part.
[ca]
tenant = {json.dumps(config.tenant)}
hosts = [{hosts}]  # of the enrolment server, as devices reach it
days = {config.days}  # life of certificates, 1 to 398

[est]
host = {json.dumps(config.est_host)}  # address to listen on
port = {config.est_port}  # 0 to 65535; 0: any free one

[collector]
folder = {json.dumps(config.collector)}  # gets devices/<tenant>/<device>.crt and has trust.json

[uplink]
host = {json.dumps(config.uplink_host)}  # the broker, as devices reach it
port = {config.uplink_port}
server_name = {json.dumps(config.uplink_name)}  # in the broker's certificate; empty: the host
"""


def load_config(path: Path) -> CaConfig:
    """The configuration in `path`. Raises CaConfigError that names the entry; OSError."""
    try:
        value = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CaConfigError(f"{path}: {error}") from error
    for section, table in value.items():
        if section not in _KNOWN or not isinstance(table, dict):
            raise CaConfigError(f"{path}: [{section}] is not known; there are {', '.join(_KNOWN)}")
        for name in table:
            if name not in _KNOWN[section]:
                raise CaConfigError(
                    f"{path}: [{section}] has no {name}; it has {', '.join(sorted(_KNOWN[section]))}"
                )
    try:
        return _config(value)
    except (CaConfigError, IdentityError) as error:
        raise CaConfigError(f"{path}: {error}") from error


def _config(value: dict[str, Any]) -> CaConfig:
    main, est = value.get("ca", {}), value.get("est", {})
    collector, uplink = value.get("collector", {}), value.get("uplink", {})
    hosts = main.get("hosts")
    if not isinstance(hosts, list) or not hosts or not all(isinstance(h, str) and h for h in hosts):
        raise CaConfigError(
            'hosts is a list of names or addresses of the enrolment server, as ["ca.example"]'
        )
    tenant = Identity(_text(main, "tenant", ""), "any").tenant
    return CaConfig(
        tenant, tuple(hosts), _number(main, "days", DAYS, 1, 398),
        _text(est, "host", "0.0.0.0"), _number(est, "port", EST_PORT, 0, 65535),
        _text(collector, "folder", ""),
        _text(uplink, "host", ""), _number(uplink, "port", BROKER_PORT, 1, 65535),
        _text(uplink, "server_name", ""),
    )  # fmt: skip


def _text(table: dict[str, Any], name: str, default: str) -> str:
    value = table.get(name, default)
    if not isinstance(value, str):
        raise CaConfigError(f"{name} is a text")
    return value


def _number(table: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = table.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise CaConfigError(f"{name} is a whole number, {least} to {most}")
    return value
