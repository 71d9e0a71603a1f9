"""What a Mosquitto is given: keys, certificate, revocation list; from the authority or files, and judged."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from provisioning.errors import BrokerError
from provisioning.mosquitto import CRL_NAME
from provisioning.runtime import ca_admin, ca_parties
from provisioning.runtime.ca_keys import read_certificate, read_file, read_key, write_file
from provisioning.runtime.ca_tool import opened
from provisioning.runtime.owner import as_owner

CRL_WARN: Final = timedelta(days=2)
"""A revocation list that ends sooner than this is said: with its end nobody is let in any more."""
MAX_CRL_BYTES: Final = 16 << 20
"""About 400,000 revoked certificates."""


@dataclass(frozen=True, slots=True)
class BrokerAsk:
    """What the command line says."""

    out: Path
    ca: Path | None = None
    tls: Path | None = None
    crl: Path | None = None
    hosts: tuple[str, ...] = ()
    listen: str = ""
    port: int = 8883
    tenants: tuple[str, ...] = ()
    user: str = ""
    log: str = "stderr"
    apply: str = ""
    dry_run: bool = False
    as_json: bool = False


@dataclass(slots=True)
class Material:
    """Keys and list as they shall lie in OUT/keys, by name."""

    files: dict[str, bytes]
    tenants: tuple[str, ...]
    warnings: list[str] = field(default_factory=list)
    newly_revoked: bool = False


def of_authority(ask: BrokerAsk, out: Path, now: datetime) -> Material:
    """From the authority on this machine; its lists are written anew where they are due.

    Root works in the authority's folder as its owner, and as root only in `out`.
    """
    assert ask.ca is not None
    there = {
        name: read_file(out / "keys" / name)
        for name in ("tls.key", "tls.crt", "ca.crt")
        if (out / "keys" / name).exists()
    }
    with (
        as_owner(ask.ca),
        opened(ask.ca) as (authority, register),
        tempfile.TemporaryDirectory(prefix="holdfast-") as temporary,
    ):
        config = authority.config
        uplink = config.uplink_name or config.uplink_host
        hosts = ask.hosts or ((uplink,) if uplink else ())
        if not hosts:
            raise BrokerError("give the broker's name or address as devices reach it: --host")
        stage = Path(temporary)
        for name, data in there.items():
            write_file(stage / "keys" / name, data)
        if "ca.crt" in there and read_certificate(stage / "keys" / "ca.crt") != authority.root:
            raise BrokerError(f"{out / 'keys' / 'ca.crt'} is another authority's root: choose another folder")
        ca_parties.make_broker(authority, stage, hosts, now)
        files = {name: read_file(stage / "keys" / name) for name in ("tls.key", "tls.crt", "ca.crt")}
        material = Material(files, ask.tenants or (authority.tenant,))
        if ca_admin.crls_due(authority, now):
            if ask.dry_run:
                material.warnings.append(f"the revocation lists in {ask.ca / 'crl'} would be written anew")
            else:
                ca_admin.write_crls(authority, register, now)
        if (ask.ca / "crl" / "tls.pem").exists():
            files[CRL_NAME] = _read_crl(ask.ca / "crl" / "tls.pem")
        return material


def of_files(ask: BrokerAsk, now: datetime) -> Material:
    """From a folder that `holdfast ca broker` made, perhaps on another machine."""
    assert ask.tls is not None
    folder = ask.tls / "keys" if (ask.tls / "keys").is_dir() else ask.tls
    files = {name: read_file(folder / name) for name in ("tls.key", "tls.crt", "ca.crt")}
    key, certificate = read_key(folder / "tls.key"), read_certificate(folder / "tls.crt")
    if certificate.public_key() != key.public_key():
        raise BrokerError(
            f"{folder / 'tls.crt'} is not the certificate of {folder / 'tls.key'}: one of them is another's"
        )
    _check_server(folder, files, now)
    # What is in force stays: without a list whoever was revoked would be let in again.
    there = ask.out.absolute() / "keys" / CRL_NAME
    crl = ask.crl or next((p for p in (folder / CRL_NAME, folder / "tls.pem", there) if p.exists()), None)
    if crl is not None:
        files[CRL_NAME] = _read_crl(crl)
    material = Material(files, ask.tenants)
    if crl == there:
        material.warnings.append(f"no --crl was given: {there} stays in force, bring a newer one in time")
    return material


def _check_server(folder: Path, files: dict[str, bytes], now: datetime) -> None:
    """Raises BrokerError unless tls.crt is a server's, of the authority in ca.crt, and valid now."""
    path = folder / "tls.crt"
    try:
        chain = x509.load_pem_x509_certificates(files["tls.crt"])
        root = x509.load_pem_x509_certificate(files["ca.crt"])
        for one, issuer in zip(chain, [*chain[1:], root], strict=True):
            one.verify_directly_issued_by(issuer)
        usage = chain[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise BrokerError(
            f"{path} does not lead to {folder / 'ca.crt'} ({error}): make both with `holdfast ca broker`"
        ) from error
    if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise BrokerError(f"{path} is no server's certificate: make one with `holdfast ca broker`")
    if not chain[0].not_valid_before_utc <= now <= chain[0].not_valid_after_utc:
        raise BrokerError(
            f"{path} is valid {iso(chain[0].not_valid_before_utc)} to {iso(chain[0].not_valid_after_utc)}, "
            "not now: renew it with `holdfast ca broker`, or set this machine's clock"
        )


def _read_crl(path: Path) -> bytes:
    """A revocation list as PEM, from PEM or DER."""
    with path.open("rb") as file:
        data = file.read(MAX_CRL_BYTES + 1)
    if len(data) > MAX_CRL_BYTES:
        raise BrokerError(f"{path} is larger than any revocation list of ours")
    try:
        load = x509.load_pem_x509_crl if data.lstrip().startswith(b"-----") else x509.load_der_x509_crl
        return load(data).public_bytes(Encoding.PEM)
    except ValueError as error:
        raise BrokerError(f"{path} is no revocation list: {error}; fetch it anew") from error


def judge_crl(material: Material, out: Path, now: datetime) -> None:
    """Raises BrokerError for a list that Mosquitto must not get; notes whether somebody is new on it."""
    crl = x509.load_pem_x509_crl(material.files[CRL_NAME])
    chain = x509.load_pem_x509_certificates(material.files["tls.crt"])
    public = chain[1].public_key() if len(chain) > 1 else None
    if not isinstance(public, ec.EllipticCurvePublicKey) or not crl.is_signature_valid(public):
        raise BrokerError(
            "the revocation list is not of the authority that issues TLS certificates here: give crl/tls.pem"
        )
    until = crl.next_update_utc
    if until is None or until <= now or crl.last_update_utc > now:
        raise BrokerError(
            f"the revocation list is valid {iso(crl.last_update_utc)} to {iso(until)}, not now; with it "
            "Mosquitto refuses everybody. Nothing was written: run `holdfast ca crl`, and see that "
            "`holdfast ca serve` runs"
        )
    if until - now < CRL_WARN:
        material.warnings.append(
            f"the revocation list ends {iso(until)}, and then Mosquitto refuses everybody: bring a newer one"
        )
    there = out / "keys" / CRL_NAME
    if not there.exists():
        return
    try:
        old = x509.load_pem_x509_crl(there.read_bytes())
    except ValueError:
        return  # spoilt: to be replaced
    if old.issuer == crl.issuer and _number(old) > _number(crl):
        raise BrokerError(
            f"the revocation list is older than {there}: with it revoked devices would be let in again"
        )
    material.newly_revoked = bool({one.serial_number for one in crl} - {one.serial_number for one in old})


def _number(crl: x509.CertificateRevocationList) -> int:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def crl_end(material: Material) -> str | None:
    data = material.files.get(CRL_NAME)
    return None if data is None else iso(x509.load_pem_x509_crl(data).next_update_utc)


def iso(when: datetime | None) -> str:
    return "never" if when is None else f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
