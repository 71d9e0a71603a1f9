"""Reads `node.toml` and builds what it names: configuration, clock, keys."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge.config import BadConfig, Config, Port, Problem, parse
from edge.errors import ConfigError
from firmware_bridge.runtime.clock import Clock, PageClock, SystemClock
from firmware_bridge.wire import cose
from provisioning.ca import Purpose
from provisioning.runtime.keystore import pair


def load_config(path: Path) -> Config:
    """The configuration in `path`. Raises ConfigError that names the file."""
    path = path.absolute()
    try:
        config = parse(path.read_text("utf-8"), base=str(path.parent))
        if shared := shared_devices(config.ports):
            raise BadConfig(shared)
        return config
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def shared_devices(ports: tuple[Port, ...]) -> list[Problem]:
    """Ports that are one device, also by a link or another node of it: only one of them could be read."""
    found: list[Problem] = []
    seen: dict[object, Port] = {}
    for number, port in enumerate(ports):
        real = os.path.realpath(port.path)
        marks: list[object] = [real]
        try:
            if device := os.stat(real).st_rdev:
                marks.append(device)
        except OSError:
            pass  # not plugged in: then only its name can be compared
        other = next((seen[mark] for mark in marks if mark in seen), None)
        if other is not None and other.path != port.path:
            found.append(
                Problem(
                    f"port[{number}].path",
                    f"[port] path {port.path!r} is the same device as {other.path!r} of port {other.name}"
                    f" ({real}): one reader a device; take one of the two out",
                )
            )
        for mark in marks:
            seen.setdefault(mark, port)
    return found


def open_clock(config: Config) -> Clock:
    """The clock the configuration names. Raises ConfigError when its page cannot be read."""
    clock = config.clock
    if clock.source == "system":
        return SystemClock(synced=clock.synced)
    assert clock.page is not None
    try:
        return PageClock(
            Path(clock.page), epoch_wall_ns=clock.epoch_wall_ns, kind=clock.kind, synced=clock.synced
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"[clock] cannot read page {clock.page} ({error}): does the world run?") from error


def load_event_key(config: Config) -> cose.PrivateKey:
    """The event key: systemd's credential, or `keys/event.key`. Raises ConfigError."""
    path, _ = pair(Purpose.EVENT, Path(config.path("keys")))
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"cannot read the event key {path} ({error}): enrol this node first") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{path} is not a P-256 key; segments are signed with ES256")
    return key
