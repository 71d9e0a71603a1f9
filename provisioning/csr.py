"""Certificate requests: made on the device, judged by the authority. Pure.

A request (PKCS#10, RFC 2986) carries the device's own signature over its public key: the proof that whoever
asks holds the private key (RFC 7030 section 3.4 leaves it at that where TLS already says who asks). It
names one party: exactly one URI `urn:holdfast:<tenant>:<device>` as subject alternative name, or none and
the common name `<tenant>.<device>`. Everything else that a request may wish for is refused where it would
be dangerous (to be an authority) and ignored where not: the authority alone decides what it certifies.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from provisioning.errors import CsrError, IdentityError
from provisioning.identity import Identity, parse_urn

MAX_CSR_BYTES: Final = 4096
"""A request of ours has 230 to 330 bytes of DER; openssl's with a long subject stays below a thousand."""
_UNREADABLE: Final = (
    ValueError, TypeError, UnsupportedAlgorithm,
    x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
)  # fmt: skip
"""What the library raises for bytes that are no request."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request in order: who asks, for which key."""

    identity: Identity
    key: ec.EllipticCurvePublicKey
    key_hash: bytes
    """SHA-256 of the key's SubjectPublicKeyInfo: the same key again is the same question again."""


def make_csr(key: ec.EllipticCurvePrivateKey, identity: Identity) -> bytes:
    """The request (DER) of `identity` for a certificate over `key`, signed with it."""
    names = [x509.UniformResourceIdentifier(identity.urn)]
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.client_id[:64])]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def key_hash(key: ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 of the key's SubjectPublicKeyInfo."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def read_csr(der: bytes) -> Request:
    """The request in `der`. Raises CsrError that says what is wrong with it.

    Refused: larger than MAX_CSR_BYTES, trailing bytes, keys other than P-256, signatures other than ECDSA
    with SHA-256 or that do not verify, wishes to be an authority, and names that are not exactly one party.
    """
    if len(der) > MAX_CSR_BYTES:
        raise CsrError(f"the request has {len(der)} bytes, at most {MAX_CSR_BYTES} are taken")
    _check_length(der)
    try:
        csr = x509.load_der_x509_csr(der)
        key = csr.public_key()
        algorithm = csr.signature_hash_algorithm
        proven = csr.is_signature_valid
        extensions = csr.extensions
    except _UNREADABLE as error:
        raise CsrError(f"the request is no PKCS#10 request that can be read: {error}") from error
    except InvalidSignature as error:
        raise CsrError("the request is not signed with its own key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CsrError("the request is for another kind of key; only P-256 is certified")
    if not isinstance(algorithm, hashes.SHA256):
        raise CsrError("the request is signed with another hash than SHA-256")
    if not proven:
        raise CsrError("the request is not signed with its own key: nobody has proven to hold it")
    try:
        _check_wishes(extensions)
        return Request(_identity(csr, extensions), key, key_hash(key))
    except (IdentityError, ValueError) as error:
        raise CsrError(f"the request names nobody: {error}") from error


def _check_length(der: bytes) -> None:
    """One DER value from the first byte to the last: what follows would be read by some and not by others."""
    if len(der) < 4 or der[0] != 0x30:
        raise CsrError("the request is no PKCS#10 request: it is no DER sequence")
    size, head = der[1], 2
    if size & 0x80:
        count = size & 0x7F
        if not 1 <= count <= 2:
            raise CsrError("the request is no PKCS#10 request: its length cannot be read")
        size, head = int.from_bytes(der[2 : 2 + count], "big"), 2 + count
    if head + size != len(der):
        raise CsrError(
            f"the request says {head + size} bytes and has {len(der)}: send nothing before or after it"
        )


def _check_wishes(extensions: x509.Extensions) -> None:
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise CsrError("the request wishes to be an authority; no device is one")
        if isinstance(value, x509.KeyUsage) and (value.key_cert_sign or value.crl_sign):
            raise CsrError("the request wishes to sign certificates; no device does")


def _identity(csr: x509.CertificateSigningRequest, extensions: x509.Extensions) -> Identity:
    try:
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return _from_common_name(csr)
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise IdentityError(
            f"it has {len(names)} alternative names; exactly one, of kind URI, is an identity"
        )
    return parse_urn(names[0].value)


def _from_common_name(csr: x509.CertificateSigningRequest) -> Identity:
    common = csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(common) != 1 or not isinstance(common[0].value, str):
        raise IdentityError("it has no URI urn:holdfast:<tenant>:<device> and not exactly one common name")
    tenant, dot, device = common[0].value.partition(".")
    if not dot:
        raise IdentityError(f"the common name {common[0].value!r:.80} is not <tenant>.<device>")
    return Identity(tenant, device)
