"""The certificate authority's folder: made once, resumable, checked each time it is opened.

    DIR/ca.toml                     whose it is, and where its parties are
    DIR/offline/{root.key,root.crt} to be moved to a medium that is kept offline
    DIR/root.crt                    the root that everybody pins
    DIR/{tls,event}.{key,crt}       the issuing keys
    DIR/est/{tls.key,tls.crt}       the enrolment server's own
    DIR/crl/{tls,event}.{crl,pem}   revocation lists: DER, PEM
    DIR/ca.db                       claims, what was issued, what was revoked

Keys are 0600 in folders 0700. Every file appears whole or not at all, and a key is never replaced: a run
that was killed is finished by the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from provisioning import ca
from provisioning.ca import Authority, Purpose, Validity
from provisioning.claim import check_claimable
from provisioning.errors import CaError, IdentityError
from provisioning.identity import Identity
from provisioning.runtime.ca_config import CaConfig, load_config, render_config
from provisioning.runtime.ca_keys import keep_key, pem, read_certificate, read_key, sweep, write_file

ROOT_YEARS: Final = 20
"""Life of the root: longer than a vehicle is financed, twice."""
ISSUING_YEARS: Final = 5
"""Life of the issuing certificates: the root comes back from its safe once in that time."""
SKEW: Final = timedelta(hours=1)
"""Certificates begin this much earlier: the clock of whoever checks may be behind ours."""


@dataclass(frozen=True, slots=True)
class CaFolder:
    """An authority that is in order. The root's key is not needed and not read."""

    path: Path
    config: CaConfig
    root: x509.Certificate
    tls: Authority
    event: Authority

    @property
    def tenant(self) -> str:
        """Whose devices are enrolled here."""
        return self.config.tenant

    def authority(self, purpose: Purpose) -> Authority:
        """The issuing authority for `purpose`."""
        return self.tls if purpose is Purpose.TLS else self.event


# --- making ------------------------------------------------------------------------------------------


def init(
    folder: Path,
    config: CaConfig,
    now: datetime,
    passphrase: bytes = b"",
    step: Callable[[str], None] = lambda _: None,
) -> CaFolder:
    """Make the folder, or finish one that a killed run began. What is there is kept; `step` hears the rest.

    Raises CaError for a folder that is not empty and not an authority's, another tenant's, or half of one;
    IdentityError for a tenant outside of the grammar or reserved; OSError.
    """
    check_claimable(Identity(config.tenant, "any"))
    config = _begin(folder, config, step)
    sweep(folder)
    root = _make_root(folder, config, now, passphrase, step)
    for purpose in Purpose:
        _make_issuing(folder, config, root, purpose, now, passphrase, step)
    opened = load(folder)
    renew_server(opened, now, step)
    return opened


def _begin(folder: Path, config: CaConfig, step: Callable[[str], None]) -> CaConfig:
    """Claim the folder with ca.toml, the first file of all."""
    path = folder / "ca.toml"
    if not path.exists():
        found = (
            sorted(f.name for f in folder.iterdir() if not f.name.startswith(".ca.toml."))
            if folder.exists()
            else []
        )
        if found:
            raise CaError(
                f"{folder} is no authority's folder (no ca.toml) and not empty, it holds "
                f"{', '.join(found[:5])}: choose an empty folder, or restore ca.toml from your backup"
            )
        if write_file(path, render_config(config).encode()):
            step(f"wrote {path}")
    kept = load_config(path)
    if kept.tenant != config.tenant:
        raise CaError(
            f"{folder} is the authority of tenant {kept.tenant}, not of {config.tenant}: choose another"
        )
    return kept


def _make_root(
    folder: Path, config: CaConfig, now: datetime, passphrase: bytes, step: Callable[[str], None]
) -> x509.Certificate:
    public, offline = folder / "root.crt", folder / "offline" / "root.crt"
    if public.exists():
        return read_certificate(public)
    issued = [f"{p.value}.crt" for p in Purpose if (folder / f"{p.value}.crt").exists()]
    if issued:
        raise CaError(
            f"{folder} is half a folder: {issued[0]} is there and root.crt is not; restore root.crt"
        )
    key_path = folder / "offline" / "root.key"
    if not key_path.exists():
        step(f"made {key_path}")
    key = keep_key(key_path, passphrase)
    if not offline.exists():
        validity = Validity(now - SKEW, now + timedelta(days=365 * ROOT_YEARS))
        root = ca.make_root(f"{config.tenant} root", key, validity).certificate
        if write_file(offline, pem(root), mode=0o644):
            step(f"made {offline}")
    root = read_certificate(offline)
    if root.public_key() != key.public_key():
        raise CaError(f"{offline} is not the certificate of {key_path}: one of them was swapped; restore it")
    write_file(public, pem(root), mode=0o644)
    return root


def _make_issuing(
    folder: Path,
    config: CaConfig,
    root: x509.Certificate,
    purpose: Purpose,
    now: datetime,
    passphrase: bytes,
    step: Callable[[str], None],
) -> None:
    key_path, path = folder / f"{purpose.value}.key", folder / f"{purpose.value}.crt"
    if path.exists():
        if not key_path.exists():
            raise CaError(
                f"{folder} is half a folder: {path.name} is there and {key_path.name} is not; restore it"
            )
        return
    signer = Authority(root, _root_key(folder, root, passphrase))
    if not key_path.exists():
        step(f"made {key_path}")
    key = keep_key(key_path)
    name = f"{config.tenant} {'TLS' if purpose is Purpose.TLS else 'events'}"
    until = min(now + timedelta(days=365 * ISSUING_YEARS), root.not_valid_after_utc)
    made = ca.make_issuing(signer, name, key, purpose, Validity(now - SKEW, until))
    if write_file(path, pem(made.certificate), mode=0o644):
        step(f"made {path}")


def _root_key(folder: Path, root: x509.Certificate, passphrase: bytes) -> ec.EllipticCurvePrivateKey:
    path = folder / "offline" / "root.key"
    if not path.exists():
        raise CaError(f"this needs the root's key: bring {path} back from its medium for this one command")
    key = read_key(path, passphrase)
    if key.public_key() != root.public_key():
        raise CaError(f"{path} is not the key of {folder / 'root.crt'}: one of them was swapped; restore it")
    return key


def renew_issuing(folder: Path, now: datetime, passphrase: bytes = b"") -> CaFolder:
    """Give both issuing certificates a new end, with their keys as they are. Raises CaError, OSError."""
    opened = load(folder)
    signer = Authority(opened.root, _root_key(folder, opened.root, passphrase))
    until = min(now + timedelta(days=365 * ISSUING_YEARS), opened.root.not_valid_after_utc)
    for purpose in Purpose:
        authority = opened.authority(purpose)
        if until - authority.certificate.not_valid_after_utc > timedelta(days=1):
            made = ca.renew_issuing(signer, authority, purpose, until)
            write_file(folder / f"{purpose.value}.crt", pem(made.certificate), mode=0o644, replace=True)
    return load(folder)


def load(folder: Path) -> CaFolder:
    """Open the folder. Raises CaError that names the file: missing, swapped, another's; OSError."""
    if not (folder / "ca.toml").exists():
        raise CaError(f"{folder} is no authority's folder: make one with `holdfast ca init`")
    config = load_config(folder / "ca.toml")
    root = read_certificate(folder / "root.crt")
    try:
        root.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise CaError(f"{folder / 'root.crt'} is no root: it was swapped; restore it") from error
    found = {}
    for purpose in Purpose:
        path, key = folder / f"{purpose.value}.crt", read_key(folder / f"{purpose.value}.key")
        certificate = read_certificate(path)
        try:
            ca.check_authority(certificate, root, key, purpose)
        except IdentityError as error:
            raise CaError(f"{path} was swapped: {error}; restore it from your backup") from error
        found[purpose] = Authority(certificate, key)
    return CaFolder(folder, config, root, found[Purpose.TLS], found[Purpose.EVENT])


# --- certificates of servers -------------------------------------------------------------------------


def leaf_validity(authority: Authority, now: datetime, days: int) -> Validity:
    """From an hour ago for `days`, and never outside of the authority's own. Raises CaError: the clock."""
    certificate = authority.certificate
    check_clock(certificate, now)
    return Validity(
        max(now - SKEW, certificate.not_valid_before_utc),
        min(now + timedelta(days=days), certificate.not_valid_after_utc),
    )


def check_clock(certificate: x509.Certificate, now: datetime) -> None:
    """Raises CaError unless `certificate`, an issuing one, is valid `now`."""
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= now <= last:
        what = (
            "set this machine's clock"
            if now < first
            else "set this machine's clock, or if it is right renew "
        )
        tail = "" if now < first else "the issuing certificates (holdfast ca renew-issuing)"
        raise CaError(
            f"the clock of the enrolment server says {now:%Y-%m-%d %H:%M}Z and its issuing certificate is "
            f"valid {first:%Y-%m-%d} to {last:%Y-%m-%d}: {what}{tail}"
        )


def due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether two thirds of its life are over."""
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= first + (last - first) * 2 / 3


def renew_server(opened: CaFolder, now: datetime, step: Callable[[str], None] = lambda _: None) -> bool:
    """Give the enrolment server a certificate where it needs one. True: there is a new one."""
    return keep_server(opened, opened.path / "est", opened.config.hosts, now, step)


def keep_server(
    opened: CaFolder, folder: Path, hosts: tuple[str, ...], now: datetime, step: Callable[[str], None]
) -> bool:
    """tls.key and tls.crt of a server for `hosts` and this machine in `folder`: made, kept or renewed."""
    names = list(dict.fromkeys([*hosts, "localhost", "127.0.0.1"]))
    path = folder / "tls.crt"
    if not (folder / "tls.key").exists():
        step(f"made {folder / 'tls.key'}")
    key = keep_key(folder / "tls.key")
    if path.exists():
        there = read_certificate(path)
        same = there.public_key() == key.public_key() and _names(there) == set(names)
        if same and not due(there, now) and there.issuer == opened.tls.certificate.subject:
            return False
    validity = leaf_validity(opened.tls, now, opened.config.days)
    made = ca.issue_server(opened.tls, key.public_key(), names, validity)
    write_file(path, pem(made, opened.tls.certificate), mode=0o644, replace=True)
    step(f"made {path}")
    return True


def _names(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}
