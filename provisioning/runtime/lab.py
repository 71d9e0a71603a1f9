"""A whole lab on disk: authorities, broker, collector and nodes, for the demo and for tests.

    HOME/authority/{root,tls,event}.{key,crt}      the root belongs offline; here it lies beside the others
    HOME/broker/keys/{tls.key,tls.crt,ca.crt}
    HOME/collector/keys/{tls.key,tls.crt,ca.crt,log.key,receipt.key,ledger.key,device_ca.crt}
    HOME/collector/devices/<tenant>/<device>.crt   event certificates
    HOME/nodes/<device>/keys/{tls.key,tls.crt,ca.crt,event.key,event.crt}
    HOME/nodes/<device>/trust.json, HOME/collector/trust.json, HOME/trust.json

Keys are 0600 and folders 0700. Configuration files are not written here.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from provisioning import ca
from provisioning.ca import Authority, Purpose, Validity
from provisioning.errors import LabError
from provisioning.identity import CLOUD, COLLECTOR, Identity

ORIGIN: Final = "log.holdfast.example/demo"
"""Name of the lab's log."""
TLS_DAYS: Final = 90
"""Life of TLS certificates; renewal replaces revocation."""
_EVENT_FROM: Final = datetime(2000, 1, 1, tzinfo=UTC)
_EVENT_UNTIL: Final = datetime(2100, 1, 1, tzinfo=UTC)
"""A lab replays drives of any year, and an event's certificate must have been valid when it happened."""
_SKEW: Final = timedelta(hours=1)
"""TLS certificates begin this much earlier: clocks of a lab's machines differ."""


@dataclass(frozen=True, slots=True)
class Lab:
    """Where everything is, and the authorities, so that a test can issue one certificate more."""

    home: Path
    tenant: str
    broker: Path
    collector: Path
    nodes: dict[str, Path]
    trust: Path
    tls: Authority
    event: Authority


def make_lab(
    home: Path,
    tenant: str,
    nodes: Sequence[tuple[str, str]],
    broker_host: str,
    *,
    origin: str = ORIGIN,
    now: datetime | None = None,
) -> Lab:
    """Make all key material below `home` for `nodes`, pairs of device name and kind.

    `now` is when TLS certificates begin to be valid; the host's time by default. Raises LabError when there
    are keys already or the folder cannot be written, IdentityError for a name outside of the grammar.
    """
    identities = [Identity(tenant, device) for device, _ in nodes]
    if tenant == CLOUD or any(identity.is_collector for identity in identities):
        raise LabError(f"the names tenant {CLOUD!r} and device {COLLECTOR!r} are reserved: choose another")
    if len({identity.device for identity in identities}) != len(identities):
        raise LabError("two nodes have the same name: choose another")
    now = datetime.now(UTC) if now is None else now
    tls_validity = Validity(now - _SKEW, now + timedelta(days=TLS_DAYS))
    event_validity = Validity(_EVENT_FROM, _EVENT_UNTIL)
    root = ca.make_root(f"{tenant} root", ca.new_key(), event_validity)
    tls = ca.make_issuing(root, f"{tenant} TLS", ca.new_key(), Purpose.TLS, event_validity)
    event = ca.make_issuing(root, f"{tenant} events", ca.new_key(), Purpose.EVENT, event_validity)
    writer = _Writer(home, root, tls, event, tls_validity, event_validity)
    try:
        writer.authorities()
        trust = writer.collector(Identity(tenant, COLLECTOR), origin)
        writer.broker(broker_host)
        folders = {identity.device: writer.node(identity, trust) for identity in identities}
    except FileExistsError as error:
        raise LabError(
            f"{error.filename} is there already: choose an empty folder, keys are never replaced"
        ) from error
    except OSError as error:
        raise LabError(f"cannot write {error.filename}: {error.strerror}") from error
    return Lab(home, tenant, home / "broker", home / COLLECTOR, folders, home / "trust.json", tls, event)


def key_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    """A private key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate_pem(*certificates: x509.Certificate) -> bytes:
    """Certificates as PEM, one after another."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def write_private(path: Path, data: bytes) -> None:
    """Write a new file that only its owner may read. Raises FileExistsError rather than replace a key."""
    _private_folder(path.parent)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def _private_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it, each 0700: `parents=True` would use the umask above."""
    for missing in reversed([f for f in (folder, *folder.parents) if not f.exists()]):
        missing.mkdir(mode=0o700)


def write_tls(
    keys: Path, authority: Authority, root: x509.Certificate, identity: Identity, validity: Validity
) -> None:
    """Make a TLS client key and certificate for `identity`: tls.key, tls.crt (with its issuer), ca.crt."""
    key = ca.new_key()
    certificate = ca.issue_tls_client(authority, key.public_key(), identity, validity)
    write_private(keys / "tls.key", key_pem(key))
    write_private(keys / "tls.crt", certificate_pem(certificate, authority.certificate))
    write_private(keys / "ca.crt", certificate_pem(root))


@dataclass(frozen=True, slots=True)
class _Writer:
    home: Path
    root: Authority
    tls: Authority
    event: Authority
    tls_validity: Validity
    event_validity: Validity

    def authorities(self) -> None:
        for name, authority in (("root", self.root), ("tls", self.tls), ("event", self.event)):
            write_private(self.home / "authority" / f"{name}.key", key_pem(authority.key))
            write_private(self.home / "authority" / f"{name}.crt", certificate_pem(authority.certificate))

    def broker(self, host: str) -> None:
        keys, key = self.home / "broker" / "keys", ca.new_key()
        hosts = list(dict.fromkeys(["localhost", "127.0.0.1", host]))
        certificate = ca.issue_server(self.tls, key.public_key(), hosts, self.tls_validity)
        write_private(keys / "tls.key", key_pem(key))
        write_private(keys / "tls.crt", certificate_pem(certificate, self.tls.certificate))
        write_private(keys / "ca.crt", certificate_pem(self.root.certificate))

    def collector(self, identity: Identity, origin: str) -> bytes:
        """Write the collector's keys; returns the text of trust.json."""
        folder = self.home / COLLECTOR
        log, receipt, ledger = Ed25519PrivateKey.generate(), ca.new_key(), ca.new_key()
        write_tls(folder / "keys", self.tls, self.root.certificate, identity, self.tls_validity)
        for name, key in (("log", log), ("receipt", receipt), ("ledger", ledger)):
            write_private(folder / "keys" / f"{name}.key", key_pem(key))
        write_private(folder / "keys" / "device_ca.crt", certificate_pem(self.event.certificate))
        trust = {
            "origin": origin,
            "log_key": base64.b64encode(log.public_key().public_bytes_raw()).decode(),
            "receipt_keys": [_public_pem(receipt)],
            "ledger_keys": [_public_pem(ledger)],
            "device_ca": certificate_pem(self.event.certificate).decode(),
        }
        text = (json.dumps(trust, indent=1) + "\n").encode()
        write_private(folder / "trust.json", text)
        write_private(self.home / "trust.json", text)
        return text

    def node(self, identity: Identity, trust: bytes) -> Path:
        folder, key = self.home / "nodes" / identity.device, ca.new_key()
        certificate = certificate_pem(
            ca.issue_event(self.event, key.public_key(), identity, self.event_validity)
        )
        write_tls(folder / "keys", self.tls, self.root.certificate, identity, self.tls_validity)
        write_private(folder / "keys" / "event.key", key_pem(key))
        write_private(folder / "keys" / "event.crt", certificate)
        write_private(folder / "trust.json", trust)
        write_private(
            self.home / COLLECTOR / "devices" / identity.tenant / f"{identity.device}.crt", certificate
        )
        return folder


def _public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
