"""Issuing certificates: an offline root, one issuing authority for TLS, another for event keys. Pure.

A node has two key pairs. The **TLS key** opens connections; the **event key** signs segments. Neither can
stand in for the other: TLS certificates carry the key usages of TLS, event certificates carry
document signing (RFC 9336), and so do their issuing authorities, so that no TLS library takes an event
certificate for a client's, and `verify_event_certificate` takes no TLS certificate for a signer's.

All keys are P-256: what TLS stacks, TPMs and secure elements have in common. Times come from the caller.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, unique
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from provisioning.errors import IdentityError, ProvisioningError
from provisioning.identity import Identity, identity_of

DOCUMENT_SIGNING: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")
"""id-kp-documentSigning, RFC 9336 section 3."""
_SHA256: Final = hashes.SHA256()


@unique
class Purpose(Enum):
    """What the certificates of an issuing authority are for."""

    TLS = "tls"
    EVENT = "event"


_AUTHORITY_USAGES: Final = {
    Purpose.TLS: (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH),
    Purpose.EVENT: (DOCUMENT_SIGNING,),
}


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when, both time-zone aware. Raises ProvisioningError when it is empty or naive."""

    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        if self.not_before.tzinfo is None or self.not_after.tzinfo is None:
            raise ProvisioningError(
                "validity: times without a time zone mean different moments to different hosts"
            )
        if self.not_before >= self.not_after:
            raise ProvisioningError("validity: ends before it begins")


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def make_root(name: str, key: ec.EllipticCurvePrivateKey, validity: Validity) -> Authority:
    """A self-signed root. Its key belongs offline: it is used once for each issuing authority."""
    subject = _name(name)
    builder = _builder(subject, subject, key.public_key(), validity)
    builder = _as_authority(builder, key.public_key(), key.public_key(), path_length=1)
    return Authority(builder.sign(key, _SHA256), key)


def make_issuing(
    root: Authority, name: str, key: ec.EllipticCurvePrivateKey, purpose: Purpose, validity: Validity
) -> Authority:
    """An issuing authority below `root` that can certify for one purpose only."""
    builder = _builder(_name(name), root.certificate.subject, key.public_key(), validity)
    builder = _as_authority(builder, key.public_key(), root.key.public_key(), path_length=0)
    builder = builder.add_extension(x509.ExtendedKeyUsage(_AUTHORITY_USAGES[purpose]), critical=False)
    return Authority(builder.sign(root.key, _SHA256), key)


def issue_tls_client(
    authority: Authority, public: ec.EllipticCurvePublicKey, identity: Identity, validity: Validity
) -> x509.Certificate:
    """A TLS client certificate: `identity` may connect. Raises IdentityError for names that are too long."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.urn)]
    return _leaf(authority, public, identity.broker_name, names, ExtendedKeyUsageOID.CLIENT_AUTH, validity)


def issue_event(
    authority: Authority, public: ec.EllipticCurvePublicKey, identity: Identity, validity: Validity
) -> x509.Certificate:
    """An event certificate: segments of `identity` may be signed with this key."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.urn)]
    return _leaf(authority, public, identity.client_id, names, DOCUMENT_SIGNING, validity)


def issue_server(
    authority: Authority, public: ec.EllipticCurvePublicKey, hosts: Sequence[str], validity: Validity
) -> x509.Certificate:
    """A TLS server certificate for `hosts`, names or IP addresses. Raises ProvisioningError for none."""
    if not hosts:
        raise ProvisioningError("a server certificate needs at least one host name or address")
    return _leaf(
        authority, public, hosts[0], [_host(h) for h in hosts], ExtendedKeyUsageOID.SERVER_AUTH, validity
    )


def renew_issuing(root: Authority, authority: Authority, purpose: Purpose, until: datetime) -> Authority:
    """The same issuing authority, same key and beginning, valid `until` then.

    The key and the beginning stay so that everything it has ever issued still verifies. Raises
    ProvisioningError where `until` shortens it.
    """
    old = authority.certificate
    if until <= old.not_valid_after_utc:
        raise ProvisioningError("renewal must end after the certificate that it replaces")
    builder = _builder(
        old.subject, root.certificate.subject, authority.key.public_key(),
        Validity(old.not_valid_before_utc, until),
    )  # fmt: skip
    builder = _as_authority(builder, authority.key.public_key(), root.key.public_key(), path_length=0)
    builder = builder.add_extension(x509.ExtendedKeyUsage(_AUTHORITY_USAGES[purpose]), critical=False)
    return Authority(builder.sign(root.key, _SHA256), authority.key)


@dataclass(frozen=True, slots=True)
class Revoked:
    """One line of a revocation list."""

    serial: int
    at: datetime
    reason: x509.ReasonFlags


def make_crl(
    authority: Authority, revoked: Sequence[Revoked], number: int, validity: Validity
) -> x509.CertificateRevocationList:
    """The revocation list of `authority` (RFC 5280 section 5); `number` grows with every list."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(validity.not_before)
        .next_update(validity.not_after)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for one in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(one.serial).revocation_date(one.at)
        if one.reason is not x509.ReasonFlags.unspecified:  # RFC 5280 section 5.3.1: then it is left out
            entry = entry.add_extension(x509.CRLReason(one.reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(authority.key, _SHA256)


def check_authority(
    certificate: x509.Certificate, root: x509.Certificate, key: ec.EllipticCurvePrivateKey, purpose: Purpose
) -> None:
    """Raises IdentityError unless `certificate` is the issuing authority for `purpose` of this root and key.

    Catches files that were swapped: another authority's, the other purpose's, another key's.
    """
    try:
        certificate.verify_directly_issued_by(root)
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except InvalidSignature as error:
        raise IdentityError("it was not issued by this root") from error
    except (ValueError, TypeError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise IdentityError(f"it is no issuing authority of this root: {error}") from error
    if not basic.ca or list(usage) != list(_AUTHORITY_USAGES[purpose]):
        raise IdentityError(f"it is no authority for {purpose.value} certificates")
    if certificate.public_key() != key.public_key():
        raise IdentityError("its key is another one")


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, as people compare it: 16 groups of 4 hexadecimal digits."""
    text = certificate.fingerprint(_SHA256).hex()
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4))


def read_fingerprint(text: str) -> bytes:
    """The 32 bytes of a fingerprint in any grouping (spaces, colons, hyphens). Raises IdentityError."""
    packed = "".join(char for char in text if char not in " :-\t\n")
    try:
        found = bytes.fromhex(packed)
    except ValueError as error:
        raise IdentityError(
            "the fingerprint is not hexadecimal: copy the 64 digits that `ca code` showed"
        ) from error
    if len(found) != 32:
        raise IdentityError(f"a fingerprint has 64 hexadecimal digits, not {len(packed)}")
    return found


def verify_event_certificate(
    certificate: x509.Certificate, authority: x509.Certificate, at: datetime
) -> Identity:
    """Whose event key `certificate` certifies, as issued by `authority` and valid `at` that moment.

    Raises IdentityError when it was issued by somebody else, is for another purpose (a TLS certificate), is
    an authority itself, holds a key that is not P-256, is not valid then, or has a signature of no whole
    number of octets: a reader that ignores unused bits would take a changed certificate for the same one
    (an ECDSA-Sig-Value is DER, RFC 3279 section 2.2.3, so there are none).
    """
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise IdentityError("the event certificate was not issued by this authority") from error
    unused_bits = certificate.public_bytes(Encoding.DER)[-len(certificate.signature) - 1]
    if unused_bits:
        raise IdentityError("the event certificate was altered: its signature is no whole number of octets")
    for what, one in (("event certificate", certificate), ("authority", authority)):
        if not one.not_valid_before_utc <= at <= one.not_valid_after_utc:
            raise IdentityError(
                f"the {what} is valid {one.not_valid_before_utc} .. {one.not_valid_after_utc}"
            )
    try:
        extensions = certificate.extensions
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        is_authority = authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise IdentityError(f"not an event certificate: {error}") from error
    if list(usage) != [DOCUMENT_SIGNING] or basic.ca or not is_authority:
        raise IdentityError("not an event certificate: its key is for another purpose (the TLS key, perhaps)")
    public = certificate.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise IdentityError("not an event certificate: segments are signed with P-256 keys")
    return identity_of(certificate)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Holdfast"),
            x509.NameAttribute(NameOID.COMMON_NAME, common[:64]),
        ]
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, validity: Validity
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _with_key_ids(
    builder: x509.CertificateBuilder, own: ec.EllipticCurvePublicKey, issuer: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(own), critical=False
    ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)


def _as_authority(
    builder: x509.CertificateBuilder,
    own: ec.EllipticCurvePublicKey,
    issuer: ec.EllipticCurvePublicKey,
    path_length: int,
) -> x509.CertificateBuilder:
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return _with_key_ids(builder, own, issuer)


def _leaf(
    authority: Authority,
    public: ec.EllipticCurvePublicKey,
    common: str,
    names: Sequence[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    validity: Validity,
) -> x509.Certificate:
    builder = _builder(_name(common), authority.certificate.subject, public, validity)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _with_key_ids(builder, public, authority.key.public_key()).sign(authority.key, _SHA256)
