"""The folders of collector and broker, and the device certificates that the collector believes.

    FOLDER/keys/{tls.key,tls.crt,ca.crt,log.key,receipt.key,ledger.key,device_ca.crt}   of the collector
    FOLDER/{trust.json,collector.toml}
    FOLDER/devices/<tenant>/<device>.crt       event certificates that the collector believes, newest first
    FOLDER/devices/<tenant>/<device>.revoked   what they were, once they were revoked: no longer read
    FOLDER/devices/device_ca.crl               the revocation list of event certificates, for evidence bundles
    FOLDER/keys/{tls.key,tls.crt,ca.crt}       of the broker

Running a command again renews what is due and changes no key.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from provisioning import ca
from provisioning.ca import Purpose
from provisioning.errors import CaError
from provisioning.identity import COLLECTOR, Identity
from provisioning.runtime.ca_config import CaConfig, render_config
from provisioning.runtime.ca_db import Register
from provisioning.runtime.ca_files import CaFolder, due, keep_server, leaf_validity
from provisioning.runtime.ca_keys import (
    keep_key,
    key_pem,
    pem,
    read_certificate,
    read_file,
    sweep,
    sync_folder,
    write_file,
)
from provisioning.runtime.owner import as_owner

MAX_KEPT: Final = 16
"""Event certificates of a device that its file holds, newest first: 11 kB, two and a half years of renewals;
the collector reads files up to 16 KiB."""

Step = Callable[[str], None]


def _quiet(_: str) -> None:
    """Nobody listens."""


def make_collector(
    opened: CaFolder, register: Register, folder: Path, origin: str, now: datetime, step: Step = _quiet
) -> None:
    """Make, finish or renew the collector's folder, and note it in ca.toml. Raises CaError, OSError."""
    keys, uplink = folder / "keys", opened.config.uplink()
    sweep(keys)
    if uplink is None:
        raise CaError(
            "the broker's address is not known: give it with --broker-host, or as [uplink] host in ca.toml"
        )
    if (keys / "device_ca.crt").exists():
        there = read_certificate(keys / "device_ca.crt")
        if there.public_key() != opened.event.certificate.public_key():
            raise CaError(f"{folder} is another authority's collector: choose another folder")
    identity = Identity(opened.tenant, COLLECTOR)
    _keep_client(opened, keys, identity, now, step)
    if not (keys / "log.key").exists() and write_file(
        keys / "log.key", key_pem(Ed25519PrivateKey.generate())
    ):
        step(f"made {keys / 'log.key'}")
    signers = {name: keep_key(keys / f"{name}.key") for name in ("receipt", "ledger")}
    device_ca = pem(opened.event.certificate)
    if not (keys / "device_ca.crt").exists() or read_file(keys / "device_ca.crt") != device_ca:
        write_file(keys / "device_ca.crt", device_ca, mode=0o644, replace=True)
        step(f"wrote {keys / 'device_ca.crt'}")
    trust = folder / "trust.json"
    if not trust.exists():
        write_file(trust, _trust(origin, _log_key(keys / "log.key"), signers, device_ca), mode=0o644)
        step(f"wrote {trust}")
    if not (folder / "collector.toml").exists():
        write_file(
            folder / "collector.toml", _collector_toml(opened.config, origin, uplink).encode(), mode=0o644
        )
        step(f"wrote {folder / 'collector.toml'}")
    note(opened, replace(opened.config, collector=str(folder.absolute())), step)
    write_devices(register, folder)
    hand_revocations(opened.path, folder)


def make_broker(
    opened: CaFolder, folder: Path, hosts: tuple[str, ...], now: datetime, step: Step = _quiet
) -> None:
    """Make, finish or renew the broker's TLS key and certificate for `hosts`. Raises CaError, OSError."""
    keys = folder / "keys"
    sweep(keys)
    _keep_root(opened, keys, step)
    keep_server(opened, keys, hosts, now, step)


def note(opened: CaFolder, config: CaConfig, step: Step = _quiet) -> None:
    """Write ca.toml anew where `config` says something else than it."""
    if config != opened.config:
        write_file(opened.path / "ca.toml", render_config(config).encode(), replace=True)
        step(f"noted in {opened.path / 'ca.toml'}")


def _keep_root(opened: CaFolder, keys: Path, step: Step) -> None:
    path = keys / "ca.crt"
    if write_file(path, pem(opened.root), mode=0o644):
        step(f"wrote {path}")
    elif read_certificate(path) != opened.root:
        raise CaError(f"{path} is another authority's root: choose another folder")


def _keep_client(opened: CaFolder, keys: Path, identity: Identity, now: datetime, step: Step) -> None:
    """tls.key, tls.crt and ca.crt of a client."""
    _keep_root(opened, keys, step)
    key, path = keep_key(keys / "tls.key"), keys / "tls.crt"
    if path.exists():
        there = read_certificate(path)
        if there.public_key() == key.public_key() and not due(there, now):
            return
    validity = leaf_validity(opened.tls, now, opened.config.days)
    made = ca.issue_tls_client(opened.tls, key.public_key(), identity, validity)
    write_file(path, pem(made, opened.tls.certificate), mode=0o644, replace=True)
    step(f"made {path}")


def _log_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(read_file(path), None)
    except (ValueError, TypeError) as error:
        raise CaError(f"{path} cannot be read as a key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CaError(f"{path} is no Ed25519 key: it is not ours")
    return key


def _trust(
    origin: str, log: Ed25519PrivateKey, signers: dict[str, ec.EllipticCurvePrivateKey], device_ca: bytes
) -> bytes:
    trust = {
        "origin": origin,
        "log_key": base64.b64encode(log.public_key().public_bytes_raw()).decode(),
        "receipt_keys": [_public_pem(signers["receipt"])],
        "ledger_keys": [_public_pem(signers["ledger"])],
        "device_ca": device_ca.decode(),
    }
    return (json.dumps(trust, indent=1) + "\n").encode()


def _public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _collector_toml(config: CaConfig, origin: str, uplink: dict[str, str | int]) -> str:
    return f"""[collector]
origin = {json.dumps(origin)}
tenant = {json.dumps(config.tenant)}

[mqtt]
host = {json.dumps(uplink["host"])}
port = {uplink["port"]}
server_name = {json.dumps(uplink["server_name"])}
"""


# --- what enrolment hands on -------------------------------------------------------------------------


def trust_of(opened: CaFolder) -> dict[str, Any]:
    """trust.json of the collector, as devices get it. Raises CaError, OSError."""
    folder = opened.config.collector
    if not folder:
        raise CaError("no collector is known yet: make its folder with `holdfast ca collector`")
    path = Path(folder) / "trust.json"
    try:
        value = json.loads(read_file(path))
    except ValueError as error:
        raise CaError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise CaError(f"{path} is no JSON object")
    return value


def write_devices(register: Register, folder: Path) -> None:
    """Write every device's file; after a crash between register and folder, and for a new folder."""
    sweep(folder / "devices")
    for identity in dict.fromkeys(one.identity for one in register.everything()):
        write_device(register, folder, identity)


def hand_revocations(authority: Path, folder: Path) -> None:
    """Lay the revocation list of event certificates into the collector's folder, where there is one.

    Root writes as the owner of the collector's folder. Raises OSError.
    """
    source, target = authority / "crl" / f"{Purpose.EVENT.value}.crl", folder / "devices" / "device_ca.crl"
    with as_owner(authority):
        data = source.read_bytes() if source.exists() else None
    with as_owner(folder):
        if data is not None and (not target.exists() or target.read_bytes() != data):
            write_file(target, data, mode=0o644, replace=True)


def write_device(register: Register, folder: Path, identity: Identity) -> None:
    """Bring a device's file to what the register says. Raises CaError, OSError; may be repeated."""
    with register.transaction():  # two at once would write what one of them read before the other's change
        found = [one for one in register.of_device(identity) if one.purpose is Purpose.EVENT]
        good = [one.certificate for one in reversed(found) if not one.revoked][:MAX_KEPT]
        path = folder / "devices" / identity.tenant / f"{identity.device}.crt"
        if good:
            data = pem(*good)
            if not path.exists() or read_file(path) != data:
                write_file(path, data, mode=0o644, replace=True)
        elif path.exists() and found:
            path.replace(path.with_suffix(".revoked"))
            sync_folder(path.parent)
