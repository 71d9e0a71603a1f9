"""The collector's folder: `collector.toml`, keys, devices, store.

    [collector] origin (the log's name); tenant, store (default "store.db"), client_id, log_level
    [mqtt]      host, port, server_name (in the broker's certificate; default: host)
    [clock]     source = "system" | "page"; page, epoch_wall_ns, kind; synced
    [policy]    accept_kinds = ["live"]

Keys lie in `keys/`: log.key (Ed25519), receipt.key and ledger.key (P-256), tls.key, tls.crt, ca.crt,
device_ca.crt. Relative paths count from the folder of collector.toml.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cloud_sync.collector import Policy
from cloud_sync.errors import ConfigError
from cloud_sync.runtime.devices import load_ca
from edge.note import valid_key_name
from firmware_bridge.runtime.clock import Clock, PageClock, SystemClock
from firmware_bridge.wire import cose
from firmware_bridge.wire.stamp import ClockKind
from provisioning.errors import IdentityError
from provisioning.identity import identity_of

_KINDS: Final = {kind.name.lower(): kind for kind in ClockKind}
_SECTIONS: Final = {
    "collector": {"origin", "tenant", "store", "client_id", "log_level"},
    "mqtt": {"host", "port", "server_name"},
    "clock": {"source", "page", "epoch_wall_ns", "kind", "synced"},
    "policy": {"accept_kinds"},
}


@dataclass(frozen=True, slots=True)
class CollectorConfig:
    """A collector.toml that can be meant."""

    folder: Path
    origin: str
    store: Path
    host: str
    port: int
    server_name: str
    client_id: str
    log_level: str
    policy: Policy
    clock: Mapping[str, object]

    @property
    def keys(self) -> Path:
        """Where the keys lie."""
        return self.folder / "keys"

    @property
    def devices(self) -> Path:
        """Where the event certificates lie."""
        return self.folder / "devices"

    @property
    def published(self) -> Path:
        """The newest checkpoint that left this machine."""
        return self.store.with_name("published.checkpoint")


@dataclass(frozen=True, slots=True)
class CollectorKeys:
    """What the collector signs with, and whom it believes."""

    log: Ed25519PrivateKey
    receipt: cose.PrivateKey
    ledger: cose.PrivateKey
    device_ca: x509.Certificate


def load_config(path: Path) -> CollectorConfig:
    """The configuration in `path`. Raises ConfigError that names the entry."""
    try:
        value = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    _check_names(path, value)
    folder = path.absolute().parent
    collector, mqtt = _table(path, value, "collector"), _table(path, value, "mqtt")
    origin = _text(path, collector, "origin")
    if not valid_key_name(origin):
        raise ConfigError(f"{path}: origin must be the log's name, without spaces or plus signs")
    host, port = _text(path, mqtt, "host"), mqtt.get("port")
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise ConfigError(f"{path}: [mqtt] port must be 1 .. 65535")
    clock = _table(path, value, "clock") if "clock" in value else {"source": "system"}
    return CollectorConfig(
        folder, origin, folder / _text(path, collector, "store", "store.db"),
        host, port, _text(path, mqtt, "server_name", host),
        _text(path, collector, "client_id", "") or _client_id(folder / "keys" / "tls.crt"),
        _text(path, collector, "log_level", "info").lower(), _policy(path, value), clock,
    )  # fmt: skip


def load_keys(config: CollectorConfig) -> CollectorKeys:
    """The keys beside `config`. Raises ConfigError that names the file."""
    log = _private(config.keys / "log.key")
    receipt, ledger = _private(config.keys / "receipt.key"), _private(config.keys / "ledger.key")
    if not isinstance(log, Ed25519PrivateKey):
        raise ConfigError(f"{config.keys / 'log.key'}: the log signs with an Ed25519 key")
    for name, key in (("receipt.key", receipt), ("ledger.key", ledger)):
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ConfigError(f"{config.keys / name}: this must be a P-256 key")
    assert isinstance(receipt, ec.EllipticCurvePrivateKey) and isinstance(ledger, ec.EllipticCurvePrivateKey)
    return CollectorKeys(log, receipt, ledger, load_ca(config.keys / "device_ca.crt"))


def make_clock(config: CollectorConfig) -> Clock:
    """The clock that `config` names. Raises ConfigError."""
    clock, where = config.clock, config.folder / "collector.toml"
    source = clock.get("source", "system")
    if source == "system":
        return SystemClock(synced=clock.get("synced") is True)
    page, epoch, kind = clock.get("page"), clock.get("epoch_wall_ns"), clock.get("kind")
    if source != "page" or not isinstance(page, str) or not isinstance(epoch, int) or kind not in _KINDS:
        raise ConfigError(f'{where}: [clock] source is "system", or "page" with page, epoch_wall_ns and kind')
    try:
        return PageClock(config.folder / page, epoch_wall_ns=epoch, kind=_KINDS[str(kind)])
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: [clock] page {page}: {error}; start the world first") from error


def _check_names(path: Path, value: Mapping[str, object]) -> None:
    for section, table in value.items():
        if section not in _SECTIONS or not isinstance(table, dict):
            raise ConfigError(f"{path}: [{section}] is not known; there are {', '.join(_SECTIONS)}")
        for name in table:
            if name not in _SECTIONS[section]:
                raise ConfigError(
                    f"{path}: [{section}] has no {name}; it has {', '.join(sorted(_SECTIONS[section]))}"
                )


def _table(path: Path, value: Mapping[str, object], name: str) -> Mapping[str, object]:
    table = value.get(name)
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: [{name}] is missing")
    return table


def _text(path: Path, table: Mapping[str, object], name: str, default: str | None = None) -> str:
    value = table.get(name, default)
    if not isinstance(value, str):
        raise ConfigError(f"{path}: {name} is missing or not a text")
    return value


def _policy(path: Path, value: Mapping[str, object]) -> Policy:
    if "policy" not in value:
        return Policy()
    names = _table(path, value, "policy").get("accept_kinds", ["live"])
    if not isinstance(names, list) or not names or any(name not in _KINDS for name in names):
        raise ConfigError(f"{path}: accept_kinds is a list of {', '.join(_KINDS)}")
    return Policy(frozenset(_KINDS[name] for name in names))


def _private(path: Path) -> object:
    try:
        return load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"key {path}: {error}; it must be an unencrypted PEM private key") from error


def _client_id(path: Path) -> str:
    """The MQTT client id that belongs to the collector's TLS certificate."""
    try:
        return identity_of(x509.load_pem_x509_certificate(path.read_bytes())).client_id
    except (OSError, ValueError, IdentityError) as error:
        raise ConfigError(f"TLS certificate {path}: {error}") from error
