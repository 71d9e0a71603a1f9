"""What a node believes of what enrolment brings: certificates, trust.json, the broker's address. Pure.

Everything is checked before anything is written, against the one root that the technician pinned: who issued
it, for which purpose, for whose key, in whose name, and whether it is valid now. Refused is what would be
found out later, on the road.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from provisioning.ca import DOCUMENT_SIGNING, Purpose, verify_event_certificate
from provisioning.enrolment import Exit
from provisioning.errors import EnrolError, IdentityError
from provisioning.identity import Identity, identity_of

LOG_KEY_BYTES: Final = 32
"""Ed25519, RFC 8032 section 5.1.5."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was checked, with the authority that issued it."""

    leaf: x509.Certificate
    issuer: x509.Certificate

    @property
    def until(self) -> datetime:
        """The end of its life."""
        return self.leaf.not_valid_after_utc


def renewal_at(certificate: x509.Certificate) -> datetime:
    """When two thirds of its life are over: a third is left to get another."""
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return first + (last - first) * 2 / 3


def check_root(root: x509.Certificate) -> None:
    """Raises EnrolError unless it is a self-signed authority."""
    try:
        root.verify_directly_issued_by(root)
        constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (
        InvalidSignature,
        ValueError,
        TypeError,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
    ) as error:
        raise _unverified("this certificate is no root") from error
    if not constraints.ca:
        raise _unverified("this certificate is no authority's")


def check_issued(
    purpose: Purpose,
    found: Sequence[x509.Certificate],
    issuers: Iterable[x509.Certificate],
    root: x509.Certificate,
    key: ec.EllipticCurvePublicKey,
    identity: Identity,
    now: datetime,
) -> Issued:
    """The certificate for `key` among `found`, which `root` stands behind through one of `issuers`.

    Raises EnrolError unless it is for this purpose, this key and this identity, and valid `now`.
    """
    leaf = next((one for one in found if one.public_key() == key), None)
    if leaf is None:
        raise _unverified(f"the {purpose.value} certificate is for another key than this node's")
    issuer = next(
        (one for one in issuers if _issued_by(leaf, one) and _is_authority(one, root, purpose)), None
    )
    if issuer is None:
        raise _unverified(f"the {purpose.value} certificate does not lead to the pinned root")
    try:
        named = (
            verify_event_certificate(leaf, issuer, now)
            if purpose is Purpose.EVENT
            else _check_client(leaf, issuer, now)
        )
    except IdentityError as error:
        raise _unverified(str(error)) from error
    if named != identity:
        raise _unverified(f"the {purpose.value} certificate is {named.urn}'s, not {identity.urn}'s")
    return Issued(leaf, issuer)


def _check_client(leaf: x509.Certificate, issuer: x509.Certificate, now: datetime) -> Identity:
    for what, one in (("TLS certificate", leaf), ("its authority", issuer)):
        if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
            raise IdentityError(
                f"the {what} is valid {one.not_valid_before_utc} .. {one.not_valid_after_utc}"
            )
    try:
        usage = list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise IdentityError(f"not a TLS certificate: {error}") from error
    if usage != [ExtendedKeyUsageOID.CLIENT_AUTH] or constraints.ca:
        raise IdentityError("not a TLS client's certificate: its key is for another purpose")
    return identity_of(leaf)


def _issued_by(leaf: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _is_authority(one: x509.Certificate, root: x509.Certificate, purpose: Purpose) -> bool:
    """Whether `one` issues for `purpose` below `root`."""
    wanted = DOCUMENT_SIGNING if purpose is Purpose.EVENT else ExtendedKeyUsageOID.CLIENT_AUTH
    try:
        usage = one.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        return (
            _issued_by(one, root)
            and wanted in usage
            and one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        )
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False


def check_trust(trust: Mapping[str, Any], root: x509.Certificate) -> x509.Certificate:
    """The device authority in trust.json, once the whole of it can be meant. Raises EnrolError."""
    origin, keys = trust.get("origin"), trust.get("receipt_keys")
    if not isinstance(origin, str) or not origin or any(char.isspace() or char == "+" for char in origin):
        raise _unverified("trust.json names no log (origin)")
    try:
        log_key = base64.b64decode(str(trust.get("log_key")), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _unverified("trust.json: log_key is not base64") from error
    if len(log_key) != LOG_KEY_BYTES:
        raise _unverified(f"trust.json: log_key has {len(log_key)} bytes, not {LOG_KEY_BYTES}")
    if not isinstance(keys, list) or not keys:
        raise _unverified("trust.json has no receipt_keys: no receipt could ever be believed")
    ledger = trust.get("ledger_keys", [])
    if not isinstance(ledger, list):
        raise _unverified("trust.json: ledger_keys is no list")
    for pem in (*keys, *ledger):
        _check_public(pem)
    try:
        authority = x509.load_pem_x509_certificate(str(trust.get("device_ca")).encode())
    except ValueError as error:
        raise _unverified("trust.json: device_ca is no PEM certificate") from error
    if not _is_authority(authority, root, Purpose.EVENT):
        raise _unverified("trust.json: device_ca does not lead to the pinned root")
    return authority


def _check_public(pem: object) -> None:
    try:
        key = load_pem_public_key(pem.encode()) if isinstance(pem, str) else None
    except ValueError as error:
        raise _unverified("trust.json holds a key that is no PEM public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _unverified("trust.json holds a key that is not P-256")


def check_uplink(uplink: Mapping[str, Any]) -> None:
    """Raises EnrolError unless it is empty (no broker yet) or names a broker."""
    if not uplink:
        return
    host, port, name = uplink.get("host"), uplink.get("port"), uplink.get("server_name", "")
    if not isinstance(host, str) or not host or not isinstance(name, str):
        raise _unverified("the broker's address that came is none")
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise _unverified("the broker's port that came is not 1 to 65535")


def _unverified(detail: str) -> EnrolError:
    return EnrolError(
        Exit.UNVERIFIED,
        detail,
        "nothing of it was kept; ask the administrator whether it is the right authority",
    )
